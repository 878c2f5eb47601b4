"""Candidates: the files of an export before the gate, each compared with its source model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.engines.onnx.engine import OnnxEngine
from mentor_edge.errors import ExportError
from mentor_edge.files import sha256_of
from mentor_edge.progress import Progress, as_stage
from mentor_edge.results import Calibration, ConversionParity, GgufQuantization, Parity, Quantization, Runtime, Survival

from .gguf.convert import convert
from .gguf.importance_matrix import Encode, ImportanceMatrix, importance_matrix
from .gguf.quantize import UNQUANTIZED, quantize, tensor_types
from .gguf.upstream_converter import convert_with
from .onnx.export import export_onnx
from .onnx.genai_exporter import running_builder
from .options import ExportOptions
from .parity.check import check, check_quantized
from .parity.expected import ExpectedOutputs
from .survival import measure_survival, require_survival


@dataclass(frozen=True)
class Candidate:
    """One exported model on its way to the gate, at the path where it was built."""

    format: str
    """"gguf" or "onnx"."""
    quant: str
    """The quantization, such as "q4_k_m" or "int4"."""
    path: Path
    """A GGUF file or an ONNX directory."""
    control: bool
    """Whether it only tests the gate."""
    quantization: Quantization
    """The types that were actually written."""
    parity: Parity
    """How it compares with the merged model."""
    calibration: Calibration | None = None
    """The importance matrix, if one was used."""
    survival: Survival | None = None
    """How much of the adapter survived, if the base is known."""
    kv: str = "f16"
    """Type of llama.cpp's cache at the gate."""

    @property
    def name(self) -> str:
        """Format and quantization, such as "gguf-q8_0"."""
        return f"{self.format}-{self.quant}"

    @property
    def files(self) -> list[Path]:
        """The file itself, or all files of the directory."""
        if self.path.is_file():
            return [self.path]
        return sorted(path for path in self.path.rglob("*") if path.is_file())

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def runtime(self) -> Runtime:
        """The program that runs it at the gate, and its settings."""
        if self.format == "onnx":
            return Runtime(engine="onnxruntime-genai")
        return Runtime(engine="llama.cpp", kv=self.kv, flash_attention=False)

    def identity(self) -> str:
        """Identifies the candidate's outcomes: the hashes of its files, and the runtime's settings."""
        settings = self.runtime.model_dump(exclude_none=True, exclude={"context_length", "threads"})
        return " ".join([*map(sha256_of, self.files), *(f"{name}={value}" for name, value in settings.items())])

    @contextmanager
    def open(self, threads: int) -> Iterator[LlamaCppEngine | OnnxEngine]:
        """Load it in its runtime."""
        with (
            OnnxEngine(self.path, threads=threads)
            if self.format == "onnx"
            else LlamaCppEngine(self.path, kv=self.kv, threads=threads)
        ) as engine:
            yield engine


@dataclass(frozen=True)
class ExportContext:
    """Everything that candidates are made from, and the directory to write them to."""

    model: Path
    """The merged model's directory."""
    expected: ExpectedOutputs
    """The merged model's outputs."""
    base: Path | None
    """The model without the adapter, if known: the directory that the adapter was merged onto."""
    directory: Path
    """Where to write the files."""
    options: ExportOptions
    """Which files to make, and how."""
    progress: Progress
    """Reports the stages."""
    encode: Encode
    """The model's tokenizer."""


Candidates = tuple[ConversionParity, list[Candidate]]
"""How the unquantized file of a format compares with the model, and the requested files."""


def gguf_candidates(context: ExportContext, conversations: Callable[[], Sequence[Sequence[int]]]) -> Candidates:
    """Convert to F32, check parity, quantize, and compare every file with the model.

    `conversations` returns token ids for the importance matrix; it is called only if a kind uses one.

    Raises: ExportError naming the stage (template, tokenizer, conversion, quantization), EngineError.
    """
    options, progress = context.options, context.progress
    kinds = list(dict.fromkeys((*options.gguf, *options.controls)))
    progress("GGUF: convert, parity", 0, 2)
    f32 = context.directory / "model-f32.gguf"
    _convert(context.model, f32, options)
    base_f32 = None
    if context.base is not None:
        base_f32 = context.directory / "base-f32.gguf"
        _convert(context.base, base_f32, options)
    progress("GGUF: convert, parity", 1, 2)
    parity = check(context.expected, f32)
    progress("GGUF: convert, parity", 2, 2)

    matrix = None
    if any(options.wants_matrix(kind) for kind in kinds):
        matrix = importance_matrix(context.model, conversations(), as_stage(progress, "GGUF: importance matrix"))

    candidates = []
    for done, kind in enumerate(kinds):
        progress("GGUF: quantize, parity", done, len(kinds))
        if kind == "f32":
            # With an F32 cache, the gate shows that the conversion alone changes nothing.
            written = GgufQuantization(types=tensor_types(f32))
            candidates.append(Candidate("gguf", kind, f32, kind not in options.gguf, written, parity, kv="f32"))
        else:
            kind_matrix = matrix if options.wants_matrix(kind) else None
            candidates.append(_quantized_gguf(context, f32, base_f32, kind, kind_matrix))
    if base_f32 is not None:
        base_f32.unlink()
    if "f32" not in kinds:
        f32.unlink()
    progress("GGUF: quantize, parity", len(kinds), len(kinds))
    return parity, candidates


def _convert(model: Path, target: Path, options: ExportOptions) -> None:
    if options.converter is not None:
        convert_with(options.converter, model, target)
        return
    try:
        convert(model, target)
    except ExportError as error:
        raise ExportError(f"conversion: {model}: {error.problem}", error.hint) from error


def _quantized_gguf(
    context: ExportContext, f32: Path, base_f32: Path | None, kind: str, matrix: ImportanceMatrix | None
) -> Candidate:
    target = context.directory / f"model-{kind}.gguf"
    overrides = {} if kind in UNQUANTIZED else context.options.overrides  # for these, llama.cpp takes no overrides
    written = quantize(f32, target, kind, overrides=overrides, matrix=matrix)
    with LlamaCppEngine(target) as engine:
        parity = check_quantized(context.expected, engine, kind)
    survival = None
    if base_f32 is not None:
        base_target = base_f32.with_name(f"base-{kind}.gguf")
        quantize(base_f32, base_target, kind, overrides=overrides, matrix=matrix)
        survival = measure_survival(f32, target, base_f32, base_target)
        base_target.unlink()
        require_survival(survival, target)
    return Candidate(
        "gguf",
        kind,
        target,
        control=kind not in context.options.gguf,
        quantization=written,
        parity=parity,
        calibration=None if matrix is None else matrix.calibration,
        survival=survival,
    )


def onnx_candidates(context: ExportContext) -> Candidates:
    """Export a float32 graph, check parity, export every requested precision, and compare each with the model.

    Raises: ExportError naming the stage, EngineError.
    """
    options, progress = context.options, context.progress
    total = len(options.onnx) + 1
    fp32 = context.directory / "onnx-fp32"
    # The untuned graphs show how much of the adapter each precision keeps; fp32 keeps all of it.
    base = None if set(options.onnx) == {"fp32"} else context.base
    base_fp32 = context.directory / "base-onnx-fp32"
    candidates = []
    # One child process for all precisions: it takes five seconds to start.
    with running_builder() if options.exporter == "genai" else nullcontext() as builder:

        def write(model: Path, out: Path, precision: str) -> Quantization:
            settings = {} if precision == "fp32" else options.onnx_options
            return export_onnx(model, out, precision, exporter=options.exporter, options=settings, builder=builder)

        progress("ONNX: export, parity", 0, total)
        fp32_written = write(context.model, fp32, "fp32")
        fp32_parity = check(context.expected, fp32)
        if base is not None:
            write(base, base_fp32, "fp32")
        for done, precision in enumerate(options.onnx, 1):
            progress("ONNX: export, parity", done, total)
            if precision == "fp32":
                candidates.append(Candidate("onnx", precision, fp32, False, fp32_written, fp32_parity))
                continue
            target = context.directory / f"onnx-{precision}"
            written = write(context.model, target, precision)
            with OnnxEngine(target) as engine:
                parity = check_quantized(context.expected, engine, precision)
            survival = None
            if base is not None:
                base_target = context.directory / f"base-onnx-{precision}"
                write(base, base_target, precision)
                survival = measure_survival(fp32, target, base_fp32, base_target)
                shutil.rmtree(base_target)
                require_survival(survival, target)
            candidates.append(Candidate("onnx", precision, target, False, written, parity, survival=survival))
    if base is not None:
        shutil.rmtree(base_fp32)
    if "fp32" not in options.onnx:
        shutil.rmtree(fp32)
    progress("ONNX: export, parity", total, total)
    return fp32_parity, candidates
