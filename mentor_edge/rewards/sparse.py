"""The sparse baseline of the released code: only the final answer counts, the teacher's tools do not."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from mentor_edge.errors import ConfigError
from mentor_edge.messages import Trajectory
from mentor_edge.rewards.breakdown import RewardBreakdown, is_correct, weight_mistakes
from mentor_edge.tasks.types import Task


@dataclass(frozen=True, slots=True)
class SparseReward:
    """1.0 for the right answer, 0.1 for a wrong one or none, 0 if the model did not end its turn.

    Raises: ConfigError that lists all weights that are not finite numbers.
    """

    correct: float = 1.0
    wrong: float = 0.1

    def __post_init__(self) -> None:
        if problems := weight_mistakes(asdict(self)):
            raise ConfigError(problems)

    @property
    def maximum(self) -> float:
        return max(self.correct, self.wrong)

    def __call__(self, trajectory: Trajectory, task: Task) -> RewardBreakdown:
        """Score one rollout. Never raises; needs no reference."""
        if not trajectory.terminated:
            return RewardBreakdown(0.0, correct=False, terminated=False, reason=str(trajectory.ending))
        if trajectory.answer is None:
            return RewardBreakdown(self.wrong, correct=False, reason="no final answer")
        if is_correct(trajectory, task):
            return RewardBreakdown(self.correct, correct=True, reason="right")
        return RewardBreakdown(self.wrong, correct=False, reason="wrong answer")
