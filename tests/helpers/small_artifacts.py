"""Artifacts whose models are a few bytes: for what reads, verifies and describes them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from mentor_edge.chat import ChatTemplate
from mentor_edge.export.package.write import write_package
from mentor_edge.manifest import Manifest, ManifestEntry, Source

FILES = {
    "model-q8_0.gguf": b"GGUF with eight bits",
    "refused/model-q2_k.gguf": b"GGUF with two bits..",  # as long as the first
    "controls/model-q4_0.gguf": b"a control",
    "onnx-int4/genai_config.json": b'{"model": {}}',
    "onnx-int4/model.onnx": b"graph",
    "onnx-int4/model.onnx.data": b"\x00\x01\x02 weights",
    "gate/gguf-q8_0.jsonl": b'{"task": 1}\n',
}


def gate(verdict: str = "pass", **runtime: Any) -> dict[str, Any]:
    split = {
        "verdict": verdict,
        "n": 400,
        "delta": -0.005,
        "low": -0.0125,
        "high": 0.0025,
        "lost": 3,
        "gained": 1,
        "correct": {"reference": 380, "artifact": 378},
    }
    return {
        "verdict": verdict,
        "margin": 0.02,
        "splits": {"id": split, "ood": split | {"lost": 5, "gained": 3}},
        "malformed": {"reference": 0, "artifact": 2},
        "explanation": "id: 3 lost, 1 gained",
        "runtime": runtime or {"engine": "llama.cpp", "kv": "f16", "flash_attention": False, "context_length": 512},
    }


def entry(quant: str, path: str, size: int, role: str = "shipped", **changes: Any) -> ManifestEntry:
    verdict = {"shipped": "pass", "refused": "inconclusive", "control": "fail"}[role]
    values: dict[str, Any] = {
        "format": "gguf",
        "quant": quant,
        "path": path,
        "bytes": size,
        "role": role,
        "quantization": {"types": {"q8_0": 12, "f32": 5}, "fallbacks": {}},
        "parity": {"positions": 200, "kl_mean": 0.0123, "kl_p99": 0.5, "top1_agreement": 0.985},
        "gate": gate(verdict),
    }
    return ManifestEntry.model_validate(values | changes)


def manifest(**changes: Any) -> Manifest:
    onnx_size = sum(len(content) for name, content in FILES.items() if name.startswith("onnx-int4/"))
    onnx = {
        "format": "onnx",
        "gate": gate(engine="onnxruntime-genai", context_length=512),
        "calibration": {"tokens": 4096},
        "delta": {"projection": 0.97, "survived": True},
    }
    values: dict[str, Any] = {
        "source": Source(
            model="/home/someone/runs/a/merged",
            files={"model.safetensors": "0" * 64},
            base="Qwen/Qwen3-0.6B",
            adapter="/home/someone/runs/a/adapter",
            merge={"base": "16-bit", "correct": {"16-bit": 380, "4-bit": 371}},
        ),
        "template_sha256": "1" * 64,
        "suite": {"name": "nano", "version": "1", "sha256": "2" * 64},
        "margin": 0.02,
        "parity": {"gguf": {"positions": 200, "max_difference": 0.00012}},
        "entries": (
            entry("q8_0", "model-q8_0.gguf", 20),
            entry("q2_k", "refused/model-q2_k.gguf", 20, "refused"),
            entry("q4_0", "controls/model-q4_0.gguf", 9, "control"),
            entry("int4", "onnx-int4", onnx_size, **onnx),
        ),
        "versions": {"torch": "2.13.0"},
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()},
    }
    return Manifest.model_validate(values | changes)


def make_artifact(directory: Path, template: str = "{{ messages }}", **changes: Any) -> Path:
    """A whole artifact with models of every role and format; `changes` are fields of its manifest."""
    for name, content in FILES.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    write_package(directory, manifest(**changes), ChatTemplate(template, "<|im_end|>"))
    return directory
