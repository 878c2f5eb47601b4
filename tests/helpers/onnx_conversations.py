"""Conversations that show whether an engine computes what torch computes, turn by turn."""

from __future__ import annotations

from helpers.tiny_models import EMBEDDING_ROWS
from mentor_edge.engines.base import Engine, Generation, Sampling

PAD = 0
# 150 tokens: more than twice the window of Gemma 3's layers. The last prompt ends with what looks like padding.
PROMPTS = [[(31 * n + 7 * i) % EMBEDDING_ROWS for i in range(n)] for n in (9, 1, 150)] + [[5, PAD, 7, PAD]]


def converse(engine: Engine) -> list[list[Generation]]:
    """Three turns of up to four conversations, which continue in changing order."""
    turns = [(range(4), PROMPTS), ([2, 0], [[5], [6, 7, 8]]), ([0, 3, 1], [[8] * 12, [9], [3, 4]])]
    with engine.open(4) as batch:
        return [batch.extend(rows, inputs, Sampling(16)) for rows, inputs in turns]
