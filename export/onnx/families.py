"""The model families that onnxruntime-genai's builder exports correctly, as measured against transformers.

To add a family:

1. Add its architecture (the first entry of `architectures` in config.json) to `FAMILIES`.
2. Add it to `FAMILIES` in tests/helpers/tiny_models.py and to `STUDENTS` in tests/helpers/onnx_students.py. The tests
   then export a tiny model of the family and compare its logits, conversations and quantized graphs with torch.
3. If the builder gets the family wrong, correct it in `builder_patches.py`, and pin the upstream fault in
   tests/contracts/test_genai_builder.py.

The other exporters (`--exporter transformers`, `--exporter optimum`) try every architecture; parity with torch decides.
For GGUF see `mentor_edge.export.gguf.families`.
"""

from __future__ import annotations

from collections.abc import Mapping

FAMILIES: Mapping[str, str] = {
    "Qwen2ForCausalLM": "Qwen2",
    "Qwen3ForCausalLM": "Qwen3",
    "LlamaForCausalLM": "Llama",
    "SmolLM3ForCausalLM": "SmolLM3",
    "Gemma3ForCausalLM": "Gemma 3 (text)",
}
"""The name of each supported family, by its architecture in transformers."""
