"""Decoding with a LoRA adapter that is still being trained: fast, without changing the base weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def merged_adapter(model: Any) -> Iterator[None]:
    """Decode with the LoRA deltas added to the base weights, and restore the very same base tensors afterwards.

    PEFT's own unmerge subtracts what its merge added, which drifts in floating point from step to step. Quantized
    layers keep their adapter live: merging into 4-bit weights would change the model that is being trained.
    """
    from peft.tuners.lora import LoraLayer

    merged: list[tuple[Any, torch.Tensor, torch.Tensor]] = []
    try:
        with torch.no_grad():
            for layer in model.modules():
                if not isinstance(layer, LoraLayer) or type(layer.get_base_layer()) is not torch.nn.Linear:
                    continue
                weight = layer.get_base_layer().weight
                merged.append((layer, weight, weight.data))
                weight.data = weight.data + sum(
                    layer.get_delta_weight(name).to(weight.dtype) for name in layer.active_adapters
                )
                layer.merged_adapters.extend(layer.active_adapters)
        yield
    finally:
        for layer, weight, original in merged:
            weight.data = original
            layer.merged_adapters.clear()
