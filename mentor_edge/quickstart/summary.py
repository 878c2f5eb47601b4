"""The quickstart's summary.json."""

from __future__ import annotations

from typing import Any

from mentor_edge.evaluation.summary import Counts
from mentor_edge.results import ModelSummary, PairedDifference, Result, SuiteRecord


class Accuracy(Result):
    """Right answers of one student: in domain, and out of domain by domain."""

    id: Counts
    """In domain."""
    ood: dict[str, Counts]
    """Out of domain, by domain."""


class Lift(Result):
    """The paired change of a trained student against its base, over the out-of-domain domains it can do at all."""

    domains: tuple[str, ...]
    """The domains that are pooled."""
    n: int
    """Tasks."""
    delta: float
    """Change of accuracy, as a proportion."""
    ci: tuple[float, float]
    """Its 95 % interval."""
    lost: int
    """Tasks that only the base solves."""
    gained: int
    """Tasks that only the trained student solves."""

    @classmethod
    def of(cls, domains: tuple[str, ...], difference: PairedDifference) -> Lift:
        """The lift with the figures of a paired difference."""
        return cls(
            domains=domains,
            n=difference.n,
            delta=difference.delta,
            ci=(difference.low, difference.high),
            lost=difference.lost,
            gained=difference.gained,
        )


class Student(Result):
    """The embedded student."""

    parameters: int
    """Number of weights."""


class Traces(Result):
    """The teacher's trajectories."""

    n: int
    """How many there are."""
    noise: str
    """The teacher's noise: clean, mild or heavy."""
    calls_per_trace: float
    """Mean number of tool calls."""


class TrainingStep(Result):
    """One optimizer step of the MENTOR training."""

    step: int
    """Number of the step."""
    reward: float
    """Mean reward of the rollouts."""
    accuracy: float
    """Share of rollouts with the right answer."""
    zero_variance_groups: int
    """Groups whose rollouts all got the same reward."""


class Training(Result):
    """The training log."""

    mentor: tuple[TrainingStep, ...]
    """The steps of the MENTOR training."""


class Conversation(Result):
    """One conversation with the first exported file."""

    file: str
    """The file, relative to the quickstart's directory."""
    tools: tuple[str, ...]
    """Names of the tools offered."""
    question: str
    """What was asked."""
    messages: tuple[dict[str, Any], ...]
    """Everything after the question, in OpenAI's chat format."""
    answer: str | None
    """The final answer, None if there is none."""
    expected: str | None
    """The accepted answer."""


class Settings(Result):
    """The options that a quickstart was started with."""

    smoke: bool
    """Whether every stage ran a few steps only."""
    seed: int
    """The seed of everything random."""
    teacher_noise: str
    """The teacher's noise: clean, mild or heavy."""


class QuickstartSummary(Result):
    """Everything that a quickstart measured."""

    seed: int
    """The seed of everything random."""
    seconds: dict[str, float]
    """Wall-clock seconds by stage, and in "total"."""
    student: Student
    """The embedded student."""
    traces: Traces
    """The teacher's trajectories."""
    suite: SuiteRecord
    """The evaluation suite."""
    overlap: str
    """How much the training and evaluation tasks share, in one sentence."""
    accuracy: dict[str, Accuracy]
    """Right answers of "base", "sft" and "mentor"."""
    lift: dict[str, Lift]
    """The change of "sft" and "mentor" against the base."""
    training: Training
    """The training log."""
    artifacts: tuple[ModelSummary, ...]
    """The exported models."""
    conversation: Conversation
    """One conversation with the first exported file."""
    settings: Settings
    """The options of the command."""
