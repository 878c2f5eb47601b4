"""Writing files atomically (they are complete or do not exist), and hashing them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mentor_edge.errors import MentorEdgeError, OutputError

_FULL_BELOW = 256 * 1024
"""Free bytes below which a disk counts as full."""


def _disk_is_full(path: Path, error: Exception) -> bool:
    """Whether writing failed because the disk is full.

    Native libraries report that each in their own way, or not at all, so the free space counts too.
    """
    if "No space left" in str(error) or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
        return True
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    return shutil.disk_usage(existing).free < _FULL_BELOW


@contextmanager
def explained_write_errors(path: Path) -> Iterator[None]:
    """Turn the many exceptions of libraries that cannot write `path` into one clear error.

    Raises: OutputError for a full disk and for any OSError; other exceptions pass.
    """
    try:
        yield
    except MentorEdgeError:
        raise
    except Exception as error:
        if _disk_is_full(path, error):
            reason = "No space left on device"
        elif isinstance(error, OSError):
            reason = error.strerror or str(error)
        else:
            raise
        raise OutputError(
            f"cannot write {path}: {reason}", "free some space or choose another output directory"
        ) from error


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it on success and removed on any failure.

    Raises: OutputError when the disk is full or the directory cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with explained_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
    finally:
        with suppress(OSError):  # such as a parent that is not a directory: then there is nothing to remove
            temporary.unlink(missing_ok=True)


def require_new(path: Path) -> None:
    """Refuse an output directory that exists. Work of minutes should not begin before this.

    Raises: OutputError.
    """
    if path.exists():
        what = "directory" if path.is_dir() else "path"
        raise OutputError(f"the output {what} {path} exists already", "choose another one or remove it")


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A temporary directory beside `path`, renamed to it on success and removed on any failure.

    Temporary directories that killed processes left for the same path are removed too.

    Raises: OutputError when `path` exists already, the disk is full, or the parent cannot be written.
    """
    require_new(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with explained_write_errors(path):
            _remove_leftovers(path)
            temporary.mkdir(parents=True)
            yield temporary
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_leftovers(path: Path) -> None:
    import psutil  # imported late: nothing else that `import mentor_edge` loads needs it

    begin, end = f".{path.name}.", ".partial"
    for leftover in path.parent.iterdir() if path.parent.is_dir() else ():
        process = leftover.name.removeprefix(begin).removesuffix(end)
        if leftover.name == f"{begin}{process}{end}" and process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(leftover, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically. Raises: OutputError."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value per line, atomically. Raises: OutputError."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def files_below(
    directory: Path, unreadable: Callable[[Path, OSError], None] | None = None, *, links: bool = False
) -> Iterator[Path]:
    """The regular files in a directory and its subdirectories, and those that links lead to. Links to directories are
    not followed.

    Args:
        directory: The directory. If it is missing, it has no files.
        unreadable: Called with each directory that cannot be read; without it, such directories are left out.
        links: Yield everything that is not a directory: also links to directories, pipes, and links that lead nowhere.
    """
    pending = [directory]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
            folders = {entry.path for entry in found if entry.is_dir(follow_symlinks=False)}
            files = [entry.path for entry in found if entry.path not in folders and (links or entry.is_file())]
        except OSError as error:
            if unreadable is not None:
                unreadable(folder, error)
            continue
        yield from map(Path, files)
        pending += map(Path, folders)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_directory() -> Path:
    """The directory for files that can be recreated.

    It is `$MENTOR_EDGE_CACHE`, else `mentor-edge` in `$XDG_CACHE_HOME` or `~/.cache`.

    Raises: OutputError when none of them is set and the user has no home directory.
    """
    if chosen := os.environ.get("MENTOR_EDGE_CACHE"):
        return Path(chosen)
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "mentor-edge"
    try:
        return Path.home() / ".cache" / "mentor-edge"
    except RuntimeError as error:
        raise OutputError(
            "this user has no home directory for the cache", "set MENTOR_EDGE_CACHE to a directory"
        ) from error
