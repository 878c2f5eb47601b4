"""The attention masks of a transformers model, and whether our decode loop can drive its layers at all.

Relied on upstream (transformers 5.23; tests/contracts/test_transformers.py): a 4-D attention mask is used as it is. A
model with several kinds of layers takes a dict of masks, by the names in `config.layer_types` (`masking_utils`,
`modeling_gemma3`). A model without `layer_types` has the same window in every layer (`modeling_mistral`).
"""

from __future__ import annotations

from typing import Any

import torch

from mentor_edge.errors import StudentError

FAMILIES = frozenset({"qwen2", "qwen3", "llama", "smollm3", "gemma3_text"})
"""Values of `config.model_type` whose decoding is tested against `generate`; others are tried out when opened."""
INSTEAD = "set rollout.engine to trl, which decodes with transformers' generate"
_MASKED = ("eager", "sdpa")
_RECOMPUTED = ("dynamic", "longrope")


def attention_windows(config: Any) -> dict[str, int | None]:
    """The attention window of each kind of layer, by its name in `layer_types`.

    A window counts tokens, the current one included; None is unlimited.

    Raises: StudentError when masks and a KV cache with rows of different lengths cannot drive the model.
    """
    window: int | None = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True):
        window = None
    kinds = getattr(config, "layer_types", None) or ["full_attention" if window is None else "sliding_attention"]
    windows = {"full_attention": None, "sliding_attention": window}
    if foreign := sorted(set(kinds) - set(windows)):
        raise StudentError(f"the decode loop has no cache for layers of {', '.join(foreign)}", INSTEAD)
    if getattr(config, "use_bidirectional_attention", False):
        raise StudentError("the decode loop cannot let tokens look ahead (use_bidirectional_attention)", INSTEAD)
    implementation = getattr(config, "_attn_implementation", None) or "eager"
    if implementation not in _MASKED:
        raise StudentError(
            f"the decode loop needs attention that takes masks; this model uses {implementation}",
            f"load it with attn_implementation {' or '.join(_MASKED)}",
        )
    if scaled := sorted(_rope_types(config) & set(_RECOMPUTED)):
        # Their frequencies follow the longest row of a batch, so a row's text would depend on its neighbours.
        raise StudentError(f"the decode loop cannot batch rotary embeddings of type {', '.join(scaled)}", INSTEAD)
    return {kind: windows[kind] for kind in dict.fromkeys(kinds)}


def _rope_types(config: Any) -> set[str]:
    """The types of all layers: `rope_parameters` is one entry, or one per kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return {entry.get("rope_type", "default") for entry in nested or [parameters]}


def attention_mask(
    windows: dict[str, int | None], slots: torch.Tensor, span: int, dtype: torch.dtype
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Additive masks [rows, 1, columns, span] for queries in `slots` [rows, columns]: one, or one per kind of layer.

    Slot 0 is padding (`RaggedCache`), which no query may see.
    """
    keys = torch.arange(span, device=slots.device)
    queries = slots[:, :, None]
    masks: dict[str, torch.Tensor] = {}
    for kind, window in windows.items():
        visible = (keys >= 1) & (keys <= queries)
        if window is not None:
            visible &= keys > queries - window
        mask = torch.zeros(visible.shape, dtype=dtype, device=slots.device)
        masks[kind] = mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
    return masks if len(masks) > 1 else next(iter(masks.values()))
