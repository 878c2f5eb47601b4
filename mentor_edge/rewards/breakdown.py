"""`RewardBreakdown`, the result of a reward; and the rule for when a rollout counts as right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mentor_edge.messages import Trajectory
from mentor_edge.tasks.answers.judge import answers_equal
from mentor_edge.tasks.answers.passages import exact_match
from mentor_edge.tasks.types import Task


@dataclass(frozen=True, slots=True)
class RewardBreakdown:
    """A reward and its parts."""

    total: float
    """The reward."""
    correct: bool
    """Whether the answer is right."""
    tool_match: float = 0.0
    """The term for matching the teacher's tools, as added to `total`."""
    no_unknown_tool: float = 0.0
    """The term for calling no unknown tool, as added to `total`."""
    terminated: bool = True
    """Whether the model ended its turn."""
    reason: str = ""
    """Why the total is what it is, in a few words."""
    extra: float = 0.0
    """The sum of a user's own rewards, as added to `total`."""


class Reward(Protocol):
    """A pure function of a trajectory and its task that knows its highest possible total."""

    @property
    def maximum(self) -> float: ...
    def __call__(self, trajectory: Trajectory, task: Task) -> RewardBreakdown: ...


def is_correct(trajectory: Trajectory, task: Task) -> bool:
    """Whether the final answer is an accepted one. An answer counts only if the model ended its last turn.

    Answers to questions over passages (tasks with `gold_passages`) are compared as text, as their benchmarks do: see
    `mentor_edge.tasks.answers.passages`. `mentor_edge.tasks.answers.judge` compares all others.
    """
    given = trajectory.answer
    if given is None or not trajectory.terminated:
        return False
    if task.gold_passages:
        return exact_match(given, task.answers)
    return any(answers_equal(given, accepted) for accepted in task.answers)


def weight_mistakes(weights: dict[str, object]) -> list[str]:
    """One line for every weight that is not a number between -1e6 and 1e6."""
    return [
        f"{name}: expected a finite number, got {value!r}"
        for name, value in weights.items()
        if isinstance(value, bool) or not isinstance(value, int | float) or not -1e6 < value < 1e6
    ]
