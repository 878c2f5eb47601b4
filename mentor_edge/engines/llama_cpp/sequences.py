"""A batch of sequences and their KV caches in llama.cpp. Runs in the child process (`llama_worker`).

Only the low-level API is used, because the high-level `Llama` class decodes one sequence at a time.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mentor_edge.engines.process.serving import Refused

CHUNK = 512
"""Tokens of one llama_decode; a batch above n_batch aborts the process."""
KV_TYPES = {"f32": (0, 4), "f16": (1, 2)}
"""ggml.h, enum ggml_type, and the bytes of one element."""


class _Batch:
    """A `llama_batch` over numpy arrays, so that filling it is not a Python loop. At most CHUNK tokens."""

    def __init__(self, lib: Any) -> None:
        self.tokens = np.zeros(CHUNK, np.int32)
        self.positions = np.zeros(CHUNK, np.int32)
        self.sequences = np.zeros(CHUNK, np.int32)
        self.wanted = np.zeros(CHUNK, np.int8)
        self._counts = np.ones(CHUNK, np.int32)
        # llama_batch.seq_id has one pointer per token, to a list of its sequences; ours have one element each.
        self._pointers = (self.sequences.ctypes.data + 4 * np.arange(CHUNK)).astype(np.uintp)
        kinds = dict(lib.llama_batch._fields_)
        self.struct = lib.llama_batch(
            n_tokens=0,
            token=ctypes.cast(self.tokens.ctypes.data, kinds["token"]),
            pos=ctypes.cast(self.positions.ctypes.data, kinds["pos"]),
            n_seq_id=ctypes.cast(self._counts.ctypes.data, kinds["n_seq_id"]),
            seq_id=ctypes.cast(self._pointers.ctypes.data, kinds["seq_id"]),
            logits=ctypes.cast(self.wanted.ctypes.data, kinds["logits"]),
        )


class Sequences:
    """The sequences that a model decodes together, each with up to `limit` tokens of context.

    `lengths` counts the tokens in each sequence's cache. `log` receives llama.cpp's warnings; `alive` is called
    after every chunk of work.
    """

    def __init__(
        self,
        lib: Any,
        model: Any,
        vocabulary_size: int,
        limit: int,
        *,
        threads: int,
        kv: str,
        flash_attention: bool,
        log: deque[str],
        alive: Callable[[], None],
    ) -> None:
        self._lib = lib
        self._model = model
        self._vocabulary_size = vocabulary_size
        self._padded_limit = padded(limit)
        self._threads, self._kv, self._flash_attention = threads, kv, flash_attention
        self._log = log
        self._alive = alive
        self._context: Any = None
        self._context_key: tuple[int, bool] = (0, False)
        self._batch = _Batch(lib)
        self.lengths: list[int] = []

    def start(self, size: int, *, every_position: bool = False) -> None:
        """Replace the batch by `size` empty sequences. With `every_position`, each token's logits are kept.

        Raises: Refused when llama.cpp cannot allocate the caches.
        """
        if size > self._context_key[0] or every_position != self._context_key[1] or not self._context:
            self._new_context(size, every_position)
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), False)
        self.lengths = [0] * size

    def decode(
        self, inputs: dict[int, list[int]], *, every_position: bool = False
    ) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Append tokens to sequences; yields each row with a view of the logits after its last token (or every token).

        A view is valid until the next one is requested.
        """
        counts = [len(ids) for ids in inputs.values()]
        tokens = np.concatenate([np.asarray(ids, np.int32) for ids in inputs.values()])
        sequences = np.repeat(np.fromiter(inputs, np.int32), counts)
        positions = np.concatenate([np.arange(n) + self.lengths[row] for row, n in zip(inputs, counts, strict=True)])
        wanted = np.full(len(tokens), every_position, np.int8)
        wanted[np.cumsum(counts) - 1] = 1
        for row, count in zip(inputs, counts, strict=True):
            self.lengths[row] += count
        batch = self._batch
        for start in range(0, len(tokens), CHUNK):
            part = slice(start, start + CHUNK)
            count = batch.struct.n_tokens = len(tokens[part])
            batch.tokens[:count], batch.positions[:count] = tokens[part], positions[part]
            batch.sequences[:count], batch.wanted[:count] = sequences[part], wanted[part]
            code = self._lib.llama_decode(self._context, batch.struct)
            if code != 0:
                raise Refused(f"llama_decode returned {code} for {count} tokens of {len(inputs)} sequences")
            self._alive()
            for i in np.flatnonzero(batch.wanted[:count]):
                pointer = self._lib.llama_get_logits_ith(self._context, int(i))
                yield int(batch.sequences[i]), np.ctypeslib.as_array(pointer, (self._vocabulary_size,))

    def copy(self, source: int, target: int) -> None:
        """Make `target` a copy of the sequence `source`; they share the cache."""
        memory = self._lib.llama_get_memory(self._context)
        self._lib.llama_memory_seq_cp(memory, source, target, -1, -1)
        self.lengths[target] = self.lengths[source]

    def _new_context(self, size: int, every_position: bool) -> None:
        lib = self._lib
        if self._context:
            lib.llama_free(self._context)
        params = lib.llama_context_default_params()
        # Separate caches (not unified) give every sequence n_ctx / n_seq_max tokens and decode faster.
        params.kv_unified = False
        # Layers with a window keep everything, too: only whole caches can be copied between sequences.
        params.swa_full = True
        params.n_seq_max = size
        params.n_ctx = size * self._padded_limit
        params.n_batch = params.n_ubatch = CHUNK
        params.n_outputs_max, params.n_outputs_max_per_seq = (CHUNK, CHUNK) if every_position else (size, 1)
        params.n_threads = params.n_threads_batch = self._threads
        params.type_k = params.type_v = KV_TYPES[self._kv][0]
        params.flash_attn_type = int(self._flash_attention)
        self._log.clear()
        self._context = lib.llama_init_from_model(self._model, params)
        if not self._context:
            raise Refused(f"no context for {size} sequences: {self._log[0] if self._log else 'no reason reported'}")
        self._context_key = (size, every_position)


def padded(limit: int) -> int:
    """The tokens that llama.cpp allocates for a context of `limit` tokens."""
    return -(-limit // 256) * 256


def kv_bytes_per_token(lib: Any, model: Any, widths: Iterable[str | None], kv: str) -> int:
    """Bytes of the KV cache for one token. `widths` are the file's own sizes of one head's key and value, if any."""
    default = lib.llama_model_n_embd(model) // lib.llama_model_n_head(model)
    width = sum(int(stated or default) for stated in widths)
    heads = lib.llama_model_n_head_kv(model) * lib.llama_model_n_layer(model)
    return max(1, int(heads * width * KV_TYPES[kv][1]))
