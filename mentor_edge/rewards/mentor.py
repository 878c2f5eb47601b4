"""MENTOR's reward (arXiv 2510.18383, as in its released code), on structured messages."""

from __future__ import annotations

from dataclasses import dataclass

from mentor_edge.messages import Trajectory
from mentor_edge.tasks.answers import answers_equal
from mentor_edge.tasks.types import Task


@dataclass(frozen=True, slots=True)
class RewardBreakdown:
    """A reward and its parts. `tool_match` and `no_unknown_tool` are the terms as added to `total`."""

    total: float
    correct: bool
    tool_match: float = 0.0
    no_unknown_tool: float = 0.0
    terminated: bool = True
    reason: str = ""


def is_correct(trajectory: Trajectory, task: Task) -> bool:
    """Whether the final answer is the accepted one. An answer counts only when the model closed its last turn."""
    return (
        trajectory.terminated
        and trajectory.answer is not None
        and task.answer is not None
        and answers_equal(trajectory.answer, task.answer)
    )


@dataclass(frozen=True, slots=True)
class MentorReward:
    """0 without end of turn, 0.1 without an answer, else
    `0.7 correct + tool_match (1 if correct else 0.2) + 0.1 (no unknown tool called)`,
    with `tool_match = 0.3` when the set of known tools used equals the set the teacher used. The maximum is 1.1.
    """

    correct: float = 0.7
    tool_match: float = 0.3
    no_unknown_tool: float = 0.1
    wrong_scale: float = 0.2
    unanswered: float = 0.1

    @property
    def maximum(self) -> float:
        return self.correct + self.tool_match + self.no_unknown_tool

    def __call__(self, trajectory: Trajectory, task: Task) -> RewardBreakdown:
        """Score one rollout. Never raises; a task without a reference matches rollouts without calls."""
        if not trajectory.terminated:
            return RewardBreakdown(0.0, correct=False, terminated=False, reason=str(trajectory.ending))
        if trajectory.answer is None:
            return RewardBreakdown(self.unanswered, correct=False, reason="no final answer")
        correct = is_correct(trajectory, task)
        teacher_tools = task.reference.tools_used if task.reference is not None else frozenset()
        # Unknown tools cost their own term and are no part of the match, as in the released code.
        known_tools = trajectory.tools_used & task.tools_by_name.keys()
        matched = self.tool_match if known_tools == teacher_tools else 0.0
        matched *= 1.0 if correct else self.wrong_scale
        no_unknown = self.no_unknown_tool if known_tools == trajectory.tools_used else 0.0
        total = (self.correct if correct else 0.0) + matched + no_unknown
        return RewardBreakdown(total, correct, matched, no_unknown, reason="right" if correct else "wrong answer")
