"""Did the fine-tune survive? The tuned model's quantized weights against the base's, quantized in the same way.

A light fine-tune can be lost without any error: a weight that moves by less than its quantization step may round to
where it was. That is certain where the base's weights lie on the type's grid already, as those of a dequantized model
do (mlx-tune #15). Elsewhere a few weights cross a step, the more the larger the change is, so that on average the whole
of it arrives, in noise. `Survival` tells the two apart.
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

from .gguf.quantize import read_tensors

SURVIVED = 0.5
"""Of a fine-tune that survived, at least this share is left."""
_SAMPLE = 1 << 18
"""About so many weights of a tensor are dequantized at most, in rows from all over it. Bytes are compared in full."""
_PIECE = 1 << 22
"""Weights whose bytes are compared at once: bounds the memory, whatever the tensor's size."""

_SUFFIX = re.compile(r"(_Q\d+|\.q\d+|_quantized)$")
"""What ONNX Runtime's quantizers, and our own, append to a weight's name."""
_FLOATS = ("float32", "float16", "bfloat16")

Bytes = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Survival:
    """What quantization left of a fine-tune. `touched` tensors differ between tuned model and base before it.

    `unchanged` names those that quantization made equal again to the last bit. The rest is measured on a sample of the
    touched tensors' rows: `changed_share` is the share of quantized weights that differ (of bytes, where a type cannot
    be dequantized here). With D the change of the weights and Q what quantization made of it, `projection` is
    <Q, D> / <D, D>, 1 when the whole change is there and 0 when it is lost, and `alignment` the cosine between them,
    low when Q is mostly rounding noise. Both are None where nothing can be dequantized or nothing was touched,
    alignment also where Q is zero.

    `survived`: not every touched tensor is unchanged, and `projection`, where there is one, is at least `SURVIVED`.
    True when nothing was touched.
    """

    touched: int
    unchanged: tuple[str, ...]
    changed_share: float
    projection: float | None
    alignment: float | None
    survived: bool


def survival(tuned: Path, tuned_quantized: Path, base: Path, base_quantized: Path) -> Survival:
    """Compare GGUF files or ONNX directories. `tuned` and `base` are not quantized (F32 or F16; fp32); the others were
    quantized from them by the same program with the same settings.

    Raises: ExportError when a file cannot be read, or the two models do not have the same tensors.
    """
    before, after, base_before, base_after = map(_tensors, (tuned, tuned_quantized, base, base_quantized))
    for ours, theirs, path in ((before, base_before, base), (after, base_after, base_quantized)):
        if _layouts(ours) != _layouts(theirs):
            raise ExportError(f"{path} does not have the same tensors as the tuned model", "give this model's own base")
    touched = [name for name, tensor in before.items() if not _same(tensor, base_before[name])]
    if lost := [name for name in touched if name not in after]:
        raise ExportError(
            f"{tuned_quantized} has no tensor for {lost[0]} of {tuned}", "quantize it from that very model"
        )
    return _summary(
        [_compare(name, before[name], after[name], base_before[name], base_after[name]) for name in touched]
    )


def require_survival(found: Survival, path: Path) -> None:
    """Raises: ExportError when quantization left nothing of the fine-tune in the file at `path`."""
    if found.touched and len(found.unchanged) == found.touched:
        raise ExportError(
            f"quantization: nothing is left of the fine-tune in {path.name}: all {found.touched} tensors it changed "
            "are again equal to the base's",
            "choose a quantization with more bits, or train for longer",
        )


@dataclass(frozen=True)
class _Tensor:
    """A tensor that is read some rows at a time: as stored, and as weights [rows, columns], None for a type that cannot
    be dequantized here."""

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
    """One touched tensor: equal in every byte or not, units compared (weights or bytes), how many of them differ, and
    <D, D>, <Q, D>, <Q, Q>."""

    name: str
    equal: bool
    units: int
    changed: int
    products: NDArray[np.float64] | None


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
    left = after.weights(sample).astype(np.float64) - base_after.weights(sample)
    products = np.array([np.vdot(change, change), np.vdot(left, change), np.vdot(left, left)])
    return _Comparison(name, equal, left.size, int(np.count_nonzero(left)), products)


def _summary(found: Sequence[_Comparison]) -> Survival:
    unchanged = tuple(comparison.name for comparison in found if comparison.equal)
    units = sum(comparison.units for comparison in found)
    share = sum(comparison.changed for comparison in found) / units if units else 0.0
    change, both, left = sum((c.products for c in found if c.products is not None), np.zeros(3)).tolist()
    projection = both / change if change else None
    alignment = both / (change * left) ** 0.5 if change and left else None
    survived = len(unchanged) < len(found) and (projection is None or projection >= SURVIVED)
    return Survival(len(found), unchanged, share, projection, alignment, survived or not found)


def _tensors(path: Path) -> dict[str, _Tensor]:
    """Raises: ExportError."""
    try:
        return _onnx_tensors(path) if path.is_dir() else _gguf_tensors(path)
    except (EngineError, OSError, ValueError, IndexError, KeyError) as error:
        raise ExportError(f"{path} cannot be read: {error}") from error


def _gguf_tensors(path: Path) -> dict[str, _Tensor]:
    found = read_tensors(path)
    data = np.memmap(path, np.uint8, "r")
    return {
        tensor.name: _gguf_tensor(data[tensor.offset : tensor.offset + tensor.size], tensor.shape, tensor.type_id)
        for tensor in found
    }


def _gguf_tensor(data: Bytes, shape: Sequence[int], kind: int) -> _Tensor:
    """`shape` has the columns first."""
    columns, rows = shape[0], int(np.prod(shape[1:], dtype=np.int64))
    try:
        known = gguf.GGMLQuantizationType(kind)
        block, size = gguf.GGML_QUANT_SIZES[known]
        stored = data[: rows * columns // block * size].reshape(rows, -1)
        gguf.quants.dequantize(stored[:1], known)
    except (ValueError, KeyError, NotImplementedError):
        return _Tensor(str(kind), 1, data.size, lambda _: data, None)
    return _Tensor(
        known.name, rows, columns, stored.__getitem__, lambda some: gguf.quants.dequantize(stored[some], known)
    )


def _onnx_tensors(directory: Path) -> dict[str, _Tensor]:
    """The initializers of a graph by the name that they have without quantization, weights of matrix products as
    [outputs, inputs]. External data is mapped, not read."""
    import onnx_ir  # with onnxruntime-genai only

    graphs = sorted(directory.glob("*.onnx"))
    if len(graphs) != 1:
        raise ValueError(f"it holds {len(graphs)} graphs, not one")
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
    rows = array if array.ndim == 2 else array.reshape(1, -1)
    return _Tensor(
        str(rows.dtype),
        rows.shape[0],
        rows.shape[1],
        lambda some: np.ascontiguousarray(rows[some]).view(np.uint8),
        (lambda some: rows[some].astype(np.float32)) if rows.dtype.name in _FLOATS else None,
    )


def _packed(weight: Bytes, bits: int, columns: int, scales: Floats, zeros: NDArray[Any] | None = None) -> _Tensor:
    """Weights of `MatMulNBits`: [outputs, blocks, bytes of a block], low bits first, and one scale for each block."""
    rows, blocks, _ = weight.shape
    scales = scales.reshape(rows, blocks)
    middle = np.full((rows, blocks), 1 << (bits - 1), np.uint8) if zeros is None else zeros.reshape(rows, -1)
    if zeros is not None and zeros.dtype == np.uint8:
        middle = _unpacked(middle, bits)[:, :blocks]

    def stored(some: slice) -> Bytes:
        parts = (np.ascontiguousarray(part[some]).view(np.uint8) for part in (weight, scales, middle))
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    def weights(some: slice) -> Floats:
        steps = _unpacked(weight[some], bits) - middle[some, :, None].astype(np.float32)
        whole: Floats = (steps * scales[some, :, None]).reshape(len(steps), -1)[:, :columns]
        return whole

    return _Tensor(f"{bits} bits", rows, columns, stored, weights)


def _unpacked(packed: Bytes, bits: int) -> Bytes:
    """The last axis in numbers of `bits` bits, lowest first."""
    numbers = (packed[..., None] >> np.arange(0, 8, bits, dtype=np.uint8)) & np.uint8((1 << bits) - 1)
    return numbers.reshape(*packed.shape[:-1], -1)
