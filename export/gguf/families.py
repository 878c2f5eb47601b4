"""The model families that llama.cpp runs exactly as transformers does, and how their architectures differ.

To add a family:

1. Read its graph in llama.cpp (`src/models/*.cpp`) and its class in transformers (`modeling_*.py`), and add a `Family`
   to `FAMILIES`, keyed by the architecture (the first entry of `architectures` in config.json). If it differs in a way
   that no field of `Family` covers, add a field here and use it in `model_config` (how weights and hyperparameters are
   written) and `config_checks` (what is refused).
2. If its tokenizer is refused, add its pre-tokenizer to `byte_level_tokenizer.PRE_TOKENIZERS`.
3. Add it to `FAMILIES` in tests/helpers/tiny_models.py: every test of conversion, calibration, parity and engines then
   compares a tiny model of the family with transformers. Add what must be refused to tests/export/test_gguf_convert.py.

For ONNX see `mentor_edge.export.onnx.families`. A family that is missing here may still be converted by llama.cpp's own
script (`upstream_converter`).

Read from llama.cpp's `src/models/*.cpp` and `src/llama-context.cpp` as of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gguf

_QKV = ("q_proj.bias", "k_proj.bias", "v_proj.bias")
_MLP = ("gate_proj.bias", "up_proj.bias", "down_proj.bias")


@dataclass(frozen=True)
class Family:
    """One architecture of transformers in llama.cpp's terms."""

    name: str
    """The display name, such as "Gemma 3 (text)"."""
    architecture: gguf.MODEL_ARCH
    """llama.cpp's architecture, which also determines the names of the tensors."""
    biases: tuple[str, ...] = _QKV
    """Endings of the biases that llama.cpp can load in this architecture."""
    rotates_adjacent_pairs: bool = False
    """Whether llama.cpp rotates adjacent pairs of a head's dimensions. transformers always rotates (first half, second
    half)."""
    norms_add_one: bool = False
    """Whether transformers multiplies by 1 + weight in norms. llama.cpp always multiplies by the weight."""
    heads_fill_width: bool = False
    """Whether llama.cpp requires heads times head size to equal the model's width."""
    scalings: tuple[str, ...] = ("default", "linear", "yarn")
    """Types of rope scaling that llama.cpp supports in this architecture."""
    activation: str = "silu"
    """The only activation that llama.cpp has in this architecture."""
    unrotated_interval: int | None = None
    """In llama.cpp, every n-th layer has no rotary embedding. None: every layer has one."""
    sliding_interval: int | None = None
    """In llama.cpp, every n-th layer attends to all positions, and the others to a sliding window. None: all layers
    attend to all positions."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values that transformers uses for entries missing from config.json, if they differ from other families'."""


_GEMMA3_DEFAULTS = {
    "head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096, "rope_theta": 1e6,
    "rope_local_base_freq": 1e4, "hidden_act": "gelu_pytorch_tanh",
}  # a table  # fmt: skip
FAMILIES: Mapping[str, Family] = {
    "Qwen3ForCausalLM": Family("Qwen3", gguf.MODEL_ARCH.QWEN3, defaults={"head_dim": 128}),
    "Qwen2ForCausalLM": Family("Qwen2", gguf.MODEL_ARCH.QWEN2, heads_fill_width=True),
    "LlamaForCausalLM": Family(
        "Llama",
        gguf.MODEL_ARCH.LLAMA,
        biases=(*_QKV, "o_proj.bias", *_MLP),
        rotates_adjacent_pairs=True,
        scalings=("default", "linear", "yarn", "llama3"),
    ),
    "SmolLM3ForCausalLM": Family(
        "SmolLM3",
        gguf.MODEL_ARCH.SMOLLM3,
        rotates_adjacent_pairs=True,
        unrotated_interval=4,
        defaults={"rope_theta": 2e6},
    ),
    "Gemma3ForCausalLM": Family(
        "Gemma 3 (text)",
        gguf.MODEL_ARCH.GEMMA3,
        norms_add_one=True,
        scalings=("default", "linear"),
        activation="gelu_pytorch_tanh",
        sliding_interval=6,
        defaults=_GEMMA3_DEFAULTS,
    ),
}
"""Every supported family, by its architecture in transformers."""
