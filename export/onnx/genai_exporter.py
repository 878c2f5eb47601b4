"""The default ONNX exporter, onnxruntime-genai's own model builder: the parent's side.

The builder runs in a child process (`builder_worker`), so a crash, a hang or a lack of memory becomes an error message
here. It ignores options that it does not know, so `check_effects` compares the finished graph with the requested ones.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mentor_edge.engines.process.worker import RuntimeWorker
from mentor_edge.errors import EngineError, ExportError, did_you_mean
from mentor_edge.results import OnnxWeights

from ..checkpoint import Checkpoint, read_json
from .child_environment import CHILD_ENVIRONMENT
from .families import FAMILIES

# -P keeps the working directory off the module path: a folder named onnxruntime_genai there must not be imported.
COMMAND = [sys.executable, "-P", "-m", "mentor_edge.export.onnx.builder_worker"]
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "block_size": ("16", "32", "64", "128", "256"),
    "accuracy_level": ("0", "1", "2", "3", "4"),
    "algo_config": ("default", "rtn", "k_quant", "rtn_last", "k_quant_last", "k_quant_mixed"),
    "is_symmetric": ("true", "false"),
    "matmul_mixed_precision": ("last_matmul:int8", "last_matmul:int4", "last_matmul:int8,mixed_layers:int8"),
    "shared_embeddings": ("true", "false"),
}
"""The builder's options that users may set, with the values that each accepts."""
DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "fp32": {},
    "int8": {},
    "int4": {"block_size": "128", "is_symmetric": "false", "matmul_mixed_precision": "last_matmul:int8"},
}
"""Our options per precision. Measured on a trained nano student, our int4 diverges from float32 by 0.0011 nats; half a
billion tied parameters take 342 MB. The builder's own int4 (blocks of 32, symmetric, a 4-bit head) diverges by 0.0020
at 317 MB; with blocks of 64 and zero points by 0.0019 at 290 MB. "k_quant" reaches 0.0010, but takes ten times the CPU
time and 9 GiB of memory."""
_ALWAYS = {"windowed_kv_cache": "false", "hf_remote": "false"}
"""With a windowed cache the runtime refuses conversations whose token limit is below the window's size. `hf_remote` is
the builder's name for trust_remote_code."""


def running_builder(timeout: float = 3600.0) -> RuntimeWorker:
    """Start the builder's child process, as a context manager. The start takes five seconds: share it between exports.

    `timeout` is the number of seconds without output after which it counts as hung.
    """
    hint = "check that the machine has enough memory for the model in float32"
    return RuntimeWorker(
        "onnxruntime-genai's builder", COMMAND, hint=hint, timeout=timeout, environment=CHILD_ENVIRONMENT
    )


def export_with_genai(
    model_dir: Path,
    out: Path,
    precision: str,
    options: Mapping[str, str],
    *,
    parameters: int,
    timeout: float,
    builder: RuntimeWorker | None,
) -> None:
    """Export a Hugging Face directory into the empty directory `out`.

    `parameters` is the model's size, which sets the child's memory limit. `builder` is a running child process; without
    one, a new one is started with `timeout`.

    Raises: ExportError when the family is not supported, or when the child refuses, crashes, hangs or runs out of
    memory; the message then names the stage, conversion or quantization.
    """
    _check_architecture(model_dir)
    options = _with_own_head(model_dir, options)
    stage = "conversion"
    with running_builder(timeout) if builder is None else nullcontext(builder) as worker:
        try:
            worker.request(
                "convert",
                f"converting {model_dir}",
                source=str(model_dir.resolve()),
                target=str(out.resolve()),
                precision=precision,
                options={**options, **_ALWAYS},
                size=4 * parameters,
            )
            if precision != "fp32":
                stage = "quantization"
            worker.request("write", f"writing {model_dir} as {precision}", target=str(out.resolve()))
        except EngineError as error:
            raise ExportError(f"{stage}: {' '.join(error.problem.split())}", error.hint) from error


def check_options(options: Mapping[str, str], precision: str) -> None:
    """Raises: ExportError naming the first option that is unknown, has an impossible value, or would have no effect."""
    for name, value in options.items():
        if name not in OPTIONS:
            hint = f"supported options: {', '.join(OPTIONS)}"
            raise ExportError(f"unknown option {name!r} of the ONNX builder{did_you_mean(name, OPTIONS)}", hint)
        if value not in OPTIONS[name]:
            raise ExportError(f"{name} is {value!r}", f"supported values: {', '.join(OPTIONS[name])}")
    if options and precision == "fp32":
        raise ExportError(f"{', '.join(options)}: fp32 is not quantized, so options have no effect")


def check_effects(requested: Mapping[str, str], precision: str, written: OnnxWeights) -> None:
    """Raises: ExportError when the graph does not have the requested options."""
    mixed = requested.get("matmul_mixed_precision", "")
    effects: dict[str, tuple[str, Any]] = {
        "block_size": ("block_size", int(requested.get("block_size", 32))),
        "accuracy_level": ("accuracy_level", int(requested.get("accuracy_level", 4))),
        "is_symmetric": ("symmetric", requested.get("is_symmetric", "true") == "true"),
        "matmul_mixed_precision": ("head", mixed.partition(",")[0].removeprefix("last_matmul:")),
        "shared_embeddings": ("head_shares_embedding", requested.get("shared_embeddings") == "true"),
    }
    failed = [
        f"{option}={requested[option]} (the graph's {attribute} is {getattr(written, attribute)})"
        for option, (attribute, value) in effects.items()
        if option in requested and getattr(written, attribute) != value
    ]
    if precision not in written.body:
        failed.append(f"{precision} (the matrices are {', '.join(written.body)})")
    if "mixed" in requested.get("algo_config", "") + mixed and "int8" not in written.body:
        failed.append("mixed layers (only the head has 8 bits)")
    if failed:
        raise ExportError(f"quantization: without effect: {'; '.join(failed)}", "an option may exclude another")


def _with_own_head(model_dir: Path, options: Mapping[str, str]) -> Mapping[str, str]:
    """The options, with which the builder keeps a head that differs from the embedding. It only reads the flag
    `tie_word_embeddings`, and would write the head in place of the embedding.

    Raises: ExportError when the options ask for that.
    """
    if not Checkpoint(model_dir).has_own_head(read_json(model_dir / "config.json")):
        return options
    if options.get("shared_embeddings") == "true":
        raise ExportError(
            f"shared_embeddings=true: the head of {model_dir} differs from its embedding", "leave the option out"
        )
    return {**options, "shared_embeddings": "false"}


def _check_architecture(model_dir: Path) -> None:
    architecture = next(iter(read_json(model_dir / "config.json").get("architectures") or ()), "none")
    if architecture not in FAMILIES:
        hint = f"supported: {', '.join(FAMILIES)}; --exporter transformers may support others"
        raise ExportError(f"the architecture of {model_dir} is {architecture}", hint)
