"""What export/onnx relies on in onnxruntime-genai 0.18's model builder.

Upstream files: `onnxruntime_genai/models/builder.py` and `models/builders/` (base.py, smollm.py, gemma.py).

The tests named "upstream still ..." reproduce faults that `builder_patches` corrects or `genai_exporter` avoids. If one
fails after an upgrade, the fault may be fixed: check whether its patch can be removed.
"""

from __future__ import annotations

import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.onnx_students import IDS, Students, engine_logits, genai, plain_generator
from mentor_edge.engines.process.worker import RuntimeWorker
from mentor_edge.export.onnx import builder_patches, genai_exporter
from mentor_edge.export.onnx.builder_worker import load_builder
from mentor_edge.export.onnx.export import export_onnx
from mentor_edge.export.onnx.graph_quantization import quantization_of


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory, onnx_builder: RuntimeWorker) -> Students:
    return Students(tmp_path_factory.mktemp("students"), onnx_builder)


@pytest.fixture(scope="module")
def builder() -> Any:
    return load_builder()


def build(builder: Any, source: Path, directory: Path, precision: str = "fp32", *options: str) -> Path:
    """Build with the unpatched library."""
    positional = (str(source), str(directory), precision, "cpu", str(directory / "cache"))
    builder.create_model("", *positional, **builder.parse_extra_options("", *positional, list(options)))
    return directory


@pytest.mark.parametrize(("name", "missing"), [("smollm3", "position_ids"), ("gemma3", "rope_type")])
def test_upstream_still_cannot_build(builder: Any, students: Students, tmp_path: Path, name: str, missing: str) -> None:
    with pytest.raises(KeyError, match=missing):
        build(builder, students.source(name), tmp_path / "out")


def test_upstream_still_mistakes_any_layer_as_wide_as_the_vocabulary_for_the_head(
    builder: Any, students: Students, tmp_path: Path
) -> None:
    wrong = engine_logits(build(builder, students.source("square"), tmp_path / "out"))
    assert np.abs(wrong - students.torch_logits("square")).max() > 0.5


@pytest.mark.parametrize("options", [["is_symmetric=false"], ["matmul_mixed_precision=last_matmul:int8"]])
def test_upstream_still_writes_shared_tables_that_cannot_be_loaded(
    builder: Any, students: Students, tmp_path: Path, options: list[str]
) -> None:
    directory = build(builder, students.source("qwen2"), tmp_path / "out", "int4", *options)
    with pytest.raises(RuntimeError, match=r"Type Error|Invalid model"):
        genai.Model(str(directory))


def test_upstream_still_ignores_the_names_in_its_help(builder: Any, students: Students, tmp_path: Path) -> None:
    directory = build(builder, students.source("qwen2"), tmp_path / "out", "int4", "int4_block_size=128")
    assert quantization_of(directory / "model.onnx").block_size == 32


@pytest.mark.slow
def test_upstream_still_refuses_short_conversations_with_a_windowed_cache(
    students: Students, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(genai_exporter, "_ALWAYS", {"windowed_kv_cache": "true"})
    export_onnx(students.source("gemma3"), tmp_path / "out", "fp32", builder=students.builder)
    generator = plain_generator(tmp_path / "out", 20)
    with pytest.raises(RuntimeError, match="capacity"):
        generator.append_tokens(np.array(IDS[:5], np.int32))


def test_upstream_has_what_the_patches_replace(builder: Any) -> None:
    def parameters(function: Any) -> list[str]:
        return list(inspect.signature(function).parameters)

    model = builder.Model
    assert parameters(model.has_lm_head) == ["self", "module"]
    assert parameters(model.save_model) == ["self", "out_dir"]
    assert parameters(model.make_tied_quantized_embedding_input_names) == ["self"]
    assert parameters(builder.SmolLM3Model.make_attention) == ["self", "layer_id", "attention", "root_input", "kwargs"]
    assert parameters(builder.Gemma3Model)[0] == "config"
    assert parameters(builder.Gemma3Model.make_rotary_embedding_caches_from_scratch) == ["self"]
    source = inspect.getsource(builder.create_model)
    assert source.index("onnx_model.make_model(") < source.index("onnx_model.save_model(output_dir)")
    before = {name: getattr(builder, name) for name in ("SmolLM3Model", "Gemma3Model")}
    replaced = {name: getattr(model, name) for name in ("has_lm_head", "make_tied_quantized_embedding_input_names")}
    try:
        builder_patches.apply(builder)
        assert all(issubclass(getattr(builder, name), original) for name, original in before.items())
    finally:
        for name, original in before.items():
            setattr(builder, name, original)
        for name, original in replaced.items():
            setattr(model, name, original)


def test_the_builder_is_of_the_version_that_the_patches_were_made_for() -> None:
    assert version("onnxruntime-genai").startswith("0.18.")
