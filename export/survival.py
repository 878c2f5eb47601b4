"""Did the fine-tune survive quantization? Compares the tuned model with its base, quantized in the same way.

A light fine-tune can be lost without any error: a weight that moves by less than its quantization step may round back
to its old value. That is certain if the base's weights already lie on the type's grid, as those of a dequantized model
do (mlx-tune #15). Otherwise some weights cross a step, and the larger the change, the more of them. On average the
whole change then survives, in noise. `Survival` (mentor_edge/results.py) distinguishes the two cases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from mentor_edge.errors import EngineError, ExportError
from mentor_edge.results import Survival

from .gguf.quantize import read_tensors

SURVIVED = 0.5
"""A fine-tune survived if at least this share of it is left."""
_SAMPLE = 1 << 18
"""About how many weights of a tensor are dequantized, in evenly spread rows. Bytes are compared in full."""
_PIECE = 1 << 22
"""Weights whose bytes are compared at once, which bounds the memory for tensors of any size."""

_SUFFIX = re.compile(r"(_Q\d+|\.q\d+|_quantized)$")
"""Suffixes that ONNX Runtime's quantizers and ours append to a weight's name."""
_FLOATS = ("float32", "float16", "bfloat16")

Bytes = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]


def measure_survival(tuned: Path, tuned_quantized: Path, base: Path, base_quantized: Path) -> Survival:
    """Compare GGUF files or ONNX directories. `tuned` and `base` are unquantized (F32 or F16; fp32). The other two
    were quantized from them by the same program with the same settings.

    Raises: ExportError when a file cannot be read, or the two models do not have the same tensors.
    """
    before, after, base_before, base_after = map(_read_tensors, (tuned, tuned_quantized, base, base_quantized))
    for ours, theirs, path in ((before, base_before, base), (after, base_after, base_quantized)):
        if _layouts(ours) != _layouts(theirs):
            raise ExportError(
                f"{path} does not have the same tensors as the tuned model",
                "give the base that this model was tuned from",
            )
    touched = [name for name, tensor in before.items() if not _same(tensor, base_before[name])]
    if missing := [name for name in touched if name not in after]:
        raise ExportError(f"{tuned_quantized} has no tensor for {missing[0]} of {tuned}", "quantize it from that model")
    return _summary(
        [_compare(name, before[name], after[name], base_before[name], base_after[name]) for name in touched]
    )


def require_survival(result: Survival, path: Path) -> None:
    """Raises: ExportError when quantization left nothing of the fine-tune in the file at `path`."""
    if result.touched and len(result.unchanged) == result.touched:
        raise ExportError(
            f"quantization: nothing is left of the fine-tune in {path.name}: all {result.touched} tensors it changed "
            "are equal to the base's again",
            "choose a quantization with more bits, or train for longer",
        )


@dataclass(frozen=True)
class _Tensor:
    """A tensor that is read a few rows at a time: its stored bytes, and its weights [rows, columns] (None for a type
    that cannot be dequantized here)."""

    kind: str
    rows: int
    columns: int
    stored: Callable[[slice], Bytes]
    weights: Callable[[slice], Floats] | None

    def pieces(self) -> Iterator[slice]:
        step = max(1, _PIECE // max(1, self.columns))
        return (slice(start, start + step) for start in range(0, self.rows, step))


@dataclass(frozen=True)
class _Comparison:
    """One touched tensor before and after quantization."""

    name: str
    equal: bool
    """Whether every byte is equal after quantization."""
    units: int
    """Weights compared, or bytes for a type that cannot be dequantized."""
    changed: int
    """Units that differ."""
    products: NDArray[np.float64] | None
    """<D, D>, <Q, D>, <Q, Q> (see `Survival`)."""


def _layouts(tensors: Mapping[str, _Tensor]) -> dict[str, tuple[str, int, int]]:
    return {name: (tensor.kind, tensor.rows, tensor.columns) for name, tensor in tensors.items()}


def _same(left: _Tensor, right: _Tensor) -> bool:
    return all(np.array_equal(left.stored(piece), right.stored(piece)) for piece in left.pieces())


def _compare(name: str, before: _Tensor, after: _Tensor, base_before: _Tensor, base_after: _Tensor) -> _Comparison:
    equal = _same(after, base_after)
    same_shape = (before.rows, before.columns) == (after.rows, after.columns)
    if not (same_shape and before.weights and after.weights and base_before.weights and base_after.weights):
        pairs = [(after.stored(piece), base_after.stored(piece)) for piece in after.pieces()]
        return _Comparison(name, equal, sum(a.size for a, _ in pairs), sum(int((a != b).sum()) for a, b in pairs), None)
    sample = slice(0, before.rows, -(-before.rows * before.columns // _SAMPLE))
    change = before.weights(sample).astype(np.float64) - base_before.weights(sample)
    quantized = after.weights(sample).astype(np.float64) - base_after.weights(sample)
    products = np.array([np.vdot(change, change), np.vdot(quantized, change), np.vdot(quantized, quantized)])
    return _Comparison(name, equal, quantized.size, int(np.count_nonzero(quantized)), products)


def _summary(comparisons: Sequence[_Comparison]) -> Survival:
    unchanged = tuple(comparison.name for comparison in comparisons if comparison.equal)
    units = sum(comparison.units for comparison in comparisons)
    measured = [comparison.products for comparison in comparisons if comparison.products is not None]
    change, overlap, quantized = sum(measured, np.zeros(3)).tolist()
    projection = overlap / change if change else None
    survived = len(unchanged) < len(comparisons) and (projection is None or projection >= SURVIVED)
    return Survival(
        touched=len(comparisons),
        unchanged=unchanged,
        changed_share=sum(comparison.changed for comparison in comparisons) / units if units else 0.0,
        projection=projection,
        alignment=overlap / (change * quantized) ** 0.5 if change and quantized else None,
        survived=survived or not comparisons,
    )


def _read_tensors(path: Path) -> dict[str, _Tensor]:
    """Raises: ExportError."""
    try:
        return _onnx_tensors(path) if path.is_dir() else _gguf_tensors(path)
    except (EngineError, OSError, ValueError, IndexError, KeyError) as error:
        raise ExportError(f"{path} cannot be read: {error}") from error


def _gguf_tensors(path: Path) -> dict[str, _Tensor]:
    data = np.memmap(path, np.uint8, "r")
    return {
        tensor.name: _gguf_tensor(data[tensor.offset : tensor.offset + tensor.size], tensor.shape, tensor.type_id)
        for tensor in read_tensors(path)
    }


def _gguf_tensor(data: Bytes, shape: Sequence[int], kind: int) -> _Tensor:
    """`shape` has the columns first."""
    columns, rows = shape[0], int(np.prod(shape[1:], dtype=np.int64))
    try:
        type_ = gguf.GGMLQuantizationType(kind)
        block, size = gguf.GGML_QUANT_SIZES[type_]
        stored = data[: rows * columns // block * size].reshape(rows, -1)
        gguf.quants.dequantize(stored[:1], type_)
    except (ValueError, KeyError, NotImplementedError):
        return _Tensor(str(kind), 1, data.size, lambda _: data, None)
    return _Tensor(
        type_.name, rows, columns, stored.__getitem__, lambda part: gguf.quants.dequantize(stored[part], type_)
    )


def _onnx_tensors(directory: Path) -> dict[str, _Tensor]:
    """The initializers of a graph by their names before quantization. Weights of matrix products are
    [outputs, inputs]. External data is mapped, not read."""
    import onnx_ir  # installed with onnxruntime-genai only

    graphs = sorted(directory.glob("*.onnx"))
    if len(graphs) != 1:
        raise ValueError(f"it contains {len(graphs)} graphs instead of one")
    graph = onnx_ir.load(graphs[0]).graph
    arrays = {name: value.const_value.numpy() for name, value in graph.initializers.items() if value.const_value}
    tensors = {name: _array(array) for name, array in arrays.items()}
    for node in graph.all_nodes():
        weight, *others = (value.name if value is not None else None for value in node.inputs[1:4] or [None])
        if weight not in arrays:
            continue
        if node.op_type == "MatMul" and arrays[weight].ndim == 2:
            tensors[weight] = _array(arrays[weight].T)
        elif node.op_type == "MatMulNBits":
            del tensors[weight]
            bits, columns = node.attributes["bits"].as_int(), node.attributes["K"].as_int()
            scales, *zeros = (arrays[name] for name in others if name)
            tensors[_SUFFIX.sub("", weight)] = _packed(arrays[weight], bits, columns, scales, *zeros)
    return tensors


def _array(array: NDArray[Any]) -> _Tensor:
    matrix = array if array.ndim == 2 else array.reshape(1, -1)
    return _Tensor(
        str(matrix.dtype),
        matrix.shape[0],
        matrix.shape[1],
        lambda rows: np.ascontiguousarray(matrix[rows]).view(np.uint8),
        (lambda rows: matrix[rows].astype(np.float32)) if matrix.dtype.name in _FLOATS else None,
    )


def _packed(weight: Bytes, bits: int, columns: int, scales: Floats, zeros: NDArray[Any] | None = None) -> _Tensor:
    """Weights of `MatMulNBits`: [outputs, blocks, bytes of a block], low bits first, and one scale for each block."""
    height, blocks, _ = weight.shape
    scales = scales.reshape(height, blocks)
    zero_points = np.full((height, blocks), 1 << (bits - 1), np.uint8) if zeros is None else zeros.reshape(height, -1)
    if zeros is not None and zeros.dtype == np.uint8:
        zero_points = _unpacked(zero_points, bits)[:, :blocks]

    def stored(rows: slice) -> Bytes:
        parts = (np.ascontiguousarray(part[rows]).view(np.uint8) for part in (weight, scales, zero_points))
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    def weights(rows: slice) -> Floats:
        steps = _unpacked(weight[rows], bits) - zero_points[rows, :, None].astype(np.float32)
        values: Floats = (steps * scales[rows, :, None]).reshape(len(steps), -1)[:, :columns]
        return values

    return _Tensor(f"{bits} bits", height, columns, stored, weights)


def _unpacked(packed: Bytes, bits: int) -> Bytes:
    """Split the last axis into numbers of `bits` bits, lowest bits first."""
    numbers = (packed[..., None] >> np.arange(0, 8, bits, dtype=np.uint8)) & np.uint8((1 << bits) - 1)
    return numbers.reshape(*packed.shape[:-1], -1)
