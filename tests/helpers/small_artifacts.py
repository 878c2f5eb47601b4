"""Artifacts whose models are a few bytes, to test what reads, verifies and describes them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from mentor_edge.export.package.write import write_package
from mentor_edge.manifest import Manifest, ManifestEntry, Source
from mentor_edge.results import (
    BaseChoice,
    Calibration,
    ConversionParity,
    GateReport,
    GgufQuantization,
    MergeReport,
    OnnxQuantization,
    OnnxWeights,
    QuantizedParity,
    Runtime,
    SideCounts,
    SplitReport,
    SuiteRecord,
    Survival,
    TextParity,
    TurnParity,
    Verdict,
)

FILES = {
    "model-q8_0.gguf": b"GGUF with eight bits",
    "refused/model-q2_k.gguf": b"GGUF with two bits..",  # as long as the first
    "controls/model-q4_0.gguf": b"a control",
    "onnx-int4/genai_config.json": b'{"model": {}}',
    "onnx-int4/model.onnx": b"graph",
    "onnx-int4/model.onnx.data": b"\x00\x01\x02 weights",
    "gate/gguf-q8_0.jsonl": b'{"task": 1}\n',
}


LLAMA_CPP = Runtime(engine="llama.cpp", kv="f16", flash_attention=False, context_length=512)
TEXT = TextParity(template_sha256="1" * 64, rendered_cases=11, token_cases=40, extra_end_tokens=())
TURNS = TurnParity(turns=4, ended=3, with_calls=2, stop_agreement=1.0, calls_agreement=0.75)


def gate(verdict: Verdict = Verdict.PASS, **changes: Any) -> GateReport:
    split = SplitReport(
        verdict=verdict,
        n=400,
        delta=-0.005,
        low=-0.0125,
        high=0.0025,
        lost=3,
        gained=1,
        correct=SideCounts(source=380, exported=378),
    )
    values: dict[str, Any] = {
        "verdict": verdict,
        "margin": 0.02,
        "splits": {"id": split, "ood": split.model_copy(update={"lost": 5, "gained": 3})},
        "malformed": SideCounts(source=0, exported=2),
        "explanation": "id: 3 lost, 1 gained",
    }
    return GateReport.model_validate(values | changes)


def entry(quant: str, path: str, size: int, role: str = "shipped", **changes: Any) -> ManifestEntry:
    verdict = {"shipped": Verdict.PASS, "refused": Verdict.INCONCLUSIVE, "control": Verdict.FAIL}[role]
    values: dict[str, Any] = {
        "format": "gguf",
        "quant": quant,
        "path": path,
        "bytes": size,
        "role": role,
        "quantization": GgufQuantization(types={"q8_0": 12, "f32": 5}),
        "parity": QuantizedParity(
            text=TEXT, turns=TURNS, positions=200, kl_mean=0.0123, kl_p99=0.5, kl_guess=4.0, top1_agreement=0.985
        ),
        "gate": gate(verdict),
        "runtime": LLAMA_CPP,
    }
    return ManifestEntry.model_validate(values | changes)


def onnx_entry() -> ManifestEntry:
    size = sum(len(content) for name, content in FILES.items() if name.startswith("onnx-int4/"))
    weights = OnnxWeights(
        operators={"MatMulNBits": 14, "Gather": 1},
        body={"int4": 13},
        head="int8",
        embedding="fp32",
        head_shares_embedding=False,
        block_size=128,
        accuracy_level=4,
        symmetric=False,
    )
    return entry(
        "int4",
        "onnx-int4",
        size,
        format="onnx",
        runtime=Runtime(engine="onnxruntime-genai", context_length=512),
        quantization=OnnxQuantization(exporter="genai", precision="int4", weights=weights),
        calibration=Calibration(sha256="3" * 64, tokens=4096, conversations=64),
        survival=Survival(touched=14, unchanged=(), changed_share=0.4, projection=0.97, alignment=0.6, survived=True),
    )


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "source": Source(
            model="merged",
            files={"model.safetensors": "0" * 64},
            base="Qwen/Qwen3-0.6B",
            adapter="adapter",
            merged_onto="16-bit",
            choice=BaseChoice(base="16-bit", n=400, correct={"16-bit": 380, "4-bit": 371}),
            merge=MergeReport(
                base="16-bit",
                modules=14,
                rank=4,
                trained_on="base",
                delta=0.02,
                base_dtype="bfloat16",
                kept=0.999,
                rounding=0.1,
                dtype="bfloat16",
            ),
        ),
        "template_sha256": "1" * 64,
        "suite": SuiteRecord(name="nano", version="1", sha256="2" * 64),
        "margin": 0.02,
        "parity": {
            "gguf": ConversionParity(
                text=TEXT,
                turns=TURNS,
                positions=200,
                max_difference=0.00012,
                mean_difference=0.00001,
                top1_agreement=1.0,
            )
        },
        "entries": (
            entry("q8_0", "model-q8_0.gguf", 20),
            entry("q2_k", "refused/model-q2_k.gguf", 20, "refused"),
            entry("q4_0", "controls/model-q4_0.gguf", 9, "control"),
            onnx_entry(),
        ),
        "versions": {"torch": "2.13.0"},
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()},
    }
    return Manifest.model_validate(values | changes)


def make_artifact(directory: Path, **changes: Any) -> Path:
    """A complete artifact with models of every role and format; `changes` are fields of its manifest."""
    for name, content in FILES.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    write_package(directory, manifest(**changes), directory)
    return directory
