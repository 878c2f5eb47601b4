"""A cell of a comparison: one training run with its answers to the evaluation's items."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import ConfigDict, Field, NonNegativeInt, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from mentor_edge.errors import RunError

BASE = "base"
"""The method of a student before training."""

_DAMAGED = "the file is damaged or of another version; evaluate the cell again"

Name = Annotated[str, StringConstraints(min_length=1)]
AnswerBits = Annotated[str, StringConstraints(pattern="^[01]+$")]
"""One character per item: "1" right, "0" wrong."""
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Cell:
    """One training run, or an untrained base (method "base", no seed, no noise), with its answers."""

    base: Name
    """The student before training."""
    method: Name
    """Name of the training method; `BASE` for an untrained student."""
    seed: NonNegativeInt | None
    """Seed of the run; None for an untrained student."""
    teacher_noise: Name | None
    """Noise of the teacher. None if the method does not use the teacher's traces: the cell then counts under
    every noise."""
    right: Annotated[dict[str, AnswerBits], Field(min_length=1)]
    """Right or wrong for every item, by domain."""
    updates: NonNegativeInt
    """Optimizer updates."""
    tokens: NonNegativeInt
    """Tokens that the updates processed."""
    rollout_tokens: NonNegativeInt
    """Tokens that the student generated while training."""
    cpu_seconds: Annotated[float, Field(ge=0)]
    """Processor time of the training."""
    curve: tuple[tuple[NonNegativeInt, Share], ...]
    """Learning curve: (step, validation accuracy between 0 and 1)."""

    @property
    def name(self) -> str:
        """A name for messages, such as "mentor on nano@0, seed 1, noise mild"."""
        return cell_name(self.method, self.base, self.seed, self.teacher_noise)

    def to_json(self) -> dict[str, Any]:
        """The cell as comparison.json and result.json store it."""
        fields: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return fields

    @staticmethod
    def from_json(value: Any) -> Cell:
        """Raises: RunError naming the field that is missing or has an invalid value."""
        if not isinstance(value, dict):
            raise RunError(f"a saved cell is {type(value).__name__}, not an object", _DAMAGED)
        try:
            cell = _ADAPTER.validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            field = error.errors()[0]["loc"][0]
            shown = repr(value[field])[:80] if field in value else "missing"
            raise RunError(f"a saved cell's {field!r} is unusable: {shown}", _DAMAGED) from error
        if cell.method != BASE and not cell.updates:
            raise RunError(f"{cell.name} was never trained: its fit took no step", "run the cell again")
        return cell


_ADAPTER = TypeAdapter(Cell)


def cell_name(method: str, base: str, seed: int | None = None, noise: str | None = None) -> str:
    """A cell's name for messages."""
    name = f"{method} on {base}"
    name += "" if seed is None else f", seed {seed}"
    return name + ("" if noise is None else f", noise {noise}")
