"""What export/onnx/quantize_weights.py relies on in ONNX Runtime 1.32: the layout of its quantized operators.

Upstream file: `docs/ContribOperators.md` (MatMulNBits, GatherBlockQuantized).
"""

from __future__ import annotations

import numpy as np
import pytest

ir = pytest.importorskip("onnx_ir", reason="onnx_ir is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from mentor_edge.export.onnx.quantize_weights import quantize_weights  # noqa: E402 - the packages may be missing


def test_both_operators_read_one_table_of_symmetric_blocks() -> None:
    rows, width = 96, 64
    weights = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    graph = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>
        tied (int64[1, n] input_ids) => (float[1, n, {rows}] logits, float[1, n, {width}] row)
        <float[{rows}, {width}] table = {{{", ".join(map(str, weights.ravel()))}}}>
        {{ row = Gather(table, input_ids)
           logits = com.microsoft.FusedMatMul<transB=1>(row, table) }}"""
    )
    quantize_weights(graph, 4)
    stored = [value.const_value.nbytes for value in graph.graph.initializers.values()]
    assert max(stored) == rows * width and sum(stored) < 1.2 * rows * width
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
    logits, rows_read = session.run(["logits", "row"], {"input_ids": np.arange(rows)[None]})
    # The largest weight of a block becomes -128 steps. Its opposite would be 128 steps, which is one step too many.
    steps = np.abs(weights.reshape(rows, -1, 32)).max(2, keepdims=True) / 128
    errors = np.abs(rows_read[0] - weights).reshape(rows, -1, 32) / steps
    assert errors.max() < 1.01 and (errors < 0.501).mean() > 0.99
    assert np.abs(logits[0] - weights @ weights.T).max() < 1.0  # of up to 100, with activations in 8 bits too
