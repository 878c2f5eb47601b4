"""Candidates: the files of an export before the gate, each compared with the model that it was made from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.engines.onnx.engine import OnnxEngine
from mentor_edge.errors import ExportError
from mentor_edge.files import sha256_of
from mentor_edge.progress import Progress

from .delta import require_survival, survival
from .gguf.convert import convert
from .gguf.importance_matrix import Encode, ImportanceMatrix, importance_matrix
from .gguf.quantize import UNQUANTIZED, fallback_note, quantize, tensor_types
from .gguf.upstream_converter import convert_with
from .onnx.export import export_onnx
from .onnx.genai_exporter import running_builder
from .options import ExportOptions
from .parity import check as parity


@dataclass(frozen=True)
class Candidate:
    """One exported model on its way to the gate, in the place where it was built.

    `quantization`, `parity`, `calibration` and `delta` are what the manifest will say. `kv` is the type of llama.cpp's
    cache that it is judged with.
    """

    format: str
    quant: str
    path: Path
    control: bool
    quantization: dict[str, Any]
    parity: dict[str, Any]
    calibration: dict[str, Any] | None = None
    delta: dict[str, Any] | None = None
    kv: str = "f16"
    files: tuple[Path, ...] = field(init=False)

    def __post_init__(self) -> None:
        found = [self.path] if self.path.is_file() else sorted(p for p in self.path.rglob("*") if p.is_file())
        object.__setattr__(self, "files", tuple(found))

    @property
    def name(self) -> str:
        return f"{self.format}-{self.quant}"

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    @property
    def runtime(self) -> dict[str, Any]:
        """With what the gate runs it."""
        if self.format == "onnx":
            return {"engine": "onnxruntime-genai"}
        return {"engine": "llama.cpp", "kv": self.kv, "flash_attention": False}

    def identity(self) -> str:
        """What tells this candidate's outcomes from any other's: its content, and the runtime's settings."""
        return " ".join([*map(sha256_of, self.files), *(f"{k}={v}" for k, v in self.runtime.items())])

    @contextmanager
    def open(self) -> Iterator[LlamaCppEngine | OnnxEngine]:
        engine = OnnxEngine(self.path) if self.format == "onnx" else LlamaCppEngine(self.path, kv=self.kv)
        with engine:
            yield engine


@dataclass(frozen=True)
class Workplace:
    """What candidates are made from, and where: the merged `model` and what it says, its untuned `base` (the directory
    that the adapter was merged onto) where that is known, and a directory for the files. `encode` is its tokenizer."""

    model: Path
    reference: parity.Reference
    base: Path | None
    directory: Path
    options: ExportOptions
    progress: Progress
    encode: Encode


def gguf_candidates(
    place: Workplace, conversations: Callable[[], Sequence[Sequence[int]]]
) -> tuple[dict[str, Any], list[Candidate]]:
    """What the conversion to F32 was compared on, and the files asked for, each compared with the model.

    `conversations` are token ids for the importance matrix, asked for when a kind wants one.

    Raises: ExportError naming the stage (template, tokenizer, conversion, quantization), EngineError.
    """
    options, progress = place.options, place.progress
    kinds = list(dict.fromkeys((*options.gguf, *options.controls)))
    source, base = place.directory / "model-f32.gguf", None
    progress("GGUF: convert, parity", 0, 2)
    _convert(place.model, source, options)
    if place.base is not None:
        base = place.directory / "base-f32.gguf"
        _convert(place.base, base, options)
    progress("GGUF: convert, parity", 1, 2)
    report = _plain(parity.check(place.reference, source))
    progress("GGUF: convert, parity", 2, 2)
    matrix = None
    if any(options.wants_matrix(kind) for kind in kinds):
        matrix = importance_matrix(
            place.model, conversations(), lambda done, total: progress("GGUF: importance matrix", done, total)
        )
    made = []
    for done, kind in enumerate(kinds):
        progress("GGUF: quantize, parity", done, len(kinds))
        if kind == "f32":
            # Judged with an F32 cache: it shows what the conversion alone changes, which is nothing.
            written = {"types": tensor_types(source), "fallbacks": {}}
            made.append(Candidate("gguf", kind, source, kind not in options.gguf, written, report, kv="f32"))
        else:
            made.append(_quantized(place, source, base, kind, matrix if options.wants_matrix(kind) else None))
    for finished in [base] + ([] if "f32" in kinds else [source]):  # they were steps on the way
        if finished is not None:
            finished.unlink()
    progress("GGUF: quantize, parity", len(kinds), len(kinds))
    return report, made


def _convert(model: Path, target: Path, options: ExportOptions) -> None:
    if options.converter is not None:
        convert_with(options.converter, model, target)
        return
    try:
        convert(model, target)
    except ExportError as error:
        raise ExportError(f"conversion: {model}: {error.problem}", error.hint) from error


def _quantized(
    place: Workplace, source: Path, base: Path | None, kind: str, matrix: ImportanceMatrix | None
) -> Candidate:
    target = place.directory / f"model-{kind}.gguf"
    overrides = {} if kind in UNQUANTIZED else place.options.overrides  # llama.cpp takes none for those
    quantized = quantize(source, target, kind, overrides=overrides, matrix=matrix)
    with LlamaCppEngine(target) as engine:
        compared = _plain(parity.check_quantized(place.reference, engine, kind))
    left = None
    if base is not None:
        untuned = base.with_name(f"base-{kind}.gguf")
        quantize(base, untuned, kind, overrides=overrides, matrix=matrix)
        left = survival(source, target, base, untuned)
        untuned.unlink()
        require_survival(left, target)
    return Candidate(
        "gguf",
        kind,
        target,
        kind not in place.options.gguf,
        _plain(quantized) | {"note": fallback_note(quantized), "overrides": dict(overrides)},
        compared,
        calibration=None if matrix is None else matrix.to_json(),
        delta=None if left is None else _plain(left),
    )


def onnx_candidates(place: Workplace) -> tuple[dict[str, Any], list[Candidate]]:
    """As `gguf_candidates`, for ONNX directories; the strict comparison is of the float32 graph.

    Raises: ExportError naming the stage, EngineError.
    """
    options, progress, total = place.options, place.progress, len(place.options.onnx) + 1
    full = place.directory / "onnx-fp32"
    # The untuned graphs: what shows how much of the adapter each precision keeps.
    base = None if place.base is None or set(options.onnx) == {"fp32"} else place.directory / "base-onnx-fp32"
    made = []
    with running_builder() if options.exporter == "genai" else nullcontext() as builder:

        def write(model: Path, out: Path, precision: str) -> dict[str, Any]:
            settings = {} if precision == "fp32" else options.onnx_options
            return _plain(
                export_onnx(model, out, precision, exporter=options.exporter, options=settings, builder=builder)
            )

        progress("ONNX: export, parity", 0, total)
        exported = write(place.model, full, "fp32")
        report = _plain(parity.check(place.reference, full))
        if base is not None and place.base is not None:
            write(place.base, base, "fp32")
        for done, precision in enumerate(options.onnx, 1):
            progress("ONNX: export, parity", done, total)
            if precision == "fp32":
                made.append(Candidate("onnx", precision, full, False, exported, report))
                continue
            target = place.directory / f"onnx-{precision}"
            written = write(place.model, target, precision)
            with OnnxEngine(target) as engine:
                compared = _plain(parity.check_quantized(place.reference, engine, precision))
            left = None
            if base is not None and place.base is not None:
                untuned = base.with_name(f"base-onnx-{precision}")
                write(place.base, untuned, precision)
                left = survival(full, target, base, untuned)
                shutil.rmtree(untuned)
                require_survival(left, target)
            delta = None if left is None else _plain(left)
            made.append(Candidate("onnx", precision, target, False, written, compared, delta=delta))
    for finished in [base] + ([] if "fp32" in options.onnx else [full]):  # they were steps on the way
        if finished is not None:
            shutil.rmtree(finished)
    progress("ONNX: export, parity", total, total)
    return report, made


def _plain(found: Any) -> dict[str, Any]:
    """A dataclass as JSON has it: what the manifest says is the same before it is written and after it is read."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(found)))
    return values
