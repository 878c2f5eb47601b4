"""The child process of llama.cpp: `python -m mentor_edge.engines.llama_cpp.llama_worker`.

llama.cpp ends its process on a failed assertion, a broken file or a miscompiled kernel, so it never runs in the main
program. The parent (`mentor_edge.engines.llama_cpp.engine`) sends requests and reads replies
(`mentor_edge.engines.process.frames`); the child ends when its input does.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from mentor_edge.engines.base import Generation
from mentor_edge.engines.llama_cpp import quantizer
from mentor_edge.engines.llama_cpp.replies import LoadedModel, QuantizeReply, TensorInfo
from mentor_edge.engines.llama_cpp.sequences import KV_TYPES, Sequences, kv_bytes_per_token, padded
from mentor_edge.engines.llama_cpp.vocabulary import DAMAGED, Vocabulary
from mentor_edge.engines.process.frames import EncodedLogits
from mentor_edge.engines.process.limits import CONTEXT_DEFAULT, kv_budget, limit_process
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

CONTEXT_LIMIT = 131_072
"""Tokens of one sequence; far larger values made llama.cpp take the whole machine's memory."""
LOG_LINES = 200


class LlamaServer(TurnServer):
    """One model and at most one batch of sequences. Every public method is an operation of the protocol."""

    def __init__(self, alive: Callable[[], None] = lambda: None) -> None:
        import llama_cpp

        super().__init__()
        self._lib: Any = llama_cpp
        self._alive = alive
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        # ctypes keeps no reference to a callback: it must live as long as this object.
        self._log_callback = llama_cpp.llama_log_callback(self._append_log)
        llama_cpp.llama_log_set(self._log_callback, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._pending: list[list[int]] = []

    def _append_log(self, level: int, text: bytes | None, _: Any) -> None:
        line = (text or b"").decode(errors="replace").strip()
        if level >= quantizer.LOG_WARNING and line.strip("."):
            self._log.append(line)

    def system_info(self) -> str:
        """What this build of llama.cpp can do: the text of llama_print_system_info."""
        info: str = self._lib.llama_print_system_info().decode()
        return info

    def load(
        self,
        path: str,
        context_length: int | None,
        batch_size: int,
        threads: int = 1,
        kv: str = "f16",
        flash_attention: bool = False,
        check_tensors: bool = True,
        use_extra_buffers: bool = True,
    ) -> LoadedModel:
        """Read a GGUF file. The caches are allocated by `open`.

        `context_length` None is the model's own, at most CONTEXT_DEFAULT tokens. `check_tensors` refuses weights that
        are not finite, which llama.cpp otherwise runs.
        """
        if context_length is not None and not 1 <= context_length <= CONTEXT_LIMIT:
            raise Refused(
                f"cannot use a context of {context_length} tokens", f"context_length can be 1 to {CONTEXT_LIMIT}"
            )
        if kv not in KV_TYPES:
            raise Refused(f"the KV cache cannot be {kv!r}; it can be {' or '.join(KV_TYPES)}")
        limit_process(os.path.getsize(path))
        lib = self._lib
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        params.check_tensors = check_tensors
        params.use_extra_bufts = use_extra_buffers
        self._log.clear()
        model = lib.llama_model_load_from_file(os.fsencode(path), params)
        if not model:
            raise Refused(self._log[0] if self._log else "llama.cpp reported no reason", DAMAGED)
        self._vocabulary = vocabulary = Vocabulary(lib, model)
        trained = lib.llama_model_n_ctx_train(model)
        if trained < 1:  # also a length that does not fit 31 bits
            raise Refused("the file has no valid context length", DAMAGED)
        self._limit = context_length or min(trained, CONTEXT_DEFAULT)
        if self._limit > trained:
            raise Refused(
                f"cannot use a context of {self._limit} tokens", f"the model was trained for at most {trained}"
            )
        attention = f"{vocabulary.metadata('general.architecture')}.attention"
        widths = [vocabulary.metadata(f"{attention}.{kind}_length") for kind in ("key", "value")]
        cache = padded(self._limit) * kv_bytes_per_token(lib, model, widths, kv)
        fitting = kv_budget() // cache
        if fitting < 1:
            sizes = f"{cache >> 20} MiB; the limit is {kv_budget() >> 20} MiB"
            raise Refused(f"one cache of {self._limit} tokens takes {sizes}", "set a shorter context_length")
        self._sequences = Sequences(
            lib,
            model,
            vocabulary.size,
            self._limit,
            threads=threads,
            kv=kv,
            flash_attention=flash_attention,
            log=self._log,
            alive=self._alive,
        )
        self._try_out()
        return LoadedModel(
            batch_size=min(batch_size, fitting),
            context_length=self._limit,
            vocabulary_size=vocabulary.size,
            # A file may have further templates, as a model directory may: the one for tools takes precedence.
            template=vocabulary.metadata("tokenizer.chat_template.tool_use")
            or vocabulary.metadata("tokenizer.chat_template"),
            eos_token=vocabulary.special_token("eos"),
            bos_token=vocabulary.special_token("bos"),
            end_ids=vocabulary.end_ids,
        )

    def _try_out(self) -> None:
        """Decode two tokens: some damage shows only when the model runs."""
        self.open(1)
        for _, logits in self._sequences.decode({0: [0, 0][: self._limit]}):
            check_logits(logits)
        self._sequences.lengths = []

    def also_end(self, token_ids: Sequence[int]) -> None:
        """Let further tokens end a turn."""
        self._vocabulary.more_end_ids |= set(token_ids)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Vocabulary.tokenize`."""
        return [self._vocabulary.tokenize(text) for text in texts]

    def detokenize(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """See `Vocabulary.detokenize`."""
        return [self._vocabulary.detokenize(ids) for ids in token_ids]

    def open(self, size: int) -> None:
        """Start a batch of `size` empty sequences in place of the previous one."""
        self._sequences.start(size)
        self._pending = [[] for _ in range(size)]

    def _turns(
        self,
        rows: Sequence[int],
        token_ids: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float,
        seed: int,
    ) -> Turns:
        lengths = self._sequences.lengths
        check_rows(rows, len(lengths))
        outputs: dict[int, list[int]] = {row: [] for row in rows}
        room: dict[int, int] = {}
        inputs: dict[int, list[int]] = {}
        # Rows that start with the same prompt: the first one decodes it, and the others copy its cache.
        leaders: dict[tuple[int, ...], int] = {}
        followers: dict[int, list[int]] = {}
        for row, ids in zip(rows, token_ids, strict=True):
            check_ids(ids, self._vocabulary.size)
            # The last token of a turn was chosen but never decoded; it comes before what follows the turn.
            tokens = [*self._pending[row], *ids]
            room[row] = min(max_new_tokens, self._limit - lengths[row] - len(tokens))
            if room[row] <= 0:
                yield row, Generation([], False)
                continue
            leader = leaders.setdefault(tuple(tokens), row) if lengths[row] == 0 else row
            if leader == row:
                inputs[row] = tokens
            else:
                followers.setdefault(leader, []).append(row)
        random = {row: np.random.default_rng([seed, row]) for row in rows}
        while inputs:
            following: dict[int, list[int]] = {}
            for leader, logits in self._sequences.decode(inputs):
                for row in (leader, *followers.pop(leader, ())):
                    if row != leader:
                        self._sequences.copy(leader, row)
                    token = choose_token(logits, temperature, random[row])
                    outputs[row].append(token)
                    self._pending[row] = [token]
                    finished = self._vocabulary.ends(token)
                    if finished or len(outputs[row]) >= room[row]:
                        yield row, Generation(outputs[row], finished)
                    else:
                        following[row] = [token]
            inputs = following
            yield None

    def logits(self, token_ids: Sequence[int], last: int | None = None) -> EncodedLogits:
        """Logits `[positions, vocabulary]` of one sequence's positions, or of its `last` ones."""
        if not 0 < len(token_ids) <= self._limit:
            raise Refused(f"{len(token_ids)} tokens do not fit a context of {self._limit}")
        check_ids(token_ids, self._vocabulary.size)
        self._sequences.start(1, every_position=True)
        decoded = self._sequences.decode({0: list(token_ids)}, every_position=True)
        rows = deque((row.copy() for _, row in decoded), last)
        self._sequences.lengths = []
        return EncodedLogits.of(rows)

    def tensors(self, path: str) -> list[TensorInfo]:
        """See `quantizer.read_tensors`."""
        limit_process(os.path.getsize(path))
        self._log.clear()
        return quantizer.read_tensors(self._lib, path, self._log)

    def quantize(
        self,
        source: str,
        target: str,
        kind: str,
        threads: int = 1,
        types: Mapping[str, str] = MappingProxyType({}),
        matrix: Mapping[str, str] = MappingProxyType({}),
    ) -> QuantizeReply:
        """See `quantizer.quantize`."""
        limit_process(os.path.getsize(source))
        reply = quantizer.quantize(
            self._lib, source, target, kind, threads=threads, types=types, matrix=matrix, alive=self._alive
        )
        self._lib.llama_log_set(self._log_callback, ctypes.c_void_p(0))
        return reply


OPERATIONS = (
    "system_info",
    "load",
    "also_end",
    "tokenize",
    "detokenize",
    "open",
    "begin",
    "advance",
    "logits",
    "tensors",
    "quantize",
)


def main() -> None:
    serve(LlamaServer, OPERATIONS)


if __name__ == "__main__":
    main()
