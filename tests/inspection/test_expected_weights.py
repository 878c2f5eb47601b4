"""Weights that do not belong to their config.json: `inspect` says so from the headers, and `fit` before it writes."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.tiny_models import make_student
from mentor_edge import inspect_student
from mentor_edge.errors import StudentError
from mentor_edge.inspection.expected_weights import layer_problems, weight_problems
from mentor_edge.inspection.student_report import Ability
from mentor_edge.recipes.student import check_student

Tensors = dict[str, Any]
UP, NORM, EMBEDDING = "model.layers.1.mlp.up_proj.weight", "model.norm.weight", "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student") / "model", "llama", num_hidden_layers=2)


@pytest.fixture
def student(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


def renamed(tensors: Tensors, old: str, new: str) -> Tensors:
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


WEIGHTS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "a matrix is missing": (lambda t: {n: x for n, x in t.items() if n != UP}, f"lack {UP}"),
    "the last norm is missing": (lambda t: {n: x for n, x in t.items() if n != NORM}, f"lack {NORM}"),
    "the embedding is missing": (lambda t: {n: x for n, x in t.items() if n != EMBEDDING}, f"lack {EMBEDDING}"),
    "another shape": (lambda t: t | {NORM: torch.ones(3)}, f"{NORM} has the shape [3]"),
    "another embedding": (lambda t: t | {EMBEDDING: t[EMBEDDING][:9].clone()}, f"{EMBEDDING} has the shape [9, "),
    "another head": (lambda t: t | {"lm_head.weight": t[EMBEDDING][:9].clone()}, "lm_head.weight of "),
    "only a head, of another shape": (
        lambda t: {n: x for n, x in t.items() if n != EMBEDDING} | {"lm_head.weight": t[EMBEDDING][:9].clone()},
        "lm_head.weight has the shape [9, ",
    ),
    "a bias of the head": (lambda t: t | {"lm_head.bias": torch.ones(448)}, "contain lm_head.bias, which config.json"),
    "a bias in a layer": (lambda t: t | {UP.replace("weight", "bias"): torch.ones(256)}, "up_proj.bias, which config"),
    "no weights": (lambda t: {}, "contains no weights"),
    "an unknown prefix": (lambda t: renamed(t, "model.", "transformer.model."), "lack "),
    "a wrapper around one layer": (lambda t: renamed(t, "model.layers.0", "module.model.layers.0"), "'module.'"),
    "an adapter is not merged": (lambda t: renamed(t, "q_proj.", "q_proj.base_layer."), "'base_layer'"),
}  # a table  # fmt: skip
CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "more layers": ({"num_hidden_layers": 3}, "lack model.layers.2.input_layernorm.weight"),
    "fewer layers": ({"num_hidden_layers": 1}, "contain model.layers.1, but config.json has 1 layers"),
    "no head": ({"tie_word_embeddings": False}, "lack lm_head.weight"),
    "fewer tokens": ({"vocab_size": 9}, "has the shape"),
}


def refused(student: Path, words: str) -> None:
    report = inspect_student(student)
    assert report.train.ability is report.evaluate.ability is report.export.ability is Ability.NO
    assert words in report.train.reason
    with pytest.raises(StudentError):
        check_student(str(student))


@pytest.mark.parametrize("name", WEIGHTS)
def test_other_weights_are_refused_by_name(student: Path, name: str) -> None:
    change, words = WEIGHTS[name]
    weights = student / "model.safetensors"
    save_file(change(load_file(weights)), weights, metadata={"format": "pt"})
    refused(student, words)


@pytest.mark.parametrize("name", CONFIGS)
def test_another_configuration_is_refused_by_name(student: Path, name: str) -> None:
    changes, words = CONFIGS[name]
    config = student / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    refused(student, words)


@pytest.mark.parametrize("prefix", ["", "model.model."])
def test_prefixes_that_transformers_accepts_are_accepted(student: Path, prefix: str) -> None:
    weights = student / "model.safetensors"
    save_file(renamed(load_file(weights), "model.", prefix), weights, metadata={"format": "pt"})
    assert inspect_student(student).train.ability is Ability.YES
    check_student(str(student))


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "smollm3", "gemma3"])
def test_no_family_is_refused_falsely(tmp_path: Path, kind: str) -> None:
    assert inspect_student(make_student(tmp_path / kind, kind)).train.ability is Ability.YES


LAYERS = {f"model.blocks.{index}.{name}": (4,) for index in range(4) for name in ("mlp.weight", "attention.weight")}


@pytest.mark.parametrize(
    ("names", "count", "problems"),
    [
        (LAYERS, 4, []),
        (LAYERS, 5, ["the weights lack model.blocks.4, but there should be 5 layers"]),
        ({n: s for n, s in LAYERS.items() if "2.mlp" not in n}, 4, ["the weights lack model.blocks.2.mlp.weight"]),
        (renamed(LAYERS, "2.mlp", "2.mamba") | {"model.vision.0.mlp.weight": (4,)}, 4, []),
        (renamed(LAYERS, "2.mlp", "2.mamba"), 4, []),
    ],
    ids=["whole", "a layer is missing", "a matrix is missing", "two stacks", "hybrid"],
)
def test_layers_of_an_unknown_family_are_compared_with_each_other(
    names: dict[str, tuple[int, ...]], count: int, problems: list[str]
) -> None:
    config = {"model_type": "other", "num_hidden_layers": count, "tie_word_embeddings": True}
    assert weight_problems(names, config) == problems


@pytest.mark.parametrize(
    "names",
    [
        {f"blocks.{number}.{'a' * (number % 3)}.b" for number in range(50_000)},
        {".1" * 50_000 + "\n\n"},
        {"blocks." + "1" * 5_000 + ".a"},
    ],
    ids=["many layers", "many numbers", "a long number"],
)
def test_no_names_of_weights_take_long_to_compare(names: set[str]) -> None:
    started = time.process_time()
    assert layer_problems(names, None) == []
    assert time.process_time() - started < 2
