"""What the child processes of all runtimes share: answering requests, limits, checks, the choice of a token.

A runtime may end its process on a broken file or a failed assertion, so none ever runs in ours. The parent's side is
`mentor_edge.engines.worker`, what goes over the pipes is in `mentor_edge.engines.frames`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Sequence
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from mentor_edge.engines.frames import read_frame, write_frame

KV_LIMIT = 4 << 30  # bytes of all sequences' caches together, at most half of the machine's memory
HEADROOM = 8 << 30  # address space beyond the weights: caches, compute buffers, logits, libraries
PULSE = 1.0  # seconds between signs of life


class Refused(Exception):
    """The request cannot be served; the text says why, `hint` what to do, and the process lives on."""

    def __init__(self, problem: str, hint: str | None = None) -> None:
        super().__init__(problem)
        self.hint = hint


def serve(make_server: Callable[[Callable[[], None]], Any], operations: Collection[str]) -> None:
    """Answer requests from standard input until it ends, with the server's methods named in `operations`.

    `make_server` gets a function to call while long work goes on.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # C code prints to descriptor 1: the replies get a private one, and its place is taken by stderr.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    server = make_server(_pulse(replies))
    while (request := read_frame(sys.stdin.buffer)) is not None:
        operation = request.pop("op")
        try:
            if operation not in operations:
                raise Refused(f"no such operation: {operation!r}")
            reply = {"result": getattr(server, operation)(**request)}
        except Refused as error:
            reply = {"error": str(error), "hint": error.hint}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}", "hint": None}
        write_frame(replies, reply)


def _pulse(stream: IO[bytes]) -> Callable[[], None]:
    """A function that tells the parent that work goes on, at most once per `PULSE`."""
    last = 0.0

    def alive() -> None:
        nonlocal last
        if time.monotonic() - last >= PULSE:
            last = time.monotonic()
            write_frame(stream, {"alive": True})

    return alive


def limit_process(size: int) -> None:
    """Make allocations beyond what a model of `size` bytes can need fail here, instead of in the whole machine."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    # Three times the file: mapped, repacked for the processor, and as much again while it is quantized.
    wanted = size * 3 + HEADROOM
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


def check_rows(rows: Sequence[int], size: int) -> None:
    """Raises: Refused unless `rows` are distinct rows of a batch of `size`."""
    if any(not 0 <= row < size for row in rows) or len(set(rows)) < len(rows):
        raise Refused(f"rows {list(rows)} are not distinct numbers below {size}")


def check_ids(ids: Sequence[int], vocabulary: int) -> None:
    """Raises: Refused unless `ids` are one or more tokens of the vocabulary. No runtime can be trusted to look."""
    if not ids or not all(0 <= token < vocabulary for token in ids):
        raise Refused(f"token ids must be one or more numbers below {vocabulary}, got {list(ids)[:8]}")


def check_logits(logits: npt.NDArray[np.float32]) -> int:
    """The place of the largest one. Raises: Refused when they are not finite."""
    best = int(logits.argmax())
    # argmax finds a NaN before any number, so one look tells whether the logits are sound.
    if not np.isfinite(logits[best]):
        raise Refused("the logits are not finite: the weights are damaged", "export the model again")
    return best


def choose_token(logits: npt.NDArray[np.float32], temperature: float, random: np.random.Generator) -> int:
    """The likeliest token of `[vocabulary]` logits at temperature 0, else a sample.

    Raises: Refused when the logits are not finite.
    """
    best = check_logits(logits)
    if temperature == 0:
        return best
    # The largest of logits / T + Gumbel noise is a sample of softmax(logits / T).
    return int((logits / temperature + random.gumbel(size=len(logits))).argmax())
