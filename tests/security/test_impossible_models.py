"""Weights and configurations that cannot be right are errors, not low scores."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.tiny_models import make_student
from mentor_edge import inspect_student
from mentor_edge.engines.base import Sampling
from mentor_edge.engines.torch.engine import TransformersEngine
from mentor_edge.errors import EngineError, StudentError

ATTACKS: dict[str, float] = {
    "NaN": math.nan,
    "infinite": float("inf"),
    "negative infinite": float("-inf"),
    "huge": 3e38,
}
"""Values of one weight."""

CONTEXTS = (0, -1, 1 << 63, "512", 512.0, None, True, [512], math.nan)
"""Values of max_position_embeddings."""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student") / "model", num_hidden_layers=1, head_dim=64)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", ATTACKS)
def test_logits_that_are_not_finite_are_an_error(name: str, temperature: float, original: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(original, tmp_path / "model"))
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][3:9] = ATTACKS[name]
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    engine = TransformersEngine.load(model)
    with engine.open(2) as batch, pytest.raises(EngineError, match="logits that are not finite"):
        batch.extend([0, 1], [[5, 6], [7]], Sampling(4, temperature))


def test_logits_that_become_infinite_later_are_an_error(original: Path) -> None:
    engine = TransformersEngine.load(original)
    engine.end_ids = frozenset()
    with engine.open(2) as batch:
        batch.extend([0, 1], [[5, 6], [7]], Sampling(2, 0.0))
        with torch.no_grad():
            engine.model.model.norm.weight[3] = math.nan
        with pytest.raises(EngineError, match="logits that are not finite"):
            batch.extend([0, 1], [[5], [7]], Sampling(2, 0.0))


@pytest.mark.parametrize("value", CONTEXTS, ids=str)
def test_an_impossible_context_is_an_error(value: object, original: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(original, tmp_path / "model"))
    config = model / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": value}))
    with pytest.raises(StudentError, match=r"max_position_embeddings|maximum context length"):
        TransformersEngine.load(model)
    if value is not None:
        with pytest.raises(StudentError, match="max_position_embeddings"):
            inspect_student(model)
