"""Directories for the files of code that the model writes: bounded while it runs, and removed whatever is in them.

The process that runs a call may be killed at any time, so others remove what it left: the pool supervisor when the
worker has ended, and the caller when the supervisor has.
"""

from __future__ import annotations

import os
from contextlib import suppress

from mentor_edge.tools.execution.limits import CODE_FILES, CODE_TMP_BYTES

_DEPTH_LIMIT = 64
"""How deeply the code may nest its directories."""

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def excess(directory: str) -> str | None:
    """Which limit the files in `directory` exceed, for the model to read, or None. Links are not followed."""
    count = size = 0
    waiting = [(directory, 0)]
    while waiting:
        path, depth = waiting.pop()
        if depth > _DEPTH_LIMIT:
            return f"the code made directories nested more than {_DEPTH_LIMIT} deep"
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    count += 1
                    size += 512 * entry.stat(follow_symlinks=False).st_blocks
                    if count > CODE_FILES:
                        return f"the code made more than {CODE_FILES} files"
                    if size > CODE_TMP_BYTES:
                        return f"the code wrote files of more than {CODE_TMP_BYTES // 1024**2} MiB together"
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((entry.path, depth + 1))
        except FileNotFoundError:  # it has gone meanwhile
            continue
        except OSError as error:  # no permission, or a path that is too long
            return f"the code made a directory that cannot be read ({error.strerror})"
    return None


def remove_tree(directory: str) -> None:
    """Remove a directory, whatever permissions, links and depth its content has. What cannot be removed stays.

    It goes down and up by descriptors, two at a time: no path gets long, no link is followed, and nothing recurses.
    """
    with suppress(OSError):
        os.chmod(directory, 0o700)
        here = os.open(directory, _OPEN)
        try:
            names: list[str] = []
            left = [_without_files(here)]  # the directories in each one on the way from the top
            while names or left[-1]:
                if left[-1]:
                    name = left[-1].pop()
                    with suppress(OSError):
                        os.chmod(name, 0o700, dir_fd=here)
                        below = os.open(name, _OPEN, dir_fd=here)
                        os.close(here)
                        here = below
                        names.append(name)
                        left.append(_without_files(here))
                else:
                    left.pop()
                    above = os.open("..", _OPEN, dir_fd=here)
                    os.close(here)
                    here = above
                    with suppress(OSError):
                        os.rmdir(names.pop(), dir_fd=here)
        finally:
            os.close(here)
        os.rmdir(directory)


def _without_files(directory: int) -> list[str]:
    """Remove what is not a directory, and return the names of the rest."""
    inside = []
    with os.scandir(directory) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                inside.append(entry.name)
            else:
                with suppress(OSError):
                    os.unlink(entry.name, dir_fd=directory)
    return inside
