"""Export of a Hugging Face directory to ONNX, as a directory that onnxruntime-genai opens as it is.

Three exporters can make the graph: "genai" (`genai_exporter`, the default), "transformers" (`transformers_exporter`)
and "optimum" (`optimum_exporter`). First, `export_onnx` checks the source. After the exporter has run, it adds
what all directories need, and reads back from the graph what was written.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

from mentor_edge.engines.onnx.directory import OnnxDirectory
from mentor_edge.engines.onnx.genai_config import CONFIG
from mentor_edge.engines.process.worker import RuntimeWorker
from mentor_edge.errors import EngineError, ExportError, StudentError, did_you_mean
from mentor_edge.files import atomic_directory, write_json
from mentor_edge.model_directory import MORE_TEMPLATES, TEMPLATE_FILE, NamedTemplate, end_ids, stored_template
from mentor_edge.results import OnnxQuantization

from ..checkpoint import Checkpoint, configured_end_ids, read_config, read_json
from . import genai_exporter
from .graph_quantization import quantization_of

PRECISIONS = ("fp32", "int8", "int4")
EXPORTERS = ("genai", "transformers", "optimum")
_GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0}


def export_onnx(
    model_dir: Path,
    out: Path,
    precision: str,
    *,
    exporter: str = "genai",
    options: Mapping[str, str] = {},
    timeout: float = 3600.0,
    builder: RuntimeWorker | None = None,
) -> OnnxQuantization:
    """Write the model of `model_dir` as the directory `out`, atomically: config, graph, weights, tokenizer, template.

    The directory's genai_config.json sets greedy decoding, and as end tokens those of generation_config.json (else
    config.json) and the tokenizer's.

    Args:
        model_dir: a Hugging Face model directory with 16- or 32-bit safetensors weights, tokenizer and chat template.
        out: the directory to make. It must not exist.
        precision: one of `PRECISIONS`.
        exporter: one of `EXPORTERS`.
        options: options of onnxruntime-genai's builder, which override `genai_exporter.DEFAULTS`;
            `genai_exporter.OPTIONS` lists them. For the smallest file, with an int4 head:
            `{"matmul_mixed_precision": "last_matmul:int4"}`.
        timeout: seconds that the child process may go without a sign of life.
        builder: a running child process of the exporter "genai" (see `genai_exporter.running_builder`).

    Raises:
        ExportError: when an option is unknown or had no effect, or when the model is incomplete, quantized already, or
            of a family that the exporter does not support. When the child process refuses, crashes, hangs or runs out
            of memory, the message names the stage: conversion or quantization.
        OutputError: when `out` exists or cannot be written.
    """
    if precision not in PRECISIONS:
        raise ExportError(f"unknown ONNX precision {precision!r}{did_you_mean(precision, PRECISIONS)}")
    if exporter not in EXPORTERS:
        raise ExportError(f"unknown exporter {exporter!r}{did_you_mean(exporter, EXPORTERS)}")
    if options and exporter != "genai":
        raise ExportError(f"{', '.join(options)}: the exporter {exporter!r} takes no options")
    genai_exporter.check_options(options, precision)
    parameters = _check_source(model_dir)
    requested = {**genai_exporter.DEFAULTS[precision], **options}
    with atomic_directory(out) as work:
        if exporter == "genai":
            genai_exporter.export_with_genai(
                model_dir, work, precision, requested, parameters=parameters, timeout=timeout, builder=builder
            )
        elif exporter == "transformers":
            from .transformers_exporter import export_with_transformers

            export_with_transformers(model_dir, work, precision, timeout)
        else:
            from .optimum_exporter import export_with_optimum

            export_with_optimum(model_dir, work, precision, timeout)
        graph = _complete(model_dir, work)
        written = quantization_of(graph)
        if exporter == "genai":
            genai_exporter.check_effects(requested, precision, written)
    return OnnxQuantization(exporter=exporter, precision=precision, weights=written)


def _check_source(model_dir: Path) -> int:
    """The number of parameters. Raises: ExportError when the directory is incomplete or the weights are quantized."""
    config = read_config(model_dir)
    if "quantization_config" in config:
        raise ExportError(f"the weights of {model_dir} are quantized already", "give the model in 16 or 32 bits")
    if not (model_dir / "tokenizer.json").is_file():
        raise ExportError(f"{model_dir} has no tokenizer.json", "save its tokenizer there with transformers")
    if _template(model_dir) is None:
        raise ExportError(f"{model_dir} has no chat template", "set template: hermes or template: neutral")
    checkpoint = Checkpoint(model_dir)
    return sum(math.prod(checkpoint.shape(name)) for name in checkpoint)


def _template(model_dir: Path) -> NamedTemplate | None:
    settings = read_json(model_dir / "tokenizer_config.json")
    try:
        return stored_template(model_dir, settings.get("chat_template"))
    except StudentError as error:
        raise ExportError(error.problem, error.hint) from error


def _complete(model_dir: Path, work: Path) -> Path:
    """Give the directory the source's template and end tokens, whichever exporter made it. Returns the graph's path."""
    config = read_json(work / CONFIG)
    # The exporter may have written all templates of the source, or have changed line endings.
    template = _template(model_dir)
    assert template is not None  # `_check_source`
    shutil.rmtree(work / MORE_TEMPLATES, ignore_errors=True)
    (work / TEMPLATE_FILE).write_bytes(template.source.encode())
    settings = read_json(work / "tokenizer_config.json")
    if settings.pop("chat_template", None) is not None:
        write_json(work / "tokenizer_config.json", settings)
    model = config["model"]
    model["eos_token_id"] = sorted(end_ids(_tokenizer_end(work), configured_end_ids(model_dir)))
    # With the true id, a prompt that ends with the padding token would get the logits of the token before it. Padded
    # batches are still right.
    model["pad_token_id"] = -1
    config["search"] |= _GREEDY
    write_json(work / CONFIG, config)
    return work / str(model["decoder"]["filename"])


def _tokenizer_end(work: Path) -> int | None:
    try:
        directory = OnnxDirectory.read(work)
    except EngineError as error:
        raise ExportError(f"tokenizer: {error.problem}", error.hint) from error
    end: int | None = directory.tokenizer.token_to_id(directory.template.eos_token)
    return end
