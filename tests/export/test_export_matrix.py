"""Every family in every format, compared with transformers: exported models, in the runtimes that will run them.

Most families are slow tests.

pytest -s tests/export/test_export_matrix.py     prints the figures
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from helpers.tiny_models import families, make_student
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.engines.onnx.engine import OnnxEngine
from mentor_edge.export.gguf.convert import convert
from mentor_edge.export.gguf.quantize import quantize
from mentor_edge.export.onnx.export import PRECISIONS, export_onnx
from mentor_edge.export.parity.check import ExpectedOutputs, check_conversion, check_quantized

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

DIVERGENCE = {"f16": 1e-4, "q8_0": 0.01, "int8": 0.01, "q4_k_m": 0.4, "int4": 0.6}
"""How far a model with random weights may move, as a share of what a guess does that reads no text."""


@dataclass(frozen=True)
class Source:
    family: str
    directory: Path
    expected: ExpectedOutputs


@pytest.fixture(scope="module", params=families("qwen2"))
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    directory = make_student(tmp_path_factory.mktemp(request.param), request.param)
    return Source(request.param, directory, ExpectedOutputs.of(directory))


@pytest.fixture(scope="module")
def f32(source: Source) -> Path:
    convert(source.directory, source.directory / "f32.gguf")
    return source.directory / "f32.gguf"


def agree(source: Source, engine: LlamaCppEngine | OnnxEngine) -> None:
    """Check a float32 file, with narrower limits than an export's, except for Gemma's GELU in llama.cpp."""
    report = check_conversion(source.expected, engine)
    print(
        f"\n{source.family:8} {engine.path.name:12} max {report.max_difference:.1e} mean {report.mean_difference:.1e}"
    )
    gelu_table = source.family == "gemma3" and isinstance(engine, LlamaCppEngine)
    assert report.max_difference < (5e-3 if gelu_table else 2e-4)
    assert report.top1_agreement == 1


def stay_near(source: Source, kind: str, engine: LlamaCppEngine | OnnxEngine) -> None:
    report = check_quantized(source.expected, engine, kind)
    figures = f"KL {report.kl_mean:.1e} p99 {report.kl_p99:.1e} (guess {report.kl_guess:.2f})"
    print(f"\n{source.family:8} {engine.path.name:12} {figures} top-1 {report.top1_agreement:.3f}")
    assert 0 < report.kl_mean < DIVERGENCE[kind] * report.kl_guess


def test_f32_computes_what_the_model_computes(source: Source, f32: Path) -> None:
    with LlamaCppEngine(f32, kv="f32", batch_size=4) as engine:
        agree(source, engine)


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_k_m"])
def test_gguf_stays_near_the_model(source: Source, f32: Path, tmp_path: Path, kind: str) -> None:
    quantize(f32, tmp_path / f"{kind}.gguf", kind)
    with LlamaCppEngine(tmp_path / f"{kind}.gguf", batch_size=4) as engine:
        stay_near(source, kind, engine)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_onnx_stays_near_the_model(source: Source, tmp_path: Path, precision: str, onnx_builder: Any) -> None:
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    pytest.importorskip("onnx_ir", reason="onnxruntime-genai's model builder needs onnx_ir")
    export_onnx(source.directory, tmp_path / f"onnx-{precision}", precision, builder=onnx_builder)
    with OnnxEngine(tmp_path / f"onnx-{precision}", batch_size=4) as engine:
        if precision == "fp32":
            agree(source, engine)
        else:
            stay_near(source, precision, engine)
