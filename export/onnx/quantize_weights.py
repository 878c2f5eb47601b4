"""Weight quantization of an ONNX graph: every matrix in blocks of 8- or 4-bit numbers, each block with a float scale.

ONNX Runtime's own graph quantizer finds neither the head of a fused graph (`FusedMatMul` with a transposed weight) nor
an 8-bit embedding. With a vocabulary of 151,936 these are most of a small model. So this module rewrites the graph one
matrix at a time, and uses ONNX Runtime's kernels to quantize.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, DefaultWeightOnlyQuantizer

BLOCK = 32  # weights that share a scale, along the dimension that a product sums over
ACCURACY_LEVEL = 4  # the runtime multiplies in 8-bit integers
HEAD_BITS = 8  # four bits in the head would cost far more accuracy than the bytes they save are worth
RUNTIME_DOMAIN = "com.microsoft"  # the domain of operators that only ONNX Runtime has


def quantize_weights(model: ir.Model, bits: int) -> None:
    """Turn every product with a constant matrix into `MatMulNBits`, and the embedding into `GatherBlockQuantized`.

    `bits` is 8 or 4. The embedding and the head (the product that computes `logits`) always get 8. If their weights are
    equal, as in a model with a tied head, they share one table. Blocks are symmetric. An embedding whose width is not a
    multiple of 32 stays float.

    Relied on upstream (ONNX Runtime 1.32, docs/ContribOperators.md): both operators read tables of unsigned bytes
    `[rows, blocks, bytes]` and scales `[rows, blocks]`, with the middle of the range for zero.
    tests/contracts/test_onnxruntime_operators.py checks this.
    """
    model.opset_imports[RUNTIME_DOMAIN] = 1
    quantizer = _Quantizer(model.graph)
    head = next(value for value in model.graph.outputs if value.name == "logits").producer()
    for node in tuple(model.graph):
        if node.op_type in ("MatMul", "FusedMatMul"):
            quantizer.quantize_product(node, HEAD_BITS if node is head else bits)
        elif node.op_type == "Gather":
            quantizer.quantize_lookup(node)


class _Quantizer:
    """Replaces nodes of one graph. Equal tables are stored once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._tables: dict[bytes, tuple[ir.Value, ir.Value]] = {}

    def quantize_product(self, node: ir.Node, bits: int) -> None:
        if (weight := _matrix(node.inputs[1])) is None:
            return
        if "transB" in node.attributes and node.attributes["transB"].as_int():
            weight = weight.T
        columns, rows = weight.shape
        attributes = {"K": columns, "N": rows, "bits": bits, "block_size": BLOCK, "accuracy_level": ACCURACY_LEVEL}
        inputs = [node.inputs[0], *self._table(node.inputs[1], weight, bits)]
        self._replace(node, 1, [ir.node("MatMulNBits", inputs, attributes, domain=RUNTIME_DOMAIN, name=node.name)])

    def quantize_lookup(self, node: ir.Node) -> None:
        if (weight := _matrix(node.inputs[0])) is None or weight.shape[1] % BLOCK:
            return
        table, scales = self._table(node.inputs[0], weight.T, HEAD_BITS)
        # This operator expects scales with as many dimensions as the table, and returns the rows in blocks.
        expanded = ir.node("Unsqueeze", [scales, self._constant([-1])])
        attributes = {"gather_axis": 0, "quantize_axis": 2, "block_size": BLOCK, "bits": HEAD_BITS}
        inputs = [table, node.inputs[1], expanded.outputs[0]]
        blocks = ir.node("GatherBlockQuantized", inputs, attributes, domain=RUNTIME_DOMAIN, name=node.name)
        row = ir.node("Reshape", [blocks.outputs[0], self._constant([0, 0, weight.shape[1]])])
        self._replace(node, 0, [expanded, blocks, row])

    def _table(self, old: ir.Value | None, weight: npt.NDArray[np.float32], bits: int) -> tuple[ir.Value, ir.Value]:
        """The blocks and scales of a matrix `[columns, rows]`; products sum over its columns."""
        assert old is not None
        kernel = DefaultWeightOnlyQuantizer(DefaultWeightOnlyQuantConfig(BLOCK, is_symmetric=True, bits=bits))
        blocks, scales, _ = kernel.qbits_block_quant(np.ascontiguousarray(weight))  # it ignores strides
        key = hashlib.sha256(blocks).digest() + hashlib.sha256(scales).digest()
        if key not in self._tables:
            self._tables[key] = (
                self._initializer(f"{old.name}.q{bits}", blocks),
                self._initializer(f"{old.name}.scales{bits}", scales),
            )
        return self._tables[key]

    def _constant(self, numbers: list[int]) -> ir.Value:
        return self._initializer(f"shape_{'_'.join(map(str, numbers))}", np.array(numbers, np.int64))

    def _initializer(self, name: str, values: npt.NDArray[np.generic]) -> ir.Value:
        tensor = ir.Tensor(values, name=name)
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def _replace(self, node: ir.Node, weight_index: int, new: list[ir.Node]) -> None:
        """Replace `node` by `new`, and drop its weight (input `weight_index`) if no other node uses it."""
        weight = node.inputs[weight_index]
        ir.convenience.replace_nodes_and_values(self._graph, node, [node], new, node.outputs, new[-1].outputs)
        if weight is not None and not weight.uses():
            del self._graph.initializers[str(weight.name)]


def _matrix(value: ir.Value | None) -> npt.NDArray[np.float32] | None:
    """The values of a constant float matrix; None for everything else."""
    tensor = value.const_value if value is not None and value.is_initializer() else None
    return (
        tensor.numpy()
        if tensor is not None and tensor.dtype is ir.DataType.FLOAT and tensor.shape.rank() == 2
        else None
    )
