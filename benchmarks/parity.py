"""F32 GGUF against transformers: token ids of a corpus, and logits of 200 positions, for three families.

    python benchmarks/parity.py [DIRECTORY ...]

Without arguments: random-weight Qwen3, Qwen2 and Llama models made on the spot (hidden 256, 2 layers, grouped-query
attention, the nano tokenizer). With arguments: Hugging Face directories.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from mentor_edge.export import parity
from mentor_edge.export.gguf import convert
from mentor_edge.recipes.nano_student import build_tokenizer

FAMILIES: dict[str, tuple[Any, Any]] = {
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}


def random_model(family: str, directory: Path) -> Path:
    """A model with random weights, biases and norms too: fresh ones are zeros and ones, which would hide errors."""
    tokenizer = build_tokenizer(conversations=300)
    config, model_class = FAMILIES[family]
    torch.manual_seed(0)
    model = model_class(
        config(
            vocab_size=640, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=family != "llama",
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
        )
    )  # fmt: skip
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        given = {name: Path(name) for name in sys.argv[1:]}
        models = given or {family: random_model(family, Path(scratch) / family) for family in FAMILIES}
        result = {}
        for name, directory in models.items():
            file = Path(scratch) / "f32.gguf"
            convert(directory, file)
            result[name] = asdict(parity.check(directory, file))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
