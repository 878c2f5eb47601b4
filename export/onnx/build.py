"""Export of a Hugging Face directory to ONNX, as a directory that onnxruntime-genai opens as it is.

The exporter "genai" is onnxruntime-genai's own model builder, run in a child process (`onnx_build`); the others are in
`onnx_exporters` and `onnx_optimum`. Whatever made the graph, its attributes are read back: the builder ignores names
of options that it does not know.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mentor_edge.engines.onnx.directory import CONFIG, OnnxDirectory
from mentor_edge.engines.process.worker import RuntimeWorker
from mentor_edge.errors import EngineError, ExportError, did_you_mean
from mentor_edge.files import atomic_directory, write_json

from ..checkpoint import Checkpoint, read_json
from .graph import quantization_of

# -P keeps the working directory off the module path: a folder named onnxruntime_genai there must not be imported.
COMMAND = [sys.executable, "-P", "-m", "mentor_edge.export.onnx.builder_worker"]
PRECISIONS = ("fp32", "int8", "int4")
EXPORTERS = ("genai", "transformers", "optimum")
ARCHITECTURES = (
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "LlamaForCausalLM",
    "SmolLM3ForCausalLM",
    "Gemma3ForCausalLM",
)
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "block_size": ("16", "32", "64", "128", "256"),
    "accuracy_level": ("0", "1", "2", "3", "4"),
    "algo_config": ("default", "rtn", "k_quant", "rtn_last", "k_quant_last", "k_quant_mixed"),
    "is_symmetric": ("true", "false"),
    "matmul_mixed_precision": ("last_matmul:int8", "last_matmul:int4", "last_matmul:int8,mixed_layers:int8"),
    "shared_embeddings": ("true", "false"),
}
"""What the builder can be asked for, with the values that it takes."""
DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "fp32": {},
    "int8": {},
    "int4": {"block_size": "128", "is_symmetric": "false", "matmul_mixed_precision": "last_matmul:int8"},
}
"""For a trained nano student these diverge by 0.0011 nats from float32, at 342 MB for half a billion tied parameters;
the builder's own int4 (blocks of 32, symmetric, a 4-bit head) by 0.0020 at 317 MB, or 0.0019 at 290 MB with blocks of
64 and zero points. "k_quant" comes to 0.0010, for ten times the CPU time and 9 GiB of memory."""
_GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0}
_ALWAYS = {"windowed_kv_cache": "false"}
"""A windowed cache refuses conversations whose most tokens are fewer than the window's."""
_ENVIRONMENT = {
    "ORT_DISABLE_TELEMETRY": "1",  # before the packages load: they would record usage in the home directory
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
}


@dataclass(frozen=True)
class OnnxExport:
    """`quantization` is what the graph holds, as `quantization_of` read it back."""

    exporter: str
    precision: str
    quantization: dict[str, Any]


def export_onnx(
    model_dir: Path,
    out: Path,
    precision: str,
    *,
    exporter: str = "genai",
    options: Mapping[str, str] = {},
    timeout: float = 3600.0,
    builder: RuntimeWorker | None = None,
) -> OnnxExport:
    """Write the model of `model_dir` as the directory `out`, atomically: config, graph, weights, tokenizer, template.

    `options` go to onnxruntime-genai's builder, over `DEFAULTS`; `OPTIONS` lists them. An int4 head, for the smallest
    file, is `matmul_mixed_precision="last_matmul:int4"`. `timeout` is how many seconds the child process may give no
    sign of life; `builder` is one that is running already (see `running_builder`). The directory stops at the end
    tokens of generation_config.json (else config.json) and at the tokenizer's, and decodes greedily unless it is told
    otherwise.

    Raises: ExportError naming the stage, conversion or quantization, when the child process fails, crashes, hangs or
    runs out of memory; ExportError when an option is unknown or had no effect, or when the model is incomplete,
    quantized already, or of a family that the exporter does not know; OutputError when `out` exists or cannot be
    written.
    """
    if precision not in PRECISIONS:
        raise ExportError(f"unknown ONNX precision {precision!r}{did_you_mean(precision, PRECISIONS)}")
    if exporter not in EXPORTERS:
        raise ExportError(f"unknown exporter {exporter!r}{did_you_mean(exporter, EXPORTERS)}")
    _check_options(options, precision, exporter)
    parameters = _check_source(model_dir)
    asked = {**DEFAULTS[precision], **options}
    with atomic_directory(out) as work:
        if exporter == "genai":
            _check_architecture(model_dir)
            with running_builder(timeout) if builder is None else nullcontext(builder) as worker:
                _build(worker, model_dir, work, precision, asked, 4 * parameters)
        elif exporter == "transformers":
            from .exporters import export_with_transformers

            export_with_transformers(model_dir, work, precision, timeout)
        else:
            from .optimum import export_with_optimum

            export_with_optimum(model_dir, work, precision, timeout)
        graph = _complete(model_dir, work)
        written = quantization_of(graph)
        if exporter == "genai":
            _check_effects(asked, precision, written)
    return OnnxExport(exporter, precision, written)


def running_builder(timeout: float = 3600.0) -> RuntimeWorker:
    """The child process of onnxruntime-genai's builder, a context manager, for several exports: it takes five seconds
    to start."""
    hint = "see whether the machine has memory for the model in float32"
    return RuntimeWorker("onnxruntime-genai's builder", COMMAND, hint=hint, timeout=timeout, environment=_ENVIRONMENT)


def _check_options(options: Mapping[str, str], precision: str, exporter: str) -> None:
    for name, value in options.items():
        if name not in OPTIONS:
            hint = f"options that have an effect: {', '.join(OPTIONS)}"
            raise ExportError(f"unknown option {name!r} of the ONNX builder{did_you_mean(name, OPTIONS)}", hint)
        if value not in OPTIONS[name]:
            raise ExportError(f"{name} is {value!r}", f"it takes: {', '.join(OPTIONS[name])}")
    if options and exporter != "genai":
        raise ExportError(f"{', '.join(options)}: the exporter {exporter!r} takes no options")
    if options and precision == "fp32":
        raise ExportError(f"{', '.join(options)}: fp32 is not quantized, so options have no effect")


def _check_source(model_dir: Path) -> int:
    """The number of parameters. Raises: ExportError when the directory lacks something or is quantized."""
    config = read_json(model_dir / "config.json")
    if "quantization_config" in config:
        raise ExportError(f"the weights of {model_dir} are quantized already", "give the model in 16 or 32 bits")
    settings = read_json(model_dir / "tokenizer_config.json")
    if not (model_dir / "tokenizer.json").is_file():
        raise ExportError(f"{model_dir} holds no tokenizer.json", "save its tokenizer there with transformers")
    if not (model_dir / "chat_template.jinja").is_file() and not isinstance(settings.get("chat_template"), str):
        raise ExportError(f"{model_dir} holds no chat template", "add the chat_template.jinja that it was trained with")
    checkpoint = Checkpoint(model_dir)
    return sum(math.prod(checkpoint.shape(name)) for name in checkpoint)


def _check_architecture(model_dir: Path) -> None:
    architecture = next(iter(read_json(model_dir / "config.json").get("architectures") or ()), "none")
    if architecture not in ARCHITECTURES:
        hint = f"supported: {', '.join(ARCHITECTURES)}; --exporter transformers may know others"
        raise ExportError(f"the architecture of {model_dir} is {architecture}", hint)


def _build(
    worker: RuntimeWorker, model_dir: Path, work: Path, precision: str, options: Mapping[str, str], size: int
) -> None:
    stage = "conversion"
    try:
        worker.request(
            "convert",
            f"converting {model_dir}",
            source=str(model_dir.resolve()),
            target=str(work.resolve()),
            precision=precision,
            options={**options, **_ALWAYS},
            size=size,
        )
        if precision != "fp32":
            stage = "quantization"
        worker.request("write", f"writing {model_dir} as {precision}", target=str(work.resolve()))
    except EngineError as error:
        raise ExportError(f"{stage}: {' '.join(error.problem.split())}", error.hint) from error


def _complete(model_dir: Path, work: Path) -> Path:
    """Make the directory say what the source says, whatever wrote it. Returns the graph's path."""
    template = model_dir / "chat_template.jinja"
    if template.is_file():
        shutil.copyfile(template, work / template.name)  # what passed through a text file has other line ends
    config = read_json(work / CONFIG)
    model = config["model"]
    model["eos_token_id"] = sorted(_tokenizer_ends(work) | _stated_ends(model_dir))
    # Else a prompt that ends with the padding token gets the logits of the token before. Padded batches stay right.
    model["pad_token_id"] = -1
    config["search"] |= _GREEDY
    write_json(work / CONFIG, config)
    return work / str(model["decoder"]["filename"])


def _tokenizer_ends(work: Path) -> set[int]:
    try:
        directory = OnnxDirectory.read(work)
    except EngineError as error:
        raise ExportError(f"tokenizer: {error.problem}", error.hint) from error
    end = directory.tokenizer.token_to_id(directory.template.eos_token)
    return set() if end is None else {end}


def _stated_ends(model_dir: Path) -> set[int]:
    generation = model_dir / "generation_config.json"
    stated = read_json(generation).get("eos_token_id") if generation.is_file() else None
    if stated is None:
        stated = read_json(model_dir / "config.json").get("eos_token_id")
    return set(stated) if isinstance(stated, list) else set() if stated is None else {stated}


def _check_effects(asked: Mapping[str, str], precision: str, written: Mapping[str, Any]) -> None:
    """Raises: ExportError when the graph is not what was asked for."""
    mixed = asked.get("matmul_mixed_precision", "")
    effects: dict[str, tuple[str, Any]] = {
        "block_size": ("block_size", int(asked.get("block_size", 32))),
        "accuracy_level": ("accuracy_level", int(asked.get("accuracy_level", 4))),
        "is_symmetric": ("symmetric", asked.get("is_symmetric", "true") == "true"),
        "matmul_mixed_precision": ("head", mixed.partition(",")[0].removeprefix("last_matmul:")),
        "shared_embeddings": ("head_shares_embedding", asked.get("shared_embeddings") == "true"),
    }
    failed = [
        f"{option}={asked[option]} (the graph's {attribute} is {written[attribute]})"
        for option, (attribute, value) in effects.items()
        if option in asked and written[attribute] != value
    ]
    if precision not in written["body"]:
        failed.append(f"{precision} (the matrices are {', '.join(written['body'])})")
    if "mixed" in asked.get("algo_config", "") + mixed and "int8" not in written["body"]:
        failed.append("mixed layers (no matrix but the head has 8 bits)")
    if failed:
        raise ExportError(f"quantization: without effect: {'; '.join(failed)}", "an option may exclude another")
