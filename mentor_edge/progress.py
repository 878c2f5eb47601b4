"""The one shape of a progress callback."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, the units done and the units in all; the first call of a stage has its start."""


def no_progress(stage: str, done: int, total: int) -> None:
    """The default: report nothing."""


def as_stage(progress: Progress, stage: str) -> Progress:
    """`progress` under another name: a caller knows better than a shared function what its stage is called."""
    return lambda _, done, total: progress(stage, done, total)
