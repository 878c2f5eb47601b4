"""Reads back from an ONNX graph which operators it has and how it stores its weights, without reading the weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mentor_edge.errors import ExportError
from mentor_edge.results import OnnxWeights

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

_MATMULS = ("MatMul", "FusedMatMul", "Gemm", "MatMulNBits", "MatMulInteger", "DynamicQuantizeMatMul")
"""Matrix products. Their second input is the weight."""
_LOOKUPS = ("Gather", "GatherBlockQuantized")
_FLOATS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def quantization_of(graph: Path) -> OnnxWeights:
    """How the weights of a language model's graph are stored.

    Raises: ExportError when the file is missing or is not an ONNX graph.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        loaded = onnx.load(graph, load_external_data=False).graph
        if not loaded.node or not all(isinstance(node.op_type, str) for node in loaded.node):  # else not UTF-8
            raise ValueError("it has no operators, or their names are damaged")
        return _Weights(loaded).describe()
    except (OSError, DecodeError, ValueError) as error:
        raise ExportError(f"{graph} cannot be read as an ONNX graph: {error}", "export the model again") from error


class _Weights:
    """The nodes and stored tensors of a graph, by name."""

    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        self._types = {tensor.name: tensor.data_type for tensor in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output}

    def describe(self) -> OnnxWeights:
        matrices = [
            node for node in self._graph.node if node.op_type in _MATMULS and self._table(_input(node, 1)) is not None
        ]
        head, embedding = self._head(), self._embedding()
        blocks = [node for node in matrices if node.op_type == "MatMulNBits"]
        tables = [None if node is None else self._table(_weight(node)) for node in (head, embedding)]
        return OnnxWeights(
            operators=dict(Counter(node.op_type for node in self._graph.node).most_common()),
            body=dict(Counter(self._precision(node) for node in matrices if node is not head).most_common()),
            head=None if head is None else self._precision(head),
            embedding=None if embedding is None else self._precision(embedding),
            head_shares_embedding=tables[0] is not None and tables[0] == tables[1],
            block_size=_distinct(_integer(node, "block_size") for node in blocks),
            accuracy_level=_distinct(_integer(node, "accuracy_level") for node in blocks),
            symmetric=_distinct(not _input(node, 3) for node in blocks),
        )

    def _head(self) -> NodeProto | None:
        """The last product with weights before the logits. A bias, a cap or a conversion may follow it."""
        outputs = [output.name for output in self._graph.output]
        name = "logits" if "logits" in outputs else next(iter(outputs), "")
        for _ in self._graph.node:  # at most as many steps as nodes, even in a graph with a cycle
            node = self._producers.get(name)
            if node is None or node.op_type in _MATMULS:
                return node
            name = next((name for name in node.input if name not in self._types), "")
        return None

    def _embedding(self) -> NodeProto | None:
        lookups = [node for node in self._graph.node if node.op_type in _LOOKUPS]
        return next((node for node in lookups if _input(node, 1) == "input_ids"), None)

    def _table(self, name: str) -> str | None:
        """The stored tensor of a weight, looked up through changes of its shape."""
        for _ in self._graph.node:
            if name in self._types:
                return name
            node = self._producers.get(name)
            if node is None or node.op_type not in ("Reshape", "Transpose"):
                return None
            name = _input(node, 0)
        return None

    def _precision(self, node: NodeProto) -> str:
        if node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
            return f"int{_integer(node, 'bits') or 4}"  # 4 is the operators' default
        from onnx import TensorProto

        table = self._table(_weight(node))
        kind = TensorProto.DataType.Name(self._types[table]).lower() if table is not None else "computed"
        return _FLOATS.get(kind, kind)


def _weight(node: NodeProto) -> str:
    return _input(node, 0 if node.op_type in _LOOKUPS else 1)


def _input(node: NodeProto, index: int) -> str:
    """The name of an input; empty for an optional input that is missing."""
    return node.input[index] if index < len(node.input) else ""


def _integer(node: NodeProto, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def _distinct(values: Iterable[Any]) -> Any:
    """The value if all are equal, else the distinct values in order; None without values."""
    distinct = tuple(sorted(set(values)))
    return distinct[0] if len(distinct) == 1 else distinct or None
