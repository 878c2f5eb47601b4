"""Students to export to ONNX, and the logits that torch and the runtime compute for them.

The tests of a file that imports this are skipped if the builder's packages are not installed.

To add a model family, add a student to `STUDENTS`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from helpers.tiny_models import EMBEDDING_ROWS, make_student
from mentor_edge.engines.onnx.engine import OnnxEngine
from mentor_edge.engines.process.worker import RuntimeWorker
from mentor_edge.export.onnx.export import export_onnx
from mentor_edge.results import OnnxQuantization

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the packages load
genai = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
pytest.importorskip("onnx_ir", reason="onnxruntime-genai's model builder needs onnx_ir")

IDS = [(31 * i + 7 * i * i) % EMBEDDING_ROWS for i in range(3, 103)]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 50_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SCALED_GEMMA = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}
STUDENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "qwen3 untied": ("qwen3", {"tied": False}),
    "llama": ("llama", {"rope_parameters": LLAMA3}),
    "smollm3": ("smollm3", {}),
    "gemma3": (
        "gemma3",
        {"rope_parameters": SCALED_GEMMA, "hidden_size": 320},
    ),  # its root is not a round number
    # All linear layers but one have as many outputs as there are tokens.
    "square": ("qwen3", {"hidden_size": 448, "intermediate_size": 448, "head_dim": 112, "num_key_value_heads": 4}),
}


class Students:
    """Models and their exports, each made on first use."""

    def __init__(self, root: Path, builder: RuntimeWorker) -> None:
        self._root, self.builder = root, builder
        self._exports: dict[tuple[str, str], OnnxQuantization] = {}

    def source(self, name: str) -> Path:
        directory = self._root / name
        if not directory.exists():
            family, changes = STUDENTS[name]
            make_student(directory, family, **changes)
        return directory

    def export(self, name: str, precision: str) -> tuple[Path, OnnxQuantization]:
        directory = self._root / f"{name}-{precision}"
        if (name, precision) not in self._exports:
            self._exports[name, precision] = export_onnx(self.source(name), directory, precision, builder=self.builder)
        return directory, self._exports[name, precision]

    def torch_logits(self, name: str, ids: list[int] = IDS) -> npt.NDArray[np.float32]:
        return torch_logits(self.source(name), ids)


def torch_logits(source: Path, ids: list[int]) -> npt.NDArray[np.float32]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return np.asarray(model(torch.tensor([ids])).logits[0].numpy())


def engine_logits(directory: Path, ids: list[int] = IDS) -> npt.NDArray[np.float32]:
    with OnnxEngine(directory) as engine:
        return engine.logits(ids)


def plain_generator(directory: Path, length: int, rows: int = 1) -> Any:
    """A generator as a user of onnxruntime-genai makes it, without our engine."""
    model = genai.Model(str(directory))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=length, batch_size=rows)
    return genai.Generator(model, parameters)


def edit_json(path: Path, edit: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
