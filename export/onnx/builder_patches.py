"""Corrections to onnxruntime-genai's model builder, applied in the child process before it builds.

Relied on upstream (onnxruntime-genai 0.18, models/builder.py and models/builders/): the names and signatures that
`apply` replaces. tests/contracts/test_genai_builder.py checks them, and reproduces every fault corrected here in the
unpatched library, so that a test fails when an upgrade fixes or moves one.
"""

from __future__ import annotations

from typing import Any


def apply(builder: Any) -> None:
    """Replace what the builder of onnxruntime-genai 0.18 gets wrong. `builder` is its module."""

    def has_lm_head(model: Any, module: Any) -> bool:
        # Upstream takes the first linear layer that has as many outputs as the vocabulary has tokens.
        return module is model.weights.lm_head

    shared_names = builder.Model.make_tied_quantized_embedding_input_names

    def default_shared_names(model: Any) -> tuple[int, str, str, str]:
        # Upstream looks up the table shared by head and embedding under a name that the default quantizer uses only for
        # symmetric 4-bit weights.
        if model.quantization_algo != "default":
            return shared_names(model)
        quant_type = model.matmul_mixed_precision.get("last_matmul", f"int{model.quant_attrs['bits']}")
        bits, weight = int(quant_type.removeprefix("int")), "lm_head.MatMul.weight"
        zero_points = "" if model.quant_attrs["is_symmetric"] else f"{weight}_zero_points"
        return bits, f"{weight}_Q{bits}", f"{weight}_scales", zero_points

    class SmolLM3Model(builder.SmolLM3Model):
        def make_attention(self, layer_id: int, attention: Any, root_input: str, **kwargs: Any) -> None:
            # In layers without rotary embedding, upstream uses a separate rotary embedding instead of none.
            self.attention_attrs["rope"] = bool(self.no_rope_layers[layer_id])
            super().make_attention(layer_id, attention, root_input, **kwargs)

    class Gemma3Model(builder.Gemma3Model):
        def __init__(self, config: Any, *arguments: Any) -> None:
            # Upstream expects the configuration of transformers 4.
            rope = config.rope_parameters
            config.rope_local_base_freq = rope["sliding_attention"]["rope_theta"]
            config.rope_parameters = dict(rope["full_attention"])
            super().__init__(config, *arguments)
            self.embed_attrs["scale"] = self.hidden_size**0.5  # upstream rounds it to two decimals

        def make_rotary_embedding_caches_from_scratch(self) -> Any:
            # The first call is for full attention. Upstream scales the positions of the sliding layers, too.
            if hasattr(self, "cos_cache_local_name"):
                self.rope_attrs["rescale_factors"] = 1
            return super().make_rotary_embedding_caches_from_scratch()

    builder.Model.has_lm_head = has_lm_head
    builder.Model.make_tied_quantized_embedding_input_names = default_shared_names
    builder.SmolLM3Model = SmolLM3Model
    builder.Gemma3Model = Gemma3Model
