"""How far exported files differ from transformers, for every supported family, format and quantization.

    python benchmarks/parity.py [DIRECTORY ...]

Without arguments it exports the tests' models with random weights, one per family (width 256, vocabulary 448).
Arguments are Hugging Face directories to export instead. Prints a table, then the same figures as JSON in the last
line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ |= {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.tiny_models import FAMILIES, make_student
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.engines.onnx.engine import OnnxEngine
from mentor_edge.export.gguf.convert import convert
from mentor_edge.export.gguf.quantize import quantize
from mentor_edge.export.onnx.export import export_onnx
from mentor_edge.export.parity.check import ExpectedOutputs, check_conversion, check_quantized
from mentor_edge.results import ConversionParity, QuantizedParity

GGUF = ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m")
ONNX = ("int8", "int4")
Report = ConversionParity | QuantizedParity


def reports(directory: Path, work: Path) -> Iterator[tuple[str, Report]]:
    """The name and report of every exported file."""
    expected = ExpectedOutputs.of(directory)
    convert(directory, f32 := work / "f32.gguf")
    with LlamaCppEngine(f32, kv="f32", batch_size=4) as engine:
        yield "gguf f32", check_conversion(expected, engine)
    for kind in GGUF:
        quantize(f32, file := work / f"{kind}.gguf", kind)
        with LlamaCppEngine(file, batch_size=4) as engine:
            yield f"gguf {kind}", check_quantized(expected, engine, kind)
    export_onnx(directory, graph := work / "fp32", "fp32")
    with OnnxEngine(graph, batch_size=4) as engine:
        yield "onnx fp32", check_conversion(expected, engine)
    for kind in ONNX:
        export_onnx(directory, graph := work / kind, kind)
        with OnnxEngine(graph, batch_size=4) as engine:
            yield f"onnx {kind}", check_quantized(expected, engine, kind)


def row(report: Report) -> str:
    if isinstance(report, ConversionParity):
        figures = f"max {report.max_difference:.1e}  mean {report.mean_difference:.1e}"
    else:
        share = report.kl_mean / report.kl_guess
        figures = f"KL {report.kl_mean:.1e}  p99 {report.kl_p99:.1e}  of a guess {share:.2%}"
    agreement = f"stop {report.turns.stop_agreement:.2f}  calls {report.turns.calls_agreement:.2f}"
    return f"{figures:46} top-1 {report.top1_agreement:.3f}  {agreement}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, metavar="DIRECTORY")
    arguments = parser.parse_args()
    result: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        given = {str(directory): directory for directory in arguments.models}
        models = given or {name: make_student(Path(scratch) / "model" / name, name) for name in FAMILIES}
        for name, directory in models.items():
            result[name] = {}
            with tempfile.TemporaryDirectory(dir=scratch) as work:
                for label, report in reports(directory, Path(work)):
                    result[name][label] = report.model_dump()
                    print(f"{name:10} {label:12} {row(report)}", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
