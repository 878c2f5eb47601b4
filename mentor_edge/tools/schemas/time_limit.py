"""How long a check may take, in processor time.

A schema is accepted only if its size is bounded (`size`), but one that contains itself repeats work as often as the
arguments let it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 1.0
"""Processor time that one check may take: a busy machine must not change verdicts."""

_thread = threading.local()


class TooSlow(Exception):
    """A check took too long."""


@contextmanager
def limited(seconds: float | None = None) -> Iterator[None]:
    """Everything inside may take `seconds` together (`SECONDS`), as far as it asks `seconds_left`.

    Inside another, that one counts.

    It can also decorate a function.
    """
    if getattr(_thread, "deadline", None) is not None:
        yield
        return
    _thread.deadline = time.thread_time() + (SECONDS if seconds is None else seconds)
    try:
        yield
    finally:
        _thread.deadline = None


def seconds_left() -> float:
    """Processor time that is left. Raises: TooSlow when none is."""
    deadline = getattr(_thread, "deadline", None)
    left = SECONDS if deadline is None else deadline - time.thread_time()
    if left <= 0:
        raise TooSlow(f"they cannot be compared with the schema within {SECONDS:g} s")
    return left
