"""Small GGUF files to quantize."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.tiny_models import make_student
from mentor_edge.export.gguf.convert import convert


def make_f32(directory: Path, **changes: Any) -> Path:
    """The F32 file of a student with one layer, made in `directory`."""
    sizes = {"num_hidden_layers": 1, "intermediate_size": 256, "head_dim": 64} | changes
    make_student(directory, **sizes)
    convert(directory, directory / "f32.gguf")
    return directory / "f32.gguf"
