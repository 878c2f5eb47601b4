"""An engine that plays a script: every byte is a token, the end of a turn is one more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from helpers.tiny_models import TEMPLATE
from mentor_edge.chat import ChatTemplate
from mentor_edge.engines.base import Conversations, Generation, Sampling

EOS = "<|im_end|>"
EOS_ID = 256


def call_text(name: str, arguments: str) -> str:
    """One call, written as the template writes it."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


class ScriptedEngine:
    """Answers each conversation with the replies listed for the question in its prompt, one per turn.

    A reply longer than a turn's limit is cut, as in a real engine. It asserts what the protocol promises to engines.
    """

    def __init__(
        self, script: Mapping[str, Sequence[str]], *, batch_size: int = 4, context_length: int = 100_000
    ) -> None:
        self.script = script
        self.batch_size = batch_size
        self.context_length = context_length
        self.template = ChatTemplate(TEMPLATE, EOS)
        self.temperatures: list[float] = []

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for i, part in enumerate(text.split(EOS)):
            ids += ([EOS_ID] if i else []) + list(part.encode())
        return ids

    def decode(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        return [self._decode(ids) for ids in token_ids]

    def _decode(self, ids: Sequence[int]) -> str:
        return b"".join(EOS.encode() if i == EOS_ID else bytes([i]) for i in ids).decode(errors="replace")

    @contextmanager
    def open(self, size: int) -> Iterator[Conversations]:
        assert 0 < size <= self.batch_size
        yield _Batch(self, size)


class _Batch:
    def __init__(self, engine: ScriptedEngine, size: int) -> None:
        self._engine = engine
        self._ids: list[list[int]] = [[] for _ in range(size)]
        self._replies: list[list[str]] = [[] for _ in range(size)]

    def extend(self, rows: Sequence[int], token_ids: Sequence[Sequence[int]], sampling: Sampling) -> list[Generation]:
        assert len(set(rows)) == len(rows) == len(token_ids) > 0
        self._engine.temperatures.append(sampling.temperature)
        return [self._turn(row, list(ids), sampling) for row, ids in zip(rows, token_ids, strict=True)]

    def _turn(self, row: int, new: list[int], sampling: Sampling) -> Generation:
        assert new, "a turn needs input"
        if not self._ids[row]:
            prompt = self._engine._decode(new)
            self._replies[row] = list(next(v for k, v in self._engine.script.items() if k in prompt))
        else:
            assert self._ids[row][-1] == EOS_ID, "a turn that was not closed was continued"
        self._ids[row] += new
        assert len(self._ids[row]) < self._engine.context_length
        reply = self._engine._encode(self._replies[row].pop(0) + EOS)
        kept = reply[: min(sampling.max_new_tokens, self._engine.context_length - len(self._ids[row]))]
        self._ids[row] += kept
        return Generation(kept, finished=len(kept) == len(reply))
