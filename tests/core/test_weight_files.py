"""Which of the files in a directory are its weights: the ones that transformers loads, or an error that names them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from helpers.tiny_models import make_student
from mentor_edge.engines.torch.loading import load_student
from mentor_edge.errors import ExportError, StudentError
from mentor_edge.export.checkpoint import Checkpoint
from mentor_edge.weight_files import INDEX, WEIGHTS, weight_files

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
Change = Callable[[Path], object]


def write_index(directory: Path, files: Sequence[object]) -> None:
    weight_map = {f"tensor.{number}": file for number, file in enumerate(files)}
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def stated(directory: Path, name: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"transformers_weights": name}))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in (WEIGHTS, *SHARDS, "pytorch_model.bin"):
        (tmp_path / name).touch()
    (tmp_path / "config.json").write_text("{}")
    write_index(tmp_path, SHARDS)
    return tmp_path


@pytest.mark.parametrize(
    ("change", "files"),
    [
        (lambda d: None, [WEIGHTS]),
        (lambda d: write_index(d, ["gone.safetensors"]), [WEIGHTS]),
        (lambda d: (d / WEIGHTS).unlink(), [*SHARDS]),
        (lambda d: stated(d, SHARDS[1]), [SHARDS[1]]),
        (lambda d: stated(d, INDEX), [*SHARDS]),
    ],
    ids=["a single file", "a stale index beside it", "shards", "a file named in config.json", "an index named there"],
)
def test_the_files_are_those_that_transformers_loads(directory: Path, change: Change, files: Sequence[str]) -> None:
    change(directory)
    assert [path.name for path in weight_files(directory)] == files


def without_weights(directory: Path, *kept: str) -> None:
    for path in [*directory.glob("*.safetensors"), directory / INDEX, directory / "pytorch_model.bin"]:
        if path.name not in kept:
            path.unlink()


def only_index(directory: Path, *names: object) -> None:
    (directory / WEIGHTS).unlink()
    write_index(directory, names)


@pytest.mark.parametrize(
    ("change", "problem", "hint"),
    [
        (without_weights, "there is no model.safetensors", "config.json, model.safetensors and a tokenizer"),
        (
            lambda d: without_weights(d, "pytorch_model.bin"),
            "there is no model.safetensors",
            "pytorch_model.bin may run",
        ),
        (lambda d: (without_weights(d), (d / "model.fp16.safetensors").touch()), "there is no", "fp16.*rename"),
        (
            lambda d: (without_weights(d), (d / "adapter_model.safetensors").touch()),
            "there is no",
            "this is an adapter",
        ),
        (lambda d: ((d / WEIGHTS).unlink(), (d / SHARDS[1]).unlink()), f"lists {SHARDS[1]}, which is missing", "again"),
        (
            lambda d: only_index(d, "a.safetensors", "b.safetensors"),
            "lists a.safetensors and 1 more, which is",
            "again",
        ),
        (
            lambda d: only_index(d, "../other/model.safetensors"),
            "names '../other/model.safetensors' as a shard",
            "itself",
        ),
        (lambda d: only_index(d, "/etc/model.safetensors"), "names '/etc/model.safetensors' as a shard", "itself"),
        (lambda d: only_index(d, "pytorch_model.bin"), "names 'pytorch_model.bin' as a shard", "only safetensors"),
        (lambda d: only_index(d, 7), "names '7' as a shard", "only safetensors"),
        (lambda d: only_index(d), "lists no weights", "again"),
        (lambda d: (only_index(d), (d / INDEX).write_text('{"weight_map": 3}')), "cannot read", "again"),
        (lambda d: (only_index(d), (d / INDEX).write_text("{half")), "cannot read", "again"),
        (lambda d: stated(d, "../model.safetensors"), "names '../model.safetensors' as its weights", "itself"),
        (lambda d: stated(d, "pytorch_model.bin"), "names 'pytorch_model.bin' as its weights", "only a safetensors"),
        (lambda d: stated(d, "gone.safetensors"), "there is no gone.safetensors", ""),
        (lambda d: (d / "adapter_config.json").touch(), "contains an adapter (adapter_config.json) beside", "merge it"),
        (
            lambda d: (without_weights(d), (d / "adapter_config.json").touch()),
            "there is no",
            "this is an adapter",
        ),
        (lambda d: (without_weights(d), (d / WEIGHTS).mkdir()), "model.safetensors is a directory", "again"),
        (lambda d: (without_weights(d), (d / WEIGHTS).symlink_to("/gone")), "is a link to /gone, which", "again"),
    ],
)
def test_other_directories_are_refused_with_the_reason(
    directory: Path, change: Change, problem: str, hint: str
) -> None:
    change(directory)
    with pytest.raises(StudentError) as refused:
        weight_files(directory)
    assert problem in refused.value.problem
    assert refused.value.hint is not None
    assert all(part in refused.value.hint for part in hint.split(".*"))


def test_a_stale_index_changes_nothing(student: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(student, tmp_path / "student")
    write_index(directory, ["model-00001-of-00009.safetensors"])
    weights = load_file(student / WEIGHTS)
    assert {*Checkpoint(directory)} == {*weights}
    model, _ = load_student(directory)
    assert np.array_equal(model.model.norm.weight.detach().numpy(), weights["model.norm.weight"])


def test_a_tensor_in_two_shards_is_refused(student: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(student, tmp_path / "student")
    weights = load_file(directory / WEIGHTS)
    (directory / WEIGHTS).unlink()
    norm = {"model.norm.weight": weights["model.norm.weight"] + 1}
    for shard, tensors in zip(SHARDS, (weights, norm), strict=True):
        save_file(tensors, directory / shard, metadata={"format": "pt"})
    write_index(directory, SHARDS)
    message = f"model.norm.weight is in two files of .*: {SHARDS[0]} and {SHARDS[1]}"
    with pytest.raises(ExportError, match=message):
        Checkpoint(directory)
    with pytest.raises(StudentError, match=message):
        load_student(directory)
