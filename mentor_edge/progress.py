"""The signature that all progress callbacks have."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, the units done and the total. The first call of a stage reports where it starts."""


def no_progress(stage: str, done: int, total: int) -> None:
    """The default: report nothing."""


def as_stage(progress: Progress, stage: str) -> Progress:
    """`progress` with another stage name: only the caller knows what a shared function works on."""
    return lambda _, done, total: progress(stage, done, total)
