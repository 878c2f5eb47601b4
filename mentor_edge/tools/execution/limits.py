"""The limits of tool calls and of the processes that run them."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from dataclasses import dataclass

import psutil

from mentor_edge.tools.python_runner import set_limits

CODE_FILE_BYTES = 1024**2
CODE_TMP_BYTES = 64 * 1024**2
CODE_FILES = 2_000
CODE_OPEN_FILES = 64
CODE_PROCESSES = 64
CODE_CPU_SECONDS = 600
"""A back-stop for a process that escapes everything else. The time limit of the call is what normally ends it."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What one tool call may use."""

    seconds: float
    """Wall seconds, counted from the moment when a worker takes the call."""
    output_characters: int
    """Characters of the result, and separately of printed text."""
    memory_bytes: int
    """Address space that a worker may allocate beyond what it starts with."""


def limit_worker(memory_bytes: int) -> None:
    """Limit this process, a tool worker, to `memory_bytes` more address space than it has now."""
    with open("/proc/self/statm") as statm:  # the fork inherited the caller's address space
        used = int(statm.read().split()[0]) * resource.getpagesize()
    set_limits({"AS": used + memory_bytes, "CORE": 0})  # a crash must not write the caller's memory to the disk


def code_limits(memory_bytes: int, *, own_user_namespace: bool) -> dict[str, int]:
    """The limits of each process that runs code written by the model, by their names in the `resource` module.

    The kernel counts processes per user. In a user namespace of its own the count starts at zero; otherwise the limit
    is added to what the user runs already.
    """
    return {
        "AS": memory_bytes,
        "CORE": 0,
        "CPU": CODE_CPU_SECONDS,
        "FSIZE": CODE_FILE_BYTES,
        "NOFILE": CODE_OPEN_FILES,
        "NPROC": CODE_PROCESSES if own_user_namespace else CODE_PROCESSES + _threads_of_this_user(),
    }


def _threads_of_this_user() -> int:
    """What RLIMIT_NPROC counts: the threads of all processes of this user."""
    count = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            count += process.num_threads() if process.uids().real == os.getuid() else 0
    return count
