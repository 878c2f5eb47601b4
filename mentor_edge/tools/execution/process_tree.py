"""Which process dies with which: what Linux offers against processes that outlive their purpose.

Where prctl is missing (macOS), the first two functions do nothing.
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
    """Have this process killed when its parent dies. `parent` is the parent's id, known before the fork.

    The kernel means the parent's *thread* that forked, so the parent has to be single-threaded.
    """
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel knew what to do then
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, daemons included. Not inherited by children."""
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def adopts_orphans() -> bool:
    """Whether this process has called `adopt_orphans`."""
    flag = ctypes.c_int(0)
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(flag), 0, 0, 0)
    return bool(flag.value)


def child_ids() -> frozenset[int]:
    """The children of this process, dead ones that nobody has waited for included."""
    return frozenset(child.pid for child in psutil.Process().children())


def kill_children(keep: Collection[int] = (), patience: float = 1.0) -> bool:
    """Kill all children of this process but `keep`, and what they leave to it, until there are none.

    False when some are left after `patience` seconds: a killed process may hang in the kernel for longer.
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
