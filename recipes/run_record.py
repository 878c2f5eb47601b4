"""What run.json contains."""

from __future__ import annotations

import pydantic

from mentor_edge.dequantized import Dequantized
from mentor_edge.template_record import TemplateRecord

from .schedule import Coverage


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class TaskCounts(_Record):
    """What a run was trained on."""

    suite: str
    """The suite's name."""
    sha256: str
    """The hash of the suite's prompts, tools and accepted answers (`Suite.sha256`)."""
    used: int
    """Tasks that were trained on."""
    rejected: int
    """Tasks left out because no reference passed validation; rejected.jsonl has the reasons."""


class Training(_Record):
    """What a training did."""

    steps: int
    """Updates of the adapter."""
    planned: int
    """Updates that the recipe asks for."""
    solved: bool = False
    """Whether every rollout of the last step earned the maximum. GRPO learns nothing from that, and stops early."""
    coverage: Coverage
    """How the steps used the tasks."""

    @property
    def finished(self) -> bool:
        """Whether the training took all its steps, or stopped early because everything was solved."""
        return self.steps >= self.planned or (self.solved and self.steps > 0)


class RunVersion(pydantic.BaseModel):
    """What run.json has in every version."""

    version: int


class RunRecord(_Record):
    """run.json."""

    version: int
    recipe: str
    student: str
    seed: int
    tasks: TaskCounts
    seconds: float
    base_identity: str | None = None
    training: Training | None = None
    template: TemplateRecord | None = None
    dequantized: Dequantized | None = None
