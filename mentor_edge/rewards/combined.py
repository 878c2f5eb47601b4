"""A reward plus a user's own functions, each with a weight."""

from __future__ import annotations

import inspect
import math
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from mentor_edge.errors import ConfigError, RewardError
from mentor_edge.imports import import_object
from mentor_edge.messages import Trajectory
from mentor_edge.rewards.breakdown import Reward, RewardBreakdown, weight_mistakes
from mentor_edge.tasks.types import Task

RewardFunction = Callable[[Trajectory, Task], float]
"""A user's own reward: a plain function of the rollout and its task. Keep its values between 0 and 1 if you can."""


@dataclass(frozen=True)
class CombinedReward:
    """`base` plus weight x function for every extra: `CombinedReward(MentorReward(), [(brevity, 0.1)])`.

    Raises: ConfigError that lists all weights that are not finite numbers.
    """

    base: Reward
    extras: Sequence[tuple[RewardFunction, float]]

    def __post_init__(self) -> None:
        problems = [line for function, weight in self.extras for line in weight_mistakes({_name(function): weight})]
        if problems:
            raise ConfigError(problems)

    @property
    def maximum(self) -> float:
        """The maximum of the base: that of a user's function is not known."""
        return self.base.maximum

    def __call__(self, trajectory: Trajectory, task: Task) -> RewardBreakdown:
        """Score one rollout.

        Raises: RewardError when a user's function raises or does not return a finite number. Scoring 0 instead would
        hide the defect for the whole training.
        """
        breakdown = self.base(trajectory, task)
        extra = sum(weight * _value(function, trajectory, task) for function, weight in self.extras)
        return replace(breakdown, total=breakdown.total + extra, extra=extra)


def _name(function: RewardFunction) -> str:
    return getattr(function, "__qualname__", repr(function))


def _value(function: RewardFunction, trajectory: Trajectory, task: Task) -> float:
    name = _name(function)
    try:
        value: Any = function(trajectory, task)
    except Exception as error:
        raise RewardError(
            f"the reward function {name} raised {type(error).__name__} on task {task.id}: {error}",
            "fix the function, then continue from the last checkpoint with --resume",
        ) from error
    try:
        number = float(value) if isinstance(value, Real) else math.nan  # includes NumPy's numbers
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        shown = reprlib.repr(value)
        raise RewardError(
            f"the reward function {name} returned {shown} for task {task.id}", "it must return a finite number"
        )
    return number


def reward_function(path: str) -> RewardFunction:
    """Import a function by its dotted path, "package.module.function". The working directory is searched, too.

    Raises: ConfigError when the module or function does not exist, or it does not take (trajectory, task).
    """
    try:
        function: RewardFunction = import_object(path)
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    try:
        inspect.signature(function).bind(None, None)
    except (TypeError, ValueError) as error:
        raise ConfigError([f"{path} cannot be called with (trajectory, task): {error}"]) from error
    return function
