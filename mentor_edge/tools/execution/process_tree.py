"""Ending processes together: what Linux offers so that no process outlives its purpose.

On systems without prctl (macOS), `die_with_parent` and `adopt_orphans` have no effect.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Collection
from contextlib import suppress

import psutil

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 1, 36, 37  # linux/prctl.h
_LIBC = ctypes.CDLL(None)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies. `parent` is the parent's id, read before the fork.

    The kernel watches the parent's *thread* that forked, so the parent must be single-threaded.
    """
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call above
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, daemons included. Children do not inherit this."""
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def adopts_orphans() -> bool:
    """Whether this process has called `adopt_orphans`."""
    flag = ctypes.c_int(0)
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(flag), 0, 0, 0)
    return bool(flag.value)


def child_ids() -> frozenset[int]:
    """The process ids of this process's children, including zombies."""
    return frozenset(child.pid for child in psutil.Process().children())


def kill_children(keep: Collection[int] = (), patience: float = 1.0) -> bool:
    """Kill all children of this process except `keep`, and the orphans it adopts from them, until none is left.

    Returns False when some are left after `patience` seconds: the kernel may take longer to end a killed process.
    """
    deadline = time.monotonic() + patience
    while strays := child_ids() - set(keep):
        for stray in strays:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(stray, signal.SIGKILL)
        for stray in strays:
            with suppress(ChildProcessError):
                os.waitpid(stray, os.WNOHANG)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True
