"""How many threads and conversations suit a model, unless the caller decides."""

from __future__ import annotations

from mentor_edge.engines.process.machine import default_threads

SMALL = 64_000_000
"""Bytes of weights below which a model counts as small. One thread runs a small model faster than two, and large
batches speed it up. Above, the arithmetic of a prompt dominates: a batch of 64 gains nothing over one of 8, takes eight
times the memory, and loses eight times as much when the process is killed."""


def threads_for(weights: int) -> int:
    """Threads for a model with so many bytes of weights."""
    return 1 if weights < SMALL else default_threads()


def batch_size_for(weights: int) -> int:
    """Conversations to decode at once with a model with so many bytes of weights, on a CPU."""
    return 64 if weights < SMALL else 8
