"""SentencePiece's BPE tokenizers in GGUF: merges become scores, spaces are written `▁`.

Read from llama.cpp's `src/llama-vocab.cpp` as of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gguf

from mentor_edge.errors import ExportError

from .vocabulary import BYTES, SPACE, Vocabulary, refuse_variants


def add_sentencepiece(writer: gguf.GGUFWriter, tokenizer: Mapping[str, Any], vocabulary: Vocabulary) -> None:
    """Write a score for every token, and whether texts get a leading space.

    llama.cpp merges the neighbours whose joined text has the highest score, the leftmost among equals. Scores that fall
    with the rank of a token's first merge therefore reproduce BPE's order.

    Raises: ExportError when llama.cpp would split some text differently.
    """
    model = tokenizer["model"]
    refuse_variants(model, "dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    if missing := sorted(BYTES - vocabulary.ids.keys()):
        raise ExportError(f"the tokenizer lacks the byte token {missing[0]}", "llama.cpp needs all 256 of them")
    prefix = _adds_leading_space(tokenizer)
    merges = [tuple(merge.split(" ", 1) if isinstance(merge, str) else merge) for merge in model["merges"]]
    _check_merges(merges, vocabulary)
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_scores([-float(ranks.get(token, len(merges))) for token in vocabulary.tokens])
    writer.add_add_space_prefix(prefix)


def _adds_leading_space(tokenizer: Mapping[str, Any]) -> bool:
    """Whether every text gets a leading space, even after a special token.

    llama.cpp writes spaces as `▁`, and adds one before every text or before none.

    Raises: ExportError for every other treatment of spaces.
    """
    normalizer, spec = tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    prepend = {"type": "Prepend", "prepend": SPACE}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    # Gemma's pre-tokenizer, which has no effect once the spaces are replaced.
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": False}
    prefix = (steps, spec) == ([prepend, replace], None)
    if not prefix and (steps, spec) not in (([replace], None), ([replace], split), ([], metaspace)):
        treatment = json.dumps({"normalizer": normalizer, "pre_tokenizer": spec}, ensure_ascii=False)
        hint = "supported: spaces written as ▁, with an additional one before every text or before none"
        if spec is not None and spec.get("prepend_scheme", "never") != "never":
            hint += "; in transformers, load the tokenizer with add_prefix_space=False before you train the model"
        raise ExportError(f"cannot convert the SentencePiece-like tokenizer with {treatment}", hint)
    for token in tokenizer.get("added_tokens", []):
        # transformers looks for a normalized token in normalized text.
        if token.get("normalized") and (prefix or " " in token["content"]):
            raise ExportError(f"cannot convert the added token {token['content']!r}", "it must be normalized=False")
    return prefix


def _check_merges(merges: list[tuple[str, ...]], vocabulary: Vocabulary) -> None:
    """Raises: ExportError when two tokens have no merge although their joined text is a token.

    llama.cpp would merge them.
    """
    allowed = set(merges)
    ids, types = vocabulary.ids, vocabulary.types
    # Tokens of all other types are cut out of the text before merging.
    merged = [token for token, i in ids.items() if types[i] in (gguf.TokenType.NORMAL, gguf.TokenType.BYTE)]
    for token in merged:
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            # llama.cpp merges a single character that is not a token before it falls back to bytes.
            if (left in ids or cut == 1) and (right in ids or cut == len(token) - 1) and (left, right) not in allowed:
                hint = "supported: BPE with every merge that its vocabulary allows, as SentencePiece makes it"
                raise ExportError(f"the tokenizer does not merge {left!r} and {right!r}; llama.cpp would", hint)
