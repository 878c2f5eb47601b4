"""Running an attack in a child process that ends by itself, however the attack ends."""

from __future__ import annotations

import os
import pickle
import resource
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEMORY = 2**30
"""Bytes that an attack may take beyond what the process has."""


@dataclass(frozen=True)
class Contained:
    """How an attack ended."""

    value: Any
    """What the function returned; None if it raised or ended with the process."""
    error: BaseException | str | None
    """What it raised; "killed" if it did not end in time or died."""
    seconds: float


def contained(function: Callable[[], Any], seconds: float = 10.0, memory: int = MEMORY) -> Contained:
    """Run a function in a fork, with limits of time and of memory beyond what this process has."""
    reader, writer = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reader)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
        os.write(writer, _outcome(function))
        os._exit(0)
    os.close(writer)
    content = b""
    try:
        while (left := started + seconds - time.monotonic()) > 0 and select.select([reader], [], [], left)[0]:
            if not (part := os.read(reader, 65536)):
                break
            content += part
        took = time.monotonic() - started
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    value, error = pickle.loads(content) if content else (None, "killed")
    return Contained(value, error, took)


def _outcome(function: Callable[[], Any]) -> bytes:
    try:
        return pickle.dumps((function(), None))
    except BaseException as error:
        try:
            return pickle.dumps((None, error))
        except Exception:
            return pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}")))
