"""Students whose weights were changed, as by training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from helpers.tiny_models import make_student


def weights(directory: Path) -> dict[str, Any]:
    return load_file(directory / "model.safetensors")


def moved(source: Path, target: Path, size: float) -> Path:
    """The student with a rank-4 change of its linear layers; the changes of weights are about `size`."""
    student = make_student(target)
    generator = torch.Generator().manual_seed(3)
    tensors = weights(source)
    for name in tensors:
        if "_proj" in name:
            rows, columns = tensors[name].shape
            left, right = (torch.randn(shape, generator=generator) for shape in ((rows, 4), (4, columns)))
            tensors[name] = tensors[name] + left @ right * (size / 2)
    save_file(tensors, student / "model.safetensors", metadata={"format": "pt"})
    return student
