"""The real Qwen tokenizer (151,936 entries), rebuilt from the vocabulary and merges in the shared data."""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from helpers.paths import SHARED
from helpers.tiny_models import QWEN2_SPLIT

ROWS = 151_936
"""Rows of the embedding in Qwen's checkpoints: more than the tokenizer's ids."""
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # a table  # fmt: skip
MARKERS = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # a table  # fmt: skip
"""Added tokens that are not special. Their ids follow those of SPECIAL; Qwen2.5 has all but the last four."""
_SEPARATOR = "\n__ggml_vocab_test__\n"


def vocabulary_file() -> Path:
    """The GGUF file with the vocabulary. Skips the test if the shared data are absent."""
    root = SHARED
    file = root / "tokenizers" / "qwen2" / "ggml-vocab-qwen2.gguf"
    if not file.is_file():
        pytest.skip("Qwen's vocabulary is missing: set MENTOR_EDGE_DATA to a folder that contains tokenizers/qwen2/")
    return file


def golden_vectors() -> list[tuple[str, list[int]]]:
    """The 46 texts and token ids with which llama.cpp tests this vocabulary."""
    file = vocabulary_file()
    # Not read_text: it would turn \r\n into \n.
    texts = file.with_name(f"{file.name}.inp").read_bytes().decode().split(_SEPARATOR)[:-1]
    rows = file.with_name(f"{file.name}.out").read_text().removesuffix("\n").split("\n")
    return [(text, [int(token) for token in row.split()]) for text, row in zip(texts, rows, strict=True)]


def _strings(content: bytes, key: str) -> list[str]:
    """An array of strings in a GGUF file. The gguf package needs ten seconds for it: one numpy array per string."""
    position = content.index(key.encode()) + len(key)
    kind, item_kind, count = struct.unpack_from("<IIQ", content, position)
    assert (kind, item_kind) == (9, 8)  # an array, of strings
    position += 16
    strings = []
    for _ in range(count):
        (length,) = struct.unpack_from("<Q", content, position)
        strings.append(content[position + 8 : position + 8 + length].decode())
        position += 8 + length
    return strings


@cache
def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The ordinary tokens with their ids, and the merges."""
    content = vocabulary_file().read_bytes()
    tokens = _strings(content, "tokenizer.ggml.tokens")
    merges = [merge.split(" ") for merge in _strings(content, "tokenizer.ggml.merges")]
    ordinary = tokens[: tokens.index(SPECIAL[0])]
    return {token: i for i, token in enumerate(ordinary)}, [(left, right) for left, right in merges]


def make_qwen2_tokenizer(template: str | None = None) -> Any:
    """The tokenizer as a class of transformers, with Qwen2's normalizer and splitting and the added tokens of Qwen3.

    These are Qwen2.5's and four more. `template` is a chat template's source.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary, merges = _vocabulary()
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in MARKERS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[token for token in SPECIAL if token not in ("<|endoftext|>", "<|im_end|>")],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = template
    return fast
