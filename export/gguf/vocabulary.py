"""The tokens of a tokenizer.json as GGUF stores them: one per row of the embedding, each with a type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gguf

from mentor_edge.errors import ExportError

SPACE = "▁"
"""How SentencePiece writes a space."""
BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
"""The tokens of single bytes, with which SentencePiece writes characters without a token of their own."""


@dataclass(frozen=True)
class Vocabulary:
    """Every row of the embedding as a token."""

    tokens: list[str]
    """The text of each row; rows that the tokenizer does not use are `[PAD<row>]`."""
    types: list[gguf.TokenType]
    """The GGUF type of each row."""
    ids: dict[str, int]
    """The id of each token that the tokenizer uses."""

    @classmethod
    def of(cls, tokenizer: Mapping[str, Any], rows: int) -> Vocabulary:
        """Read a tokenizer.json. `rows` is the number of embedding rows.

        Raises: ExportError when a token has no embedding row, two tokens have the same text, or an added token does
        not match as plain text.
        """
        model = tokenizer["model"]
        tokens = [f"[PAD{i}]" for i in range(rows)]
        types = [gguf.TokenType.UNUSED] * rows
        entries = [(token, i, _ordinary_type(token, model)) for token, i in model["vocab"].items()]
        for token in tokenizer.get("added_tokens", []):
            if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
                raise ExportError(f"cannot convert the added token {token['content']!r}", "it must match as plain text")
            if token["id"] < rows:  # Gemma 3's image token has no embedding: it cannot occur in the model's text
                entries.append((token["content"], token["id"], _added_type(token, model)))
        ids: dict[str, int] = {}
        for content, i, kind in entries:
            if not 0 <= i < rows:
                problem = f"token {content!r} has id {i}; the embedding has {rows} rows"
                raise ExportError(problem, "resize the embedding")
            tokens[i], types[i], ids[content] = content, kind, i
        if len(set(tokens)) < rows:  # llama.cpp would abort
            duplicate = next(token for i, token in enumerate(tokens) if ids.get(token, i) != i)
            raise ExportError(f"two tokens have the text {duplicate!r}", "llama.cpp requires distinct texts")
        return cls(tokens, types, ids)


def refuse_variants(model: Mapping[str, Any], *variants: str) -> None:
    """Raises: ExportError when a BPE model sets one of the entries `variants`, which llama.cpp does not support."""
    for variant in variants:
        if model.get(variant):
            raise ExportError(
                f"cannot convert a BPE tokenizer with {variant} = {model[variant]!r}", "llama.cpp does not support it"
            )


def _ordinary_type(token: str, model: Mapping[str, Any]) -> gguf.TokenType:
    return gguf.TokenType.BYTE if model.get("byte_fallback") and token in BYTES else gguf.TokenType.NORMAL


def _added_type(token: Mapping[str, Any], model: Mapping[str, Any]) -> gguf.TokenType:
    if not token["special"]:
        # Gemma's runs of spaces: transformers matches them in raw text, where `▁` is not a space, and makes them from
        # real spaces by merging. llama.cpp would print any other type with `▁`.
        spaces = model.get("byte_fallback") and SPACE in token["content"]
        return gguf.TokenType.NORMAL if spaces else gguf.TokenType.USER_DEFINED
    unknown = model.get("byte_fallback") and token["content"] == model.get("unk_token")
    return gguf.TokenType.UNKNOWN if unknown else gguf.TokenType.CONTROL
