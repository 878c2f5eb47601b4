"""Whether a model's architecture and settings can be exported, decided from its config.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mentor_edge.errors import ExportError
from mentor_edge.inspection.student_report import FormatSupport

from .gguf.config_checks import supported_config
from .onnx.families import FAMILIES as ONNX_FAMILIES

_CONVERTER = "--converter PATH/convert_hf_to_gguf.py uses llama.cpp's own script"
_EXPORTER = "--exporter transformers tries every architecture; parity with torch decides"


def format_support(config: Mapping[str, Any]) -> tuple[FormatSupport, FormatSupport]:
    """What a model with this config.json can be exported to: GGUF, then ONNX."""
    if config.get("quantization_config"):
        reason, hint = "the weights are quantized already", "give the model in 16 or 32 bits"
        return (
            FormatSupport(format="gguf", supported=False, detail=reason, hint=hint),
            FormatSupport(format="onnx", supported=False, detail=reason, hint=hint),
        )
    return _gguf(config), _onnx(config)


def _gguf(config: Mapping[str, Any]) -> FormatSupport:
    try:
        model = supported_config(config)
    except ExportError as error:
        return FormatSupport(format="gguf", supported=False, detail=error.problem, hint=_CONVERTER)
    return FormatSupport(format="gguf", supported=True, detail=model.family.name)


def _onnx(config: Mapping[str, Any]) -> FormatSupport:
    name = (config.get("architectures") or ["none"])[0]
    if name in ONNX_FAMILIES:
        return FormatSupport(format="onnx", supported=True, detail=ONNX_FAMILIES[name])
    detail = f"the exporter genai was not tested with the architecture {name}"
    return FormatSupport(format="onnx", supported=False, detail=detail, hint=_EXPORTER)
