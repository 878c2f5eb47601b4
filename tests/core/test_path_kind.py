"""A path of another kind than the command wants: the error says what it is and what takes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mentor_edge import inspect_student
from mentor_edge.engines.open import open_engine
from mentor_edge.errors import ArtifactError, ConfigError, EngineError, MentorEdgeError, RunError, StudentError
from mentor_edge.manifest import Manifest
from mentor_edge.path_kind import kind_of
from mentor_edge.recipes import Run, SFTRecipe, recipe_from_yaml
from mentor_edge.recipes.comparison.files import read_comparison


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "models" / "model-q8_0.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF" + bytes(range(256)) * 64)
    return path


def make(directory: Path, *names: str) -> Path:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("{}")
    return directory


@pytest.mark.parametrize(
    ("names", "kind", "advice"),
    [
        (["manifest.json", "model.gguf"], "an exported artifact", "verify"),
        (["run.json", "config.yaml"], "a run", "export"),
        (["genai_config.json", "config.json"], "an ONNX directory", "exported already"),
        (["config.json", "model.safetensors"], "a Hugging Face directory", "evaluate"),
        (["adapter_config.json"], "a PEFT adapter", "the run that contains it"),
        (["mentor/run.json", "sft/run.json"], "a quickstart directory", "mentor"),
        (["comparison.json"], "a comparison", "mentor-edge report"),
        (["b.gguf", "a.gguf"], "a directory with GGUF files", "name one of them: a.gguf, b.gguf"),
        (["x/config.json", "notes.txt"], "a directory of directories", "x"),
        (["notes.txt"], "a directory without a model", ""),
    ],
)
def test_kinds_of_directories(tmp_path, names, kind, advice):
    found = kind_of(make(tmp_path / "d", *names))
    assert found.name == kind and advice in found.advice


def test_kinds_of_other_paths(tmp_path, gguf):
    (tmp_path / "empty").mkdir()
    assert kind_of(tmp_path / "empty").name == "an empty directory"
    assert kind_of(tmp_path / "none").name == "missing"
    assert kind_of(make(tmp_path, "model.onnx") / "model.onnx").advice == f"name its directory, {tmp_path}"
    assert kind_of(gguf).name == "a GGUF file"


def test_a_gguf_file_where_something_else_is_wanted_says_what_to_do(gguf):
    for error, call in (
        (RunError, Run.load),
        (RunError, read_comparison),
        (ConfigError, recipe_from_yaml),
        (ArtifactError, Manifest.read),
    ):
        with pytest.raises(error) as raised:
            call(gguf)
        assert isinstance(raised.value, MentorEdgeError)
        assert "a GGUF file" in str(raised.value) and len(str(raised.value)) < 700
        assert "mentor-edge run" in str(raised.value) or "mentor-edge export" in str(raised.value)


def test_a_directory_with_gguf_files_names_them(gguf):
    with (
        pytest.raises(EngineError, match=r"a directory with GGUF files\n?.*model-q8_0\.gguf"),
        open_engine(gguf.parent),
    ):
        pass


def test_a_file_of_bytes_is_not_printed_with_its_error(tmp_path):
    path = tmp_path / "comparison.json"
    path.write_bytes(b"\xff\xfe" * 100_000)
    with pytest.raises(RunError) as raised:
        read_comparison(path)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "model.onnx", "recipe.yaml"])
def test_one_file_of_a_model_is_not_called_damaged(tmp_path: Path, name: str) -> None:
    path = make(tmp_path, "config.json", name) / name
    with pytest.raises(EngineError, match=r"is not a model; it is (one file of|a recipe file)"), open_engine(path):
        pass
    with pytest.raises(StudentError, match=r"is (one file of .*|a recipe file), not a model"):
        inspect_student(path)
    with pytest.raises(StudentError, match=r"the student .* is (one file of .*|a recipe file), not a Hugging Face"):
        SFTRecipe(student=str(path), tasks={"limit": 2}, output_dir=tmp_path / "run").fit()
    assert not (tmp_path / "run").exists()


def test_directories_of_other_kinds_cannot_be_trained(tmp_path: Path) -> None:
    for names, words, hint in (
        (["genai_config.json"], "an ONNX directory", "exported already"),
        (["run.json"], "a run", "set from_run"),
    ):
        directory = make(tmp_path / words, *names)
        with pytest.raises(StudentError, match=words) as raised:
            SFTRecipe(student=str(directory), tasks={"limit": 2}, output_dir=tmp_path / "out").fit()
        assert hint in (raised.value.hint or "")
    with pytest.raises(ConfigError, match="is a Hugging Face directory, not a recipe file"):
        recipe_from_yaml(make(tmp_path / "model", "config.json"))
