"""The child process that holds llama.cpp: `python -m mentor_edge.engines.llama_cpp.llama_worker`.

llama.cpp ends its process on a failed assertion, a broken file or a miscompiled kernel, so it never runs in ours.
The parent (`mentor_edge.engines.llama_cpp.engine`) sends requests and reads replies
(`mentor_edge.engines.process.frames`); the child ends when its input does.

Only the low-level API is used, because the high-level `Llama` class decodes one sequence at a time.
"""

from __future__ import annotations

import base64
import ctypes
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from mentor_edge.engines.llama_cpp import quantizer as llama_quantizer
from mentor_edge.engines.process.limits import CONTEXT_DEFAULT, kv_budget, limit_process
from mentor_edge.engines.process.serving import (
    Refused,
    check_ids,
    check_logits,
    check_rows,
    choose_token,
    serve,
)

CONTEXT_LIMIT = 131_072  # tokens of one sequence; far larger values made llama.cpp take the whole machine's memory
CHUNK = 512  # tokens of one llama_decode; a batch above n_batch aborts the process
LOG_LINES = 200
LOG_WARNING = 3  # ggml.h, enum ggml_log_level; 5 continues the line before it
# ggml.h, enum ggml_type, and the bytes of one element.
KV_TYPES = {"f32": (0, 4), "f16": (1, 2)}
_DAMAGED = "the file is damaged or of an unknown kind: export it again; `mentor-edge doctor` tests llama.cpp"


class _Batch:
    """A `llama_batch` over numpy arrays, so that filling it is not a Python loop. At most CHUNK tokens."""

    def __init__(self, lib: Any) -> None:
        self.tokens = np.zeros(CHUNK, np.int32)
        self.positions = np.zeros(CHUNK, np.int32)
        self.sequences = np.zeros(CHUNK, np.int32)
        self.wanted = np.zeros(CHUNK, np.int8)
        self._counts = np.ones(CHUNK, np.int32)
        # llama_batch.seq_id holds one pointer per token, to a list of its sequences; ours have one element each.
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


class LlamaServer:
    """One model and at most one batch of sequences. Every public method is an operation of the protocol."""

    def __init__(self, alive: Callable[[], None] = lambda: None) -> None:
        import llama_cpp

        self._lib: Any = llama_cpp
        self._alive = alive
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        # ctypes keeps no reference to a callback: it must live as long as this object.
        self._log_callback = llama_cpp.llama_log_callback(self._take_log)
        llama_cpp.llama_log_set(self._log_callback, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._model: Any = None
        self._context: Any = None
        self._context_key: tuple[int, bool] = (0, False)
        self._batch = _Batch(llama_cpp)
        self._lengths: list[int] = []
        self._pending: list[list[int]] = []

    def _take_log(self, level: int, text: bytes | None, _: Any) -> None:
        line = (text or b"").decode(errors="replace").strip()
        if level >= LOG_WARNING and line.strip("."):
            self._log.append(line)

    def about(self) -> dict[str, Any]:
        """What this build of llama.cpp can do, in its own words."""
        return {"version": self._lib.__version__, "system": self._lib.llama_print_system_info().decode()}

    def load(
        self,
        path: str,
        context_length: int | None,
        n_seq: int,
        threads: int = 1,
        kv: str = "f16",
        flash_attention: bool = False,
        check_tensors: bool = True,
        use_extra_bufts: bool = True,
    ) -> dict[str, Any]:
        """Read a GGUF file. No cache is allocated yet; `n_seq` in the reply is how many sequences fit in memory.

        `context_length` None is the model's own, at most 4096 tokens. `check_tensors` refuses weights that are not
        finite, which llama.cpp otherwise runs.
        """
        if context_length is not None and not 1 <= context_length <= CONTEXT_LIMIT:
            raise Refused(
                f"a context of {context_length} tokens was asked for", f"context_length can be 1 to {CONTEXT_LIMIT}"
            )
        if kv not in KV_TYPES:
            raise Refused(f"the KV cache cannot be {kv!r}; it can be {' or '.join(KV_TYPES)}")
        limit_process(os.path.getsize(path))
        lib = self._lib
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        params.check_tensors = check_tensors
        params.use_extra_bufts = use_extra_bufts
        self._log.clear()
        self._model = lib.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise Refused(self._log[0] if self._log else "llama.cpp gave no reason", _DAMAGED)
        self._vocab = lib.llama_model_get_vocab(self._model)
        self._n_vocab: int = lib.llama_vocab_n_tokens(self._vocab)
        self._pieces: dict[int, bytes] = {}
        self._adds_space = self._metadata("tokenizer.ggml.add_space_prefix") == "true"
        self._kv, self._threads, self._flash_attention = kv, threads, flash_attention
        trained = lib.llama_model_n_ctx_train(self._model)
        if trained < 1:  # also what does not fit 31 bits
            raise Refused("the file names no possible context length", _DAMAGED)
        self._limit = context_length or min(trained, CONTEXT_DEFAULT)
        if self._limit > trained:
            raise Refused(
                f"a context of {self._limit} tokens was asked for", f"the model was made for at most {trained}"
            )
        per_sequence = self._padded_limit() * self._kv_bytes_per_token()
        fitting = kv_budget() // per_sequence
        if fitting < 1:
            sizes = f"{per_sequence >> 20} MiB; the limit is {kv_budget() >> 20} MiB"
            raise Refused(f"one cache of {self._limit} tokens takes {sizes}", "ask for a shorter context_length")
        self._try_out()
        return {
            "n_seq": min(n_seq, fitting),
            "context_length": self._limit,
            "n_vocab": self._n_vocab,
            "template": self._metadata("tokenizer.chat_template"),
            "eos_token": self._special_token("eos"),
            "bos_token": self._special_token("bos"),
            "end_ids": [i for i in range(self._n_vocab) if lib.llama_vocab_is_eog(self._vocab, i)],
        }

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text: special and user-defined tokens are recognized, nothing is added."""
        return [self._tokenize(text.encode(errors="replace")) for text in texts]

    def detokenize(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """The text of each sequence, special tokens included; bytes that are not UTF-8 become U+FFFD.

        Joins the tokens' own bytes: llama_detokenize drops spaces before punctuation for some vocabularies. Where the
        tokenizer puts a space before every text, as Llama 2's, that space is none of the text's.
        """
        texts = [b"".join(map(self._piece, ids)).decode(errors="replace") for ids in token_ids]
        return [text.removeprefix(" ") for text in texts] if self._adds_space else texts

    def open(self, n_seq: int) -> None:
        """Start a batch of `n_seq` empty sequences in place of the one before."""
        self._start(n_seq)

    def extend(
        self,
        rows: Sequence[int],
        token_ids: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[dict[str, Any]]:
        """Append ids to sequences and generate a turn for each, all sequences at once.

        Replies per row: `token_ids`, ending with the end-of-generation token exactly when `finished`. A row whose
        context is full ends unfinished, possibly without any token.
        """
        check_rows(rows, len(self._lengths))
        outputs: dict[int, list[int]] = {row: [] for row in rows}
        finished = dict.fromkeys(rows, False)
        room: dict[int, int] = {}
        feeds: dict[int, list[int]] = {}
        leaders: dict[tuple[int, ...], int] = {}
        followers: dict[int, list[int]] = {}
        for row, ids in zip(rows, token_ids, strict=True):
            # The last token of a turn was chosen but never fed; it comes before what follows the turn.
            check_ids(ids, self._n_vocab)
            feed = [*self._pending[row], *ids]
            room[row] = min(max_new_tokens, self._limit - self._lengths[row] - len(feed))
            if room[row] <= 0:
                continue
            leader = leaders.setdefault(tuple(feed), row) if self._lengths[row] == 0 else row
            if leader == row:
                feeds[row] = feed
            else:
                followers.setdefault(leader, []).append(row)
        random = {row: np.random.default_rng([seed, row]) for row in rows}
        while feeds:
            following: dict[int, list[int]] = {}
            for leader, logits in self._decode(feeds):
                for row in (leader, *followers.pop(leader, ())):
                    if row != leader:
                        self._share(leader, row)
                    token = choose_token(logits, temperature, random[row])
                    outputs[row].append(token)
                    self._pending[row] = [token]
                    finished[row] = bool(self._lib.llama_vocab_is_eog(self._vocab, token))
                    if not finished[row] and len(outputs[row]) < room[row]:
                        following[row] = [token]
            feeds = following
        return [{"token_ids": outputs[row], "finished": finished[row]} for row in rows]

    def logits(self, token_ids: Sequence[int], last: int | None = None) -> dict[str, Any]:
        """Logits of one sequence's positions, or its `last` ones: `[positions, n_vocab]` float32 as base64."""
        if not 0 < len(token_ids) <= self._limit:
            raise Refused(f"{len(token_ids)} tokens do not fit a context of {self._limit}")
        check_ids(token_ids, self._n_vocab)
        self._start(1, every_position=True)
        values = deque((row.copy() for _, row in self._decode({0: list(token_ids)}, every_position=True)), last)
        self._lengths = []
        return {"shape": [len(values), self._n_vocab], "float32": base64.b64encode(np.stack(values).tobytes()).decode()}

    def tensors(self, path: str) -> list[dict[str, Any]]:
        """See `llama_quantizer.read_tensors`."""
        limit_process(os.path.getsize(path))
        self._log.clear()
        return llama_quantizer.read_tensors(self._lib, path, self._log)

    def quantize(
        self,
        source: str,
        target: str,
        kind: str,
        threads: int = 1,
        types: Mapping[str, str] = MappingProxyType({}),
        matrix: Mapping[str, str] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """See `llama_quantizer.quantize`."""
        limit_process(os.path.getsize(source))
        reply = llama_quantizer.quantize(
            self._lib, source, target, kind, threads=threads, types=types, matrix=matrix, alive=self._alive
        )
        self._lib.llama_log_set(self._log_callback, ctypes.c_void_p(0))
        return reply

    def _metadata(self, key: str) -> str | None:
        length = self._lib.llama_model_meta_val_str(self._model, key.encode(), None, 0)
        if length < 0:
            return None
        buffer = ctypes.create_string_buffer(length + 1)
        self._lib.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode(errors="replace")

    def _special_token(self, name: str) -> str:
        # llama.cpp assumes ids that the file does not name, so only those in the file count.
        token = self._metadata(f"tokenizer.ggml.{name}_token_id")
        if token is None:
            return ""
        if not 0 <= int(token) < self._n_vocab:
            raise Refused(f"its {name} token is {token}; the vocabulary has {self._n_vocab}", _DAMAGED)
        return self._piece(int(token)).decode(errors="replace")

    def _padded_limit(self) -> int:
        return -(-self._limit // 256) * 256

    def _kv_bytes_per_token(self) -> int:
        lib, architecture = self._lib, self._metadata("general.architecture")
        head = lib.llama_model_n_embd(self._model) // lib.llama_model_n_head(self._model)
        widths = sum(int(self._metadata(f"{architecture}.attention.{kv}_length") or head) for kv in ("key", "value"))
        heads = lib.llama_model_n_head_kv(self._model) * lib.llama_model_n_layer(self._model)
        return max(1, int(heads * widths * KV_TYPES[self._kv][1]))

    def _tokenize(self, text: bytes) -> list[int]:
        room = len(text) + 8
        tokens = (ctypes.c_int32 * room)()
        count = self._lib.llama_tokenize(self._vocab, text, len(text), tokens, room, False, True)
        if count < 0:
            raise Refused(f"llama_tokenize returned {count} for {len(text)} bytes")
        return tokens[:count]

    def _piece(self, token: int) -> bytes:
        if token not in self._pieces:
            check_ids([token], self._n_vocab)
            buffer = ctypes.create_string_buffer(256)
            length = self._lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, True)
            if length < 0:
                buffer = ctypes.create_string_buffer(-length)
                length = self._lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, True)
            self._pieces[token] = buffer.raw[:length]
        return self._pieces[token]

    def _try_out(self) -> None:
        """Decode two tokens: some damage shows only when the model runs."""
        self._start(1)
        for _, logits in self._decode({0: [0, 0][: self._limit]}):
            check_logits(logits)
        self._lengths = []

    def _start(self, n_seq: int, every_position: bool = False) -> None:
        if n_seq > self._context_key[0] or every_position != self._context_key[1] or not self._context:
            self._new_context(n_seq, every_position)
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), False)
        self._lengths = [0] * n_seq
        self._pending = [[] for _ in range(n_seq)]

    def _new_context(self, n_seq: int, every_position: bool) -> None:
        lib = self._lib
        if self._context:
            lib.llama_free(self._context)
        params = lib.llama_context_default_params()
        # Separate caches (not unified) give every sequence n_ctx / n_seq_max tokens and decode faster.
        params.kv_unified = False
        # Layers with a window keep everything, too: only whole caches can be copied between sequences.
        params.swa_full = True
        params.n_seq_max = n_seq
        params.n_ctx = n_seq * self._padded_limit()
        params.n_batch = params.n_ubatch = CHUNK
        params.n_outputs_max, params.n_outputs_max_per_seq = (CHUNK, CHUNK) if every_position else (n_seq, 1)
        params.n_threads = params.n_threads_batch = self._threads
        params.type_k = params.type_v = KV_TYPES[self._kv][0]
        params.flash_attn_type = int(self._flash_attention)
        self._log.clear()
        self._context = lib.llama_init_from_model(self._model, params)
        if not self._context:
            raise Refused(f"no context for {n_seq} sequences: {self._log[0] if self._log else 'no reason given'}")
        self._context_key = (n_seq, every_position)

    def _decode(
        self, feeds: dict[int, list[int]], every_position: bool = False
    ) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Append tokens to sequences; yields each row with a view of the logits after its last token (or every token).

        A view lives until the next one is asked for.
        """
        lengths = [len(feed) for feed in feeds.values()]
        tokens = np.concatenate([np.asarray(feed, np.int32) for feed in feeds.values()])
        sequences = np.repeat(np.fromiter(feeds, np.int32), lengths)
        positions = np.concatenate([np.arange(n) + self._lengths[row] for row, n in zip(feeds, lengths, strict=True)])
        wanted = np.full(len(tokens), every_position, np.int8)
        wanted[np.cumsum(lengths) - 1] = 1
        for row, count in zip(feeds, lengths, strict=True):
            self._lengths[row] += count
        batch = self._batch
        for start in range(0, len(tokens), CHUNK):
            part = slice(start, start + CHUNK)
            count = batch.struct.n_tokens = len(tokens[part])
            batch.tokens[:count], batch.positions[:count] = tokens[part], positions[part]
            batch.sequences[:count], batch.wanted[:count] = sequences[part], wanted[part]
            code = self._lib.llama_decode(self._context, batch.struct)
            if code != 0:
                raise Refused(f"llama_decode returned {code} for {count} tokens of {len(feeds)} sequences")
            self._alive()
            for i in np.flatnonzero(batch.wanted[:count]):
                pointer = self._lib.llama_get_logits_ith(self._context, int(i))
                yield int(batch.sequences[i]), np.ctypeslib.as_array(pointer, (self._n_vocab,))

    def _share(self, leader: int, row: int) -> None:
        memory = self._lib.llama_get_memory(self._context)
        self._lib.llama_memory_seq_cp(memory, leader, row, -1, -1)
        self._lengths[row] = self._lengths[leader]


OPERATIONS = ("about", "load", "tokenize", "detokenize", "open", "extend", "logits", "tensors", "quantize")


def main() -> None:
    serve(LlamaServer, OPERATIONS)


if __name__ == "__main__":
    main()
