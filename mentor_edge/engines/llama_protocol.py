"""What the llama.cpp child process and its parent share: the frames on their pipes, and the child's limits."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

# llama.h, enum llama_ftype: the kinds that need no importance matrix and that the gguf package can read back.
FTYPES = {"f16": 1, "q8_0": 7, "q2_k": 10, "q3_k_m": 12, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}

KV_LIMIT = 4 << 30  # bytes of all sequences' caches together, at most half of the machine's memory
HEADROOM = 8 << 30  # address space beyond the weights: caches, compute buffers, logits, libraries
PULSE = 1.0  # seconds between signs of life


def read_frame(stream: IO[bytes]) -> Any:
    """The next JSON value of a pipe, or None when the other side is gone."""
    header = stream.read(8)
    if len(header) < 8:
        return None
    length = int.from_bytes(header, "little")
    body = stream.read(length)
    return json.loads(body) if len(body) == length else None


def write_frame(stream: IO[bytes], value: Any) -> None:
    """Send a JSON value: 8 bytes of length, little-endian, then the text. Raises: BrokenPipeError."""
    body = json.dumps(value).encode()
    stream.write(len(body).to_bytes(8, "little") + body)
    stream.flush()


def pulse(stream: IO[bytes]) -> Callable[[], None]:
    """A function that tells the parent that work goes on, at most once per `PULSE`."""
    last = 0.0

    def alive() -> None:
        nonlocal last
        if time.monotonic() - last >= PULSE:
            last = time.monotonic()
            write_frame(stream, {"alive": True})

    return alive


def limit_process(path: Path) -> None:
    """Make allocations beyond what a file of this size can need fail here, instead of in the whole machine."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    # Three times the file: mapped, repacked for the processor, and as much again while it is quantized.
    wanted = path.stat().st_size * 3 + HEADROOM
    # macOS does not know this limit.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    # A crash must not write gigabytes of memory to the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def kv_budget() -> int:
    """Bytes that the caches of all sequences may take together."""
    try:
        return min(KV_LIMIT, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    except (AttributeError, ValueError, OSError):
        return KV_LIMIT
