"""The signature that all progress callbacks have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, the units done and the total. The first call of a stage reports where it starts."""


def no_progress(stage: str, done: int, total: int) -> None:
    """The default: report nothing."""


def as_stage(progress: Progress, stage: str) -> Progress:
    """`progress` with another stage name: only the caller knows what a shared function works on."""
    return lambda _, done, total: progress(stage, done, total)


@contextmanager
def announced(progress: Progress, stage: str) -> Iterator[None]:
    """Report what takes long and has no units, such as loading a model: a stage with one."""
    progress(stage, 0, 1)
    yield
    progress(stage, 1, 1)
