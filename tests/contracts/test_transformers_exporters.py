"""What export/onnx/capture_worker.py relies on in transformers 5.23's exporters.

Upstream files: `transformers/exporters/` (OnnxExporter, OnnxConfig), `torch/onnx` with dynamic shapes. The other
families are in tests/export/test_onnx_exporters.py, marked slow.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from helpers.onnx_conversations import PROMPTS, converse
from helpers.onnx_students import torch_logits
from helpers.tiny_models import make_student
from mentor_edge.engines.onnx.engine import OnnxEngine
from mentor_edge.engines.torch.engine import TransformersEngine
from mentor_edge.export.onnx.export import export_onnx

ir = pytest.importorskip("onnx_ir", reason="onnx_ir is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
LAYERS = 2


@pytest.mark.slow
def test_one_graph_serves_prompts_single_tokens_and_continuations(tmp_path: Path) -> None:
    student, directory = make_student(tmp_path / "student", "qwen3"), tmp_path / "onnx"
    written = export_onnx(student, directory, "fp32", exporter="transformers")
    assert (written.exporter, written.precision) == ("transformers", "fp32")
    assert written.weights.body.keys() == {"fp32"}
    graph = ir.load(directory / "model.onnx").graph
    operators = Counter(node.op_type for node in graph)
    assert operators["GroupQueryAttention"] == LAYERS, "the attention is not fused"
    caches = {f"input.past_key_values.layers.{layer}.{part}" for layer in range(LAYERS) for part in ("keys", "values")}
    assert {value.name for value in graph.inputs} == {"input_ids", "position_ids"} | caches  # no attention mask
    with OnnxEngine(directory) as engine:
        difference = engine.logits(PROMPTS[2]) - torch_logits(student, PROMPTS[2])
        assert np.abs(difference).max() < 1e-3
        assert converse(engine) == converse(TransformersEngine.load(student))
