"""Quantization of a GGUF file by llama.cpp, in a child process.

Relied on upstream (llama-cpp-python 0.3.36, src/llama-quant.cpp): which kinds need an importance matrix, and how
fallbacks to another type are logged. tests/contracts/test_llama_cpp_quantization.py checks both.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from mentor_edge.engines.llama_cpp.engine import LlamaWorker
from mentor_edge.engines.llama_cpp.quantizer import FTYPES, TENSOR_TYPES
from mentor_edge.engines.llama_cpp.replies import Fallback, TensorInfo
from mentor_edge.errors import EngineError, ExportError, did_you_mean
from mentor_edge.files import atomic_file
from mentor_edge.results import GgufQuantization

from .importance_matrix import ImportanceMatrix

KINDS = tuple(FTYPES)
"""All kinds that llama.cpp's quantizer writes. The i-quants take minutes even for half a billion weights; tq1_0, tq2_0,
q1_0 and q2_0 are for models that were trained with such weights."""

NEED_MATRIX = ("iq2_xxs", "iq2_xs", "q2_k_s", "iq3_xs", "iq3_xxs", "iq1_s", "iq2_s", "iq2_m", "iq1_m")
"""Kinds that ruin a model without an importance matrix. llama.cpp refuses to make them without one (llama-quant.cpp,
tensor_requires_imatrix); `quantize` refuses before any work."""

_TYPES_THAT_NEED_MATRIX = ("iq3_xxs", "iq2_xxs", "iq2_xs", "iq2_s", "iq1_m", "iq1_s")
UNQUANTIZED = ("f32", "f16", "bf16")
_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"


def quantize(
    source: Path,
    target: Path,
    kind: str,
    *,
    overrides: Mapping[str, str] = MappingProxyType({}),
    matrix: ImportanceMatrix | None = None,
    threads: int = 1,
    timeout: float = 3600.0,
) -> GgufQuantization:
    """Quantize the F32, F16 or BF16 file `source` to `target`, atomically, and read back what was written.

    If a row is not a multiple of the type's block, llama.cpp falls back to another type. K-quants need multiples of 256
    columns (else q4_K becomes q5_0, q6_K q8_0, q5_K q5_1, q3_K and q2_K q4_0), most other types 32 (else f16). An
    output head whose rows do not fit becomes q8_0, which llama.cpp does not count as a fallback. Vectors stay f32, and
    a tied embedding gets more bits than the other matrices.

    `overrides` maps regular expressions, searched in tensor names, to types of single tensors ("q8_0", "q6_K"); the
    first match decides. `timeout` is the number of seconds that llama.cpp may take per tensor.

    Raises: ExportError when the kind, an override or the matrix does not fit the model, `source` is quantized already,
    or llama.cpp fails, for example on a full disk; EngineError when `source` is damaged or llama.cpp crashes, hangs or
    runs out of memory. The messages name the stage and the file.
    """
    _check_kind(kind, overrides, matrix)
    if not source.is_file():
        raise ExportError(f"{source} does not exist", "convert the model first")
    with atomic_file(target) as temporary, _stage(), LlamaWorker(timeout) as worker:
        tensors = worker.tensors(source)
        matrices = _quantizable(tensors, source, kind)
        types = _types_by_name(matrices, overrides, source)
        if matrix is not None:
            _check_matrix(matrix, matrices, source)
        for name, type_ in types.items():
            if type_ in _TYPES_THAT_NEED_MATRIX and (matrix is None or name not in matrix.values):
                raise ExportError(
                    f"{name} cannot become {type_} without importances", "give an importance matrix, or another type"
                )
        importances = {} if matrix is None else {name: _base64(values) for name, values in matrix.values.items()}
        reply = worker.quantize(source, temporary, kind, threads=threads, types=types, matrix=importances)
        if reply.code != 0:
            reason = reply.log[-1] if reply.log else f"return code {reply.code}"
            raise ExportError(
                f"quantization: llama.cpp could not quantize {source} to {kind}: {reason}",
                "the disk must have room for the target, and memory for the rows of the largest tensor",
            )
        written = worker.tensors(temporary, "reading back")
        _check_overrides_took(types, written, reply.fallbacks)
        return _quantized(written, reply.fallbacks, overrides)


def tensor_types(path: Path) -> dict[str, int]:
    """The number of tensors of each type in a GGUF file, in llama.cpp's spelling, most frequent first.

    Raises: EngineError when the file is missing, truncated or not GGUF.
    """
    return _count(tensor.type for tensor in read_tensors(path))


def read_tensors(path: Path) -> list[TensorInfo]:
    """The tensors that the header of a GGUF file lists, as llama.cpp reads it.

    Raises: EngineError when the file is missing, truncated or not GGUF.
    """
    if not path.is_file():
        raise EngineError(f"no such file: {path}", "give the path of a .gguf file")
    with LlamaWorker(timeout=60.0) as worker:
        return worker.tensors(path)


@contextmanager
def _stage() -> Iterator[None]:
    """Prefix every error of the child process with the stage."""
    try:
        yield
    except EngineError as error:
        raise EngineError(f"quantization: {error.problem}", error.hint) from error


def _check_kind(kind: str, overrides: Mapping[str, str], matrix: ImportanceMatrix | None) -> None:
    if kind not in KINDS:
        raise ExportError(f"cannot quantize to {kind!r}{did_you_mean(kind, KINDS)}", f"supported: {', '.join(KINDS)}")
    if kind in NEED_MATRIX and matrix is None:
        raise ExportError(
            f"{kind} has too few bits to be useful without an importance matrix",
            "compute one with importance_matrix(...), or choose q2_k, iq3_s or any larger kind",
        )
    if overrides and kind in UNQUANTIZED:
        raise ExportError(f"llama.cpp takes no overrides for {kind}", "quantize to q8_0 and override to f16 instead")


def _quantizable(tensors: Sequence[TensorInfo], source: Path, kind: str) -> dict[str, int]:
    """The row width of every matrix that llama.cpp would quantize."""
    if quantized := _count(tensor.type for tensor in tensors if tensor.type not in UNQUANTIZED):
        raise ExportError(
            f"{source} is quantized already (it contains {', '.join(quantized)})",
            "quantizing twice loses more than quantizing once: start from the F32 or F16 file",
        )
    if kind == "mxfp4_moe" and not any(tensor.shape[2] > 1 for tensor in tensors):
        raise ExportError(
            f"mxfp4_moe is for mixtures of experts, and {source} has no experts: every matrix would become q8_0",
            "use q8_0, or override single tensors to mxfp4",
        )
    return {
        tensor.name: tensor.shape[0]
        for tensor in tensors
        if max(tensor.shape[1:]) > 1 and tensor.name.endswith(".weight") and "_norm." not in tensor.name
    }


def _types_by_name(matrices: Mapping[str, int], overrides: Mapping[str, str], source: Path) -> dict[str, str]:
    """The type of every overridden tensor.

    llama.cpp could match the patterns itself, but std::regex has another syntax, and a pattern without a match would be
    ignored.
    """
    spelling = {name.lower(): name for name in TENSOR_TYPES}
    types: dict[str, str] = {}
    for pattern, type_ in overrides.items():
        if type_.lower() not in spelling:
            raise ExportError(
                f"the override {pattern!r} has the unknown type {type_!r}{did_you_mean(type_, spelling)}",
                f"types of single tensors: {', '.join(spelling)}",
            )
        try:
            matched = [name for name in matrices if re.search(pattern, name)]
        except re.error as error:
            raise ExportError(f"the override {pattern!r} is not a regular expression: {error}") from error
        if not matched:
            raise ExportError(
                f"the override {pattern!r} matches no matrix of {source}",
                f"names look like {', '.join(list(matrices)[:3])}; vectors are never quantized",
            )
        for name in matched:
            types.setdefault(name, spelling[type_.lower()])
    return types


def _check_matrix(matrix: ImportanceMatrix, matrices: Mapping[str, int], source: Path) -> None:
    # An embedding that is not also the head is looked up, never multiplied: it has no inputs to measure.
    needed = set(matrices) - ({_EMBEDDING} if _HEAD in matrices else set())
    problems = [f"lacks {name}" for name in sorted(needed - set(matrix.values))]
    problems += [f"has {name}, which the file lacks" for name in sorted(set(matrix.values) - set(matrices))]
    for name, values in matrix.values.items():
        if name in matrices and values.shape != (matrices[name],):
            problems.append(f"has {values.size} importances for {name}, whose rows have {matrices[name]}")
        elif not np.isfinite(values).all() or (values < 0).any() or not values.any():
            problems.append(f"has importances for {name} that are negative, not finite or all zero")
    if problems:
        more = f" and {len(problems) - 3} more problems" if len(problems) > 3 else ""
        raise ExportError(
            f"the importance matrix does not fit {source}: it {', '.join(problems[:3])}{more}",
            "compute it from the model that the file was converted from",
        )


def _check_overrides_took(
    types: Mapping[str, str], written: Sequence[TensorInfo], fallbacks: Sequence[Fallback]
) -> None:
    fell_back = {fallback.tensor for fallback in fallbacks}
    for tensor in written:
        requested = types.get(tensor.name, tensor.type)
        if tensor.type != requested and tensor.name not in fell_back:
            raise ExportError(
                f"llama.cpp wrote {tensor.name} as {tensor.type} instead of the requested {requested}",
                "it never quantizes some tensors: leave this one out of the overrides",
            )


def _quantized(
    written: Sequence[TensorInfo], fallbacks: Sequence[Fallback], overrides: Mapping[str, str]
) -> GgufQuantization:
    return GgufQuantization(
        types=_count(tensor.type for tensor in written),
        fallbacks=_count(f"{fallback.intended} -> {fallback.written}" for fallback in fallbacks),
        uneven_rows=tuple(sorted({(fallback.row_width, fallback.block) for fallback in fallbacks})),
        overrides=dict(overrides),
    )


def _count(names: Iterator[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _base64(values: np.ndarray[Any, np.dtype[np.float32]]) -> str:
    return base64.b64encode(np.ascontiguousarray(values, np.float32).tobytes()).decode()
