"""Which tasks the steps of a training take, so that all of them take part equally."""

from __future__ import annotations

import pydantic


class Coverage(pydantic.BaseModel):
    """How a training's steps use what there is to train on."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    unit: str
    """What a step takes: "tasks" or "references"."""
    available: int
    """How many there are."""
    per_step: int
    """How many a step is configured to take."""
    steps: int
    """Steps of the whole training."""

    @property
    def used(self) -> int:
        """How many take part in at least one step."""
        return min(self.available, self.per_step * self.steps)

    def note(self) -> str | None:
        """What a user should know about it, or None if every step is full and everything takes part."""
        if self.used < self.available:
            steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
            return (
                f"{steps} of {self.per_step} {self.unit} use {self.used} of the {self.available} {self.unit}; the "
                "others never take part"
            )
        if self.available >= self.per_step:
            return None
        if self.unit == "references":
            return f"each step trains on all {self.available} references, fewer than the {self.per_step} of a batch"
        low, more = divmod(self.per_step * self.steps, self.available)
        times = f"{low} or {low + 1}" if more else f"{low}"
        return (
            f"{self.available} tasks are fewer than the {self.per_step} prompts of a step, so they are repeated: each "
            f"takes part {times} times"
        )


def prompt_order(coverage: Coverage, seed: int) -> list[int]:
    """The index of the task of every prompt in the training, step after step.

    Shuffled passes over all tasks follow each other without a gap. So any two tasks take part equally often, or differ
    by one, whatever their number. TRL's own sampler starts a new pass when too few tasks are left to fill a step, and
    with fewer tasks than a step needs it yields nothing (huggingface/trl#3477).

    Args:
        coverage: The number of tasks, and how many a step takes.
        seed: Seeds the shuffling.

    Returns:
        `per_step` x `steps` indices.
    """
    import torch  # here: a recipe can be checked without it

    generator = torch.Generator().manual_seed(seed)
    wanted = coverage.per_step * coverage.steps
    order: list[int] = []
    while len(order) < wanted:
        order += torch.randperm(coverage.available, generator=generator).tolist()
    return order[:wanted]
