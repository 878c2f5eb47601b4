"""The child process of onnxruntime-genai: `python -m mentor_edge.engines.onnx.genai_worker`.

The parent is `mentor_edge.engines.onnx.engine`; see `mentor_edge.engines.process.serving`.

There is one generator per conversation, and rows are decoded one after another, because onnxruntime-genai 0.18 cannot
continue several rows at once: a generator with more than one row takes `append_tokens` only once, og.Engine continues
a request only when it is alone, and its dynamic batching needs another kind of graph (paged attention).

Relied on upstream (onnxruntime-genai 0.18; tests/contracts/test_onnxruntime_genai.py): `append_tokens` runs the model
on the new tokens after those in its cache. `get_logits` returns the logits after the last one, untouched by the
directory's search options. `get_output("logits")` returns what the graph computed for the last append, `[1, positions,
vocabulary]`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mentor_edge.engines.base import Generation
from mentor_edge.engines.process.frames import EncodedLogits
from mentor_edge.engines.process.limits import limit_process
from mentor_edge.engines.process.serving import (
    Refused,
    Turns,
    TurnServer,
    check_ids,
    check_logits,
    check_rows,
    choose_token,
    serve,
)

CHUNK = 512
"""Tokens of one append: the graph scores every position, 600 KB each for a vocabulary of 151,936."""


class OnnxServer(TurnServer):
    """One model and at most one batch of conversations. Every public method is an operation of the protocol."""

    def __init__(self, alive: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._alive = alive
        self._generators: list[Any] = []
        self._pending: list[list[int]] = []

    def load(
        self, path: str, context_length: int, end_ids: Sequence[int], threads: int = 1, name: str | None = None
    ) -> int:
        """Open a directory and run one token through it; messages call it `name`. Returns the size of the vocabulary.

        Every setting of its genai_config.json is obeyed: it must be one that `GenaiConfig.opened` wrote.
        """
        limit_process(sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file()))
        self._limit, self._end_ids = context_length, frozenset(end_ids)
        try:
            import onnxruntime_genai as og
        except ImportError as error:
            raise Refused(f"it cannot be imported ({error})", "pip install 'mentor-edge[onnx]'") from error
        self._og: Any = og
        try:
            config = og.Config(path)
            # A prompt that ends with the padding token would get the logits of the token before.
            session = {"intra_op_num_threads": threads, "session.intra_op.allow_spinning": "0"}
            config.overlay(json.dumps({"model": {"pad_token_id": -1, "decoder": {"session_options": session}}}))
            self._model = og.Model(config)
            # Some damage shows only when the model runs.
            logits = self._append(self._new_generator(), [0])
        except (RuntimeError, UnicodeDecodeError) as error:  # the latter from the text of the former
            reason = _reason(error).replace(path, name or path)
            raise Refused(reason, "it is damaged or not made for this machine: export it again") from error
        check_logits(logits)
        self._vocabulary_size = len(logits)
        return self._vocabulary_size

    def open(self, size: int) -> None:
        """Start a batch of `size` empty conversations in place of the previous one."""
        self._generators.clear()  # before the new ones: each has a whole cache
        for _ in range(size):
            self._generators.append(self._new_generator())
            self._alive()
        self._pending = [[] for _ in range(size)]

    def _turns(
        self,
        rows: Sequence[int],
        token_ids: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float,
        seed: int,
    ) -> Turns:
        check_rows(rows, len(self._generators))
        for ids in token_ids:
            check_ids(ids, self._vocabulary_size)
        for row, ids in zip(rows, token_ids, strict=True):
            # The last token of a turn was chosen but never fed; it comes before what follows the turn.
            tokens = [*self._pending[row], *ids]
            turn = self._turn(self._generators[row], tokens, max_new_tokens, temperature, [seed, row])
            self._pending[row] = turn[-1:] or self._pending[row]
            yield row, Generation(turn, bool(turn) and turn[-1] in self._end_ids)

    def logits(self, token_ids: Sequence[int], last: int | None = None) -> EncodedLogits:
        """Logits `[positions, vocabulary]` of one sequence's positions, or of its `last` ones."""
        if not 0 < len(token_ids) <= self._limit:
            raise Refused(f"{len(token_ids)} tokens do not fit a context of {self._limit}")
        check_ids(token_ids, self._vocabulary_size)
        step = CHUNK if len(token_ids) == 1 or self._returns_every_position() else 1
        generator = self._new_generator()
        rows: deque[npt.NDArray[np.float32]] = deque(maxlen=last)
        for start in range(0, len(token_ids), step):
            generator.append_tokens(np.asarray(token_ids[start : start + step], np.int32))
            # Copies: a row must not keep the others of its append alive.
            rows += [row.astype(np.float32) for row in generator.get_output("logits")[0]]
            self._alive()
        return EncodedLogits.of(rows)

    def _returns_every_position(self) -> bool:
        """False for a graph that returns only the logits after the last token of an append, as some exporters make."""
        generator = self._new_generator()
        generator.append_tokens(np.zeros(2, np.int32))
        return bool(generator.get_output("logits").shape[1] == 2)

    def _turn(
        self, generator: Any, tokens: list[int], max_new_tokens: int, temperature: float, seed: list[int]
    ) -> list[int]:
        random = np.random.default_rng(seed)
        turn: list[int] = []
        room = min(max_new_tokens, self._limit - generator.token_count() - len(tokens))
        while len(turn) < room:
            token = choose_token(self._append(generator, tokens), temperature, random)
            turn.append(token)
            tokens = [token]
            if token in self._end_ids:
                break
        return turn

    def _append(self, generator: Any, ids: list[int]) -> npt.NDArray[np.float32]:
        """The logits after the last of `ids`, `[vocabulary]`."""
        for start in range(0, len(ids), CHUNK):
            generator.append_tokens(np.asarray(ids[start : start + CHUNK], np.int32))
            self._alive()
        return np.asarray(generator.get_logits(), np.float32)[0, -1]

    def _new_generator(self) -> Any:
        params = self._og.GeneratorParams(self._model)
        # The cache is allocated whole, for max_length tokens.
        params.set_search_options(max_length=self._limit, batch_size=1, num_beams=1, num_return_sequences=1)
        return self._og.Generator(self._model, params)


def _reason(error: Exception) -> str:
    """The text of a C++ exception on one line, without the signatures and source locations before it."""
    return " ".join(str(error).split()).rpartition("[ONNXRuntimeError] : ")[2]


OPERATIONS = ("load", "open", "begin", "advance", "logits")


def main() -> None:
    serve(OnnxServer, OPERATIONS)


if __name__ == "__main__":
    main()
