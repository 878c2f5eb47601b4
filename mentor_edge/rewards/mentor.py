"""MENTOR's reward and its ablations (arXiv 2510.18383, as in the released code), on structured messages."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from mentor_edge.errors import ConfigError
from mentor_edge.messages import Trajectory
from mentor_edge.rewards.breakdown import RewardBreakdown, is_correct, weight_mistakes
from mentor_edge.rewards.matching import MATCHINGS, Matching, match
from mentor_edge.tasks.types import Task


@dataclass(frozen=True, slots=True)
class MentorReward:
    """The reward of one rollout, with the weights below:

        0.0 if not terminated
        else unanswered if not answered
        else correct * right
             + tool_match * match * (1 if right else wrong_scale)
             + no_unknown_tool * known

    `right` is 1 if the answer is an accepted one. `match`, from 0 to 1, is how well the calls match the teacher's,
    measured by `matching`; of several references, the best counts. `known` is 1 if every tool called was offered. As in
    the released code, "overlap" has no term for unknown tools. The paper's reward is `MentorReward()`; its maximum is
    1.1.

    `bonus_needs_call`: pay the term for unknown tools only to rollouts that called a tool. The released code also pays
    it for doing nothing. If the teacher called nothing, doing nothing still earns it.

    Raises: ConfigError that lists an unknown matching and all weights that are not finite numbers.
    """

    matching: Matching = "set"
    correct: float = 0.7
    tool_match: float = 0.3
    no_unknown_tool: float = 0.1
    wrong_scale: float = 0.2
    unanswered: float = 0.1
    bonus_needs_call: bool = False

    def __post_init__(self) -> None:
        values = asdict(self)
        problems = []
        if self.matching not in MATCHINGS:
            problems.append(f"matching: {self.matching!r} is unknown (known: {', '.join(MATCHINGS)})")
        del values["matching"]
        if not isinstance(values.pop("bonus_needs_call"), bool):
            problems.append(f"bonus_needs_call: expected true or false, got {self.bonus_needs_call!r}")
        problems += weight_mistakes(values)
        if problems:
            raise ConfigError(problems)

    @property
    def maximum(self) -> float:
        """The score of the reference itself, or `unanswered` if that is more."""
        matched = 0.0 if self.matching == "none" else self.tool_match
        reference_score = self.correct + matched + (0.0 if self.matching == "overlap" else self.no_unknown_tool)
        return max(reference_score, self.unanswered)

    def __call__(self, trajectory: Trajectory, task: Task) -> RewardBreakdown:
        """Score one rollout. Never raises. If matching needs a reference and the task has none, the rollout scores as
        unanswered; recipes refuse such tasks before training.
        """
        if not trajectory.terminated:
            return RewardBreakdown(0.0, correct=False, terminated=False, reason=str(trajectory.ending))
        if trajectory.answer is None:
            return RewardBreakdown(self.unanswered, correct=False, reason="no final answer")
        references = task.references
        if not references and self.matching != "none":
            return RewardBreakdown(self.unanswered, correct=False, reason="the task has no reference")
        correct = is_correct(trajectory, task)
        known = task.tools_by_name.keys()
        calls = trajectory.calls
        best = max((match(self.matching, calls, reference.calls, known) for reference in references), default=0.0)
        matched = self.tool_match * best * (1.0 if correct else self.wrong_scale)
        no_unknown = self.no_unknown_tool if self._earns_bonus(trajectory, task) else 0.0
        total = (self.correct if correct else 0.0) + matched + no_unknown
        return RewardBreakdown(total, correct, matched, no_unknown, reason="right" if correct else "wrong answer")

    def _earns_bonus(self, trajectory: Trajectory, task: Task) -> bool:
        if self.matching == "overlap" or not trajectory.tools_used <= task.tools_by_name.keys():
            return False
        if not self.bonus_needs_call or trajectory.calls:
            return True
        return any(not reference.calls for reference in task.references)
