"""How a supported model is written to GGUF: hyperparameters, tensor names, and the layout of weights.

`config_checks.supported_config` makes a `ModelConfig`, after checking that llama.cpp runs it as transformers does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from mentor_edge.errors import ExportError
from mentor_edge.weight_files import HEAD

from ..checkpoint import EMBEDDING, Checkpoint
from .families import Family
from .rope import FULL, SLIDING, Rope


@dataclass(frozen=True)
class ModelConfig:
    """A family, and the entries of a config.json (`values`) with the family's defaults for missing ones."""

    family: Family
    values: Mapping[str, Any]

    @property
    def head_dim(self) -> int:
        return int(self.values.get("head_dim") or self.values["hidden_size"] // self.values["num_attention_heads"])

    @property
    def has_sliding_layers(self) -> bool:
        return self.family.sliding_interval is not None

    @property
    def layer_kinds(self) -> tuple[str, ...]:
        return (FULL, SLIDING) if self.has_sliding_layers else (FULL,)

    def rope(self, layer_kind: str = FULL) -> Rope:
        return Rope.of(self.values, self.head_dim, layer_kind, one_set_per_kind=self.has_sliding_layers)

    def add_hyper_parameters(self, writer: gguf.GGUFWriter) -> None:
        values, head_dim, rope = self.values, self.head_dim, self.rope()
        writer.add_context_length(values["max_position_embeddings"])
        writer.add_embedding_length(values["hidden_size"])
        writer.add_block_count(values["num_hidden_layers"])
        writer.add_feed_forward_length(values["intermediate_size"])
        writer.add_head_count(values["num_attention_heads"])
        writer.add_head_count_kv(values.get("num_key_value_heads") or values["num_attention_heads"])
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        writer.add_rope_dimension_count(head_dim)
        writer.add_layer_norm_rms_eps(values["rms_norm_eps"])
        writer.add_rope_freq_base(rope.base)
        if self.has_sliding_layers:
            writer.add_sliding_window(values["sliding_window"])
            writer.add_rope_freq_base_swa(self.rope(SLIDING).base)
        if rope.scaling == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(float(rope.parameters["factor"]))
        elif rope.scaling == "yarn":
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(rope.yarn_factor)
            writer.add_rope_scaling_orig_ctx_len(rope.original_context)
            writer.add_rope_scaling_attn_factors(rope.yarn_attention_factor)

    def tensor_names(self, checkpoint: Checkpoint) -> dict[str, str]:
        """The GGUF name of every tensor to be stored, by its name in transformers. A tied head is not stored.

        Raises: ExportError when llama.cpp cannot load a tensor in this architecture, or one that it needs is missing.
        """
        known = gguf.get_tensor_name_map(self.family.architecture, self.values["num_hidden_layers"])
        own_head = checkpoint.has_own_head(self.values)
        names: dict[str, str] = {}
        for name in checkpoint:
            # Old Llama checkpoints store the rotation frequencies, which follow from the config.
            if name.endswith("rotary_emb.inv_freq"):
                continue
            if name == HEAD and not own_head:
                if EMBEDDING not in checkpoint:
                    names[HEAD] = "token_embd.weight"
                continue
            stored = known.get_name(name, try_suffixes=(".weight", ".bias"))
            if stored is None or (name.endswith(".bias") and not name.endswith(self.family.biases)):
                raise ExportError(
                    f"cannot convert the tensor {name!r}: llama.cpp has no such tensor in this architecture"
                )
            names[name] = stored
        expected = {"token_embd.weight", "output_norm.weight", *(("output.weight",) if own_head else ())}
        if missing := sorted(expected - set(names.values())):
            raise ExportError(f"the weights lack {', '.join(missing)}", "save the whole model with save_pretrained")
        return names

    def computed_tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """Tensors that transformers computes and llama.cpp reads from the file, by GGUF name."""
        rope = self.rope()
        return {"rope_freqs.weight": rope.llama3_factors()} if rope.scaling == "llama3" else {}

    def row_unit(self, name: str) -> int:
        """`arrange` must get a multiple of this number of rows."""
        return self.head_dim if self._is_reordered(name) else 1

    def arrange(self, name: str, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Rows of a transformers tensor in llama.cpp's order and scale."""
        if self._is_reordered(name):
            return pair_halves(rows, self.head_dim)
        if self.family.norms_add_one and name.endswith("norm.weight"):
            return rows + np.float32(1)
        return rows

    def _is_reordered(self, name: str) -> bool:
        rotated = ("q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias")
        return self.family.rotates_adjacent_pairs and name.endswith(rotated)


def pair_halves(rows: npt.NDArray[np.float32], head_dim: int) -> npt.NDArray[np.float32]:
    """Reorder the rows of each head from (first half, second half) to adjacent pairs."""
    halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)
