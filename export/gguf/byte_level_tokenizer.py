"""Byte-level BPE tokenizers in GGUF. llama.cpp has a fixed list of pre-tokenizers; the file names one of them.

To add one: find the regex of tokenizer.json in llama.cpp's `src/llama-vocab.cpp` (`llm_tokenizer_bpe`), and map it to
llama.cpp's name in `PRE_TOKENIZERS`. Add a tokenizer that splits this way to
`BYTE_LEVEL` in tests/export/test_gguf_tokenizers.py, which compares the token ids of random texts with transformers.

Read from llama.cpp's `src/llama-vocab.cpp` as of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gguf

from mentor_edge.errors import ExportError

from .vocabulary import refuse_variants

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_WORDS = _CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_MARKED_WORDS = _CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|"
_MARKED_REST = _REST.replace(r"\p{L}", r"\p{L}\p{M}")
PRE_TOKENIZERS = {
    (_WORDS + r"\p{N}" + _REST, False): "qwen2",
    (_MARKED_WORDS + r"\p{N}" + _MARKED_REST, False): "qwen35",
    (_WORDS + r"\p{N}{1,3}" + _REST, True): "llama-bpe",
    (_WORDS + r"\p{N}{1,3}" + _REST, False): "smaug-bpe",
}
"""llama.cpp's name of a pre-tokenizer, by its regex and whether whole words skip the merges (`ignore_merges`)."""


def add_byte_level(writer: gguf.GGUFWriter, tokenizer: Mapping[str, Any]) -> None:
    """Write the merges and the name of the pre-tokenizer.

    Raises: ExportError when llama.cpp would split some text differently.
    """
    model = tokenizer["model"]
    if (decoder := (tokenizer.get("decoder") or {}).get("type")) != "ByteLevel":
        raise ExportError(f"cannot convert this BPE tokenizer (its decoder is {decoder})", "supported: ByteLevel")
    refuse_variants(model, "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    normalizer = tokenizer.get("normalizer")
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise ExportError(f"cannot convert the normalizer {normalizer.get('type')}", "supported: none, NFC")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer_name(tokenizer))
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])


def _pre_tokenizer_name(tokenizer: Mapping[str, Any]) -> str:
    """llama.cpp's name of the pre-tokenizer. Raises: ExportError when llama.cpp does not have it."""
    spec = tokenizer.get("pre_tokenizer") or {}
    steps = spec["pretokenizers"] if spec.get("type") == "Sequence" else [spec]
    kinds = [step.get("type") for step in steps]
    ignore_merges = bool(tokenizer["model"].get("ignore_merges"))
    name: str | None = None
    split = json.dumps(spec)
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        name = None if ignore_merges else "gpt-2"
    elif kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and steps[1].get("use_regex", True):
        name = None if ignore_merges else "smollm"
    elif kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
        split = (steps[0].get("pattern") or {}).get("Regex", split)
        if steps[0].get("behavior") == "Isolated" and not steps[0].get("invert"):
            name = PRE_TOKENIZERS.get((split, ignore_merges))
    if name is None or steps[-1].get("add_prefix_space"):
        raise ExportError(
            f"llama.cpp has no name for the pre-tokenizer {split} with ignore_merges={ignore_merges}",
            "supported: the splits of Qwen2 to Qwen3.5, Llama 3, SmolLM 1 to 3 and GPT-2",
        )
    return name
