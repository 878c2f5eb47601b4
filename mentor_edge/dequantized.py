"""The record of a model directory that was made from a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt

from mentor_edge.json_object import read_bounded
from mentor_edge.results import Result

DEQUANTIZED = "dequantized.json"
"""The file in the directory."""


class Dequantized(Result):
    """Where a model directory came from that was made from a GGUF file."""

    file: str
    """The file."""
    sha256: str
    """Its hash."""
    kinds: dict[str, NonNegativeInt]
    """The number of weights of each type in it, such as {"q4_1": 106000000}."""
    stored_as: Literal["bfloat16", "float32"]
    """The type of the dequantized weights."""

    @classmethod
    def of(cls, directory: Path) -> Dequantized | None:
        """The record in a directory; None if it has none or an unreadable one."""
        try:
            return cls.model_validate_json(read_bounded(directory / DEQUANTIZED))
        except (OSError, ValueError):
            return None
