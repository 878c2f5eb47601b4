"""The child's side of a runtime process: it answers requests, checks tokens and logits, and chooses tokens.

A runtime may end its process on a broken file or a failed assertion, so none runs in the main program. The parent is
`mentor_edge.engines.process.worker`; the messages on the pipes are in `mentor_edge.engines.process.frames`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from mentor_edge.engines.base import Generation
from mentor_edge.engines.process.frames import FrameError, read_frame, write_frame

PULSE = 1.0
"""Seconds between signs of life."""
_LESS_MEMORY = "use a shorter context or fewer conversations at once, or a machine with more memory"


class Refused(Exception):
    """The request cannot be served. The text is the reason, `hint` what to do. The process keeps running."""

    def __init__(self, problem: str, hint: str | None = None) -> None:
        super().__init__(problem)
        self.hint = hint


def serve(make_server: Callable[[Callable[[], None]], Any], operations: Collection[str]) -> None:
    """Answer requests from standard input until it ends. `operations` names the server's methods that may be called.

    `make_server` receives a function that long work must call from time to time, as a sign of life.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    # C code prints to descriptor 1. Replies therefore use a private descriptor, and 1 becomes a copy of stderr.
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
        except MemoryError:
            reply = {"error": "it takes more memory than this process may use", "hint": _LESS_MEMORY}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}", "hint": None}
        try:
            write_frame(replies, reply)
        except FrameError as error:
            write_frame(replies, {"error": str(error), "hint": "request less at once"})


def _end_with(parent: int) -> None:
    """Exit when the parent is gone: an operation that hangs would never notice that its input ended."""
    while os.getppid() == parent:
        time.sleep(PULSE)
    os._exit(1)


def _pulse(stream: IO[bytes]) -> Callable[[], None]:
    """A function that tells the parent that work continues, at most once per `PULSE`."""
    last = 0.0

    def alive() -> None:
        nonlocal last
        if time.monotonic() - last >= PULSE:
            last = time.monotonic()
            write_frame(stream, {"alive": True})

    return alive


@dataclass(frozen=True, slots=True)
class Ended:
    """Turns that have ended since the last reply."""

    rows: list[int]
    generations: list[Generation]
    more: bool
    """Whether other turns are still running."""


Turns = Iterator[tuple[int, Generation] | None]
"""Yields each row with its turn when the turn ends, and None from time to time."""


class TurnServer(ABC):
    """A server that generates the turns of its batch while the parent collects those that have ended."""

    def __init__(self) -> None:
        self._running: Turns = iter(())

    def begin(
        self,
        rows: Sequence[int],
        token_ids: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Append ids to conversations and start to generate a turn for each; `advance` returns the turns.

        A row whose context is full ends unfinished, possibly without any token.
        """
        self._running = self._turns(rows, token_ids, max_new_tokens, temperature, seed)

    def advance(self) -> Ended:
        """Continue until all turns have ended, or until one has and the parent has waited for `PULSE`."""
        started = time.monotonic()
        rows, generations = [], []
        for turn in self._running:
            if turn is not None:
                rows.append(turn[0])
                generations.append(turn[1])
            if rows and time.monotonic() - started >= PULSE:
                return Ended(rows, generations, more=True)
        return Ended(rows, generations, more=False)

    @abstractmethod
    def _turns(
        self,
        rows: Sequence[int],
        token_ids: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float,
        seed: int,
    ) -> Turns:
        """Generate the turns that `begin` asks for."""


def check_rows(rows: Sequence[int], size: int) -> None:
    """Raises: Refused unless `rows` are distinct rows of a batch of `size`."""
    if any(not 0 <= row < size for row in rows) or len(set(rows)) < len(rows):
        raise Refused(f"rows {list(rows)} are not distinct numbers below {size}")


def check_ids(ids: Sequence[int], vocabulary: int) -> None:
    """Raises: Refused unless `ids` are one or more tokens of the vocabulary. Runtimes do not reliably check this."""
    if not ids or not all(0 <= token < vocabulary for token in ids):
        raise Refused(f"token ids must be one or more numbers below {vocabulary}, got {list(ids)[:8]}")


def check_logits(logits: npt.NDArray[np.float32]) -> int:
    """The index of the largest of `[vocabulary]` logits. Raises: Refused when they are not finite."""
    best = int(logits.argmax())
    # argmax returns a NaN before any number, so checking this one value is enough.
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
    # The argmax of logits / T + Gumbel noise is a sample of softmax(logits / T).
    return int((logits / temperature + random.gumbel(size=len(logits))).argmax())
