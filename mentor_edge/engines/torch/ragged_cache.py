"""A KV cache for transformers models whose rows have different lengths.

Relied on upstream (transformers 5.23; tests/contracts/test_transformers.py): attention layers take keys and values from
`past_key_values.update(keys, values, layer_idx)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class _RaggedLayer(CacheLayerMixin):
    """One layer's keys and values, [rows, kv heads, slots, head size], written at each row's own positions.

    Slot 0 takes the padding; position p is in slot p + 1.
    """

    is_sliding = False

    def __init__(self, cache: RaggedCache) -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        shape = (key_states.shape[0], key_states.shape[1], self._cache.slots)
        self.keys = key_states.new_zeros((*shape, key_states.shape[3]))
        self.values = value_states.new_zeros((*shape, value_states.shape[3]))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, slots, span = self._cache.rows, self._cache.write_slots, self._cache.span
        self.keys[rows, :, slots] = key_states.transpose(1, 2)
        self.values[rows, :, slots] = value_states.transpose(1, 2)
        return self.keys[:, :, :span], self.values[:, :, :span]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.span, 0

    def get_seq_length(self) -> int:
        return self._cache.span

    def get_max_length(self) -> int:
        return -1


class RaggedCache(Cache):
    """A cache whose rows have different lengths. `aim` sets where the next forward writes; `slots` is the capacity."""

    def __init__(self, layers: int, slots: int = 0) -> None:
        self.slots = slots
        self.span = 0
        self.rows = self.write_slots = torch.zeros(0)
        super().__init__(layers=[_RaggedLayer(self) for _ in range(layers)])

    def aim(self, write_slots: torch.Tensor) -> None:
        """Set the slots [rows, columns] that the next forward writes. The capacity grows by 64, so copies are rare."""
        self.rows = torch.arange(write_slots.shape[0], device=write_slots.device)[:, None]
        self.write_slots = write_slots
        self.span = int(write_slots.max()) + 1
        self.grow(-(-self.span // 64) * 64)

    def grow(self, slots: int) -> None:
        """Make room for at least `slots` slots."""
        missing = slots - self.slots
        if missing <= 0:
            return
        self.slots = slots
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys = torch.nn.functional.pad(layer.keys, (0, 0, 0, missing))
                layer.values = torch.nn.functional.pad(layer.values, (0, 0, 0, missing))

    def take(self, rows: torch.Tensor) -> RaggedCache:
        """A copy of the given rows, in that order."""
        taken = RaggedCache(len(self.layers), self.slots)
        for source, target in zip(self.layers, taken.layers, strict=True):
            target.keys, target.values = source.keys[rows], source.values[rows]
            target.is_initialized = True
        return taken

    def put(self, rows: torch.Tensor, source: RaggedCache) -> None:
        """Store all rows of `source` as the given rows."""
        self.grow(source.slots)
        for target, layer in zip(self.layers, source.layers, strict=True):
            target.keys[rows, :, : source.slots] = layer.keys
            target.values[rows, :, : source.slots] = layer.values


def concatenated(caches: Sequence[RaggedCache]) -> RaggedCache:
    """The rows of several caches of the same capacity in one cache."""
    joined = RaggedCache(len(caches[0].layers), caches[0].slots)
    for i, layer in enumerate(joined.layers):
        layer.keys = torch.cat([cache.layers[i].keys for cache in caches])
        layer.values = torch.cat([cache.layers[i].values for cache in caches])
        layer.is_initialized = True
    return joined
