"""The metadata and the tokens of a model that llama.cpp has loaded. Runs in the child process (`llama_worker`)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from mentor_edge.engines.process.serving import Refused, check_ids

DAMAGED = "the file is damaged or of an unknown kind: export it again; `mentor-edge doctor` tests llama.cpp"


class Vocabulary:
    """Text to tokens and back. `size` counts the tokens; the ids in `end_ids` end a turn."""

    def __init__(self, lib: Any, model: Any) -> None:
        self._lib = lib
        self._model = model
        self._vocab = lib.llama_model_get_vocab(model)
        self.size: int = lib.llama_vocab_n_tokens(self._vocab)
        self._pieces: dict[int, bytes] = {}
        self.more_end_ids: set[int] = set()
        """Tokens that end a turn besides those that llama.cpp knows."""
        self._adds_space = self.metadata("tokenizer.ggml.add_space_prefix") == "true"

    @property
    def end_ids(self) -> list[int]:
        return [i for i in range(self.size) if self.ends(i)]

    def ends(self, token: int) -> bool:
        """Whether a token ends a turn."""
        return token in self.more_end_ids or bool(self._lib.llama_vocab_is_eog(self._vocab, token))

    def metadata(self, key: str) -> str | None:
        """The text of a metadata entry of the file."""
        length = self._lib.llama_model_meta_val_str(self._model, key.encode(), None, 0)
        if length < 0:
            return None
        buffer = ctypes.create_string_buffer(length + 1)
        self._lib.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode(errors="replace")

    def special_token(self, name: str) -> str:
        """The text of the "eos" or "bos" token, empty if the file names none. Raises: Refused."""
        # llama.cpp assumes ids that the file does not name, so only those in the file count.
        token = self.metadata(f"tokenizer.ggml.{name}_token_id")
        if token is None:
            return ""
        if not 0 <= int(token) < self.size:
            raise Refused(f"its {name} token is {token}; the vocabulary has {self.size}", DAMAGED)
        return self._piece(int(token)).decode(errors="replace")

    def tokenize(self, text: str) -> list[int]:
        """Token ids: special and user-defined tokens are recognized, nothing is added."""
        data = text.encode(errors="replace")
        room = len(data) + 8
        tokens = (ctypes.c_int32 * room)()
        count = self._lib.llama_tokenize(self._vocab, data, len(data), tokens, room, False, True)
        if count < 0:
            raise Refused(f"llama_tokenize returned {count} for {len(data)} bytes")
        return tokens[:count]

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text, special tokens included; bytes that are not UTF-8 become U+FFFD.

        It joins the tokens' own bytes, because llama_detokenize drops spaces before punctuation for some vocabularies.
        Some tokenizers, such as Llama 2's, put a space before every text; it is removed again.
        """
        text = b"".join(map(self._piece, ids)).decode(errors="replace")
        return text.removeprefix(" ") if self._adds_space else text

    def _piece(self, token: int) -> bytes:
        if token not in self._pieces:
            check_ids([token], self.size)
            buffer = ctypes.create_string_buffer(256)
            length = self._lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, True)
            if length < 0:
                buffer = ctypes.create_string_buffer(-length)
                length = self._lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, True)
            self._pieces[token] = buffer.raw[:length]
        return self._pieces[token]
