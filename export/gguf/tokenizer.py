"""The tokenizer and chat template of a model directory in GGUF: vocabulary, merges or scores, special ids, template.

llama.cpp implements two kinds of tokenizers that the supported families use: byte-level BPE (`byte_level_tokenizer`)
and SentencePiece's BPE (`sentencepiece_tokenizer`). A tokenizer that it would run differently is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
from tokenizers import Tokenizer

from mentor_edge.errors import ExportError, StudentError
from mentor_edge.model_directory import stored_template

from ..checkpoint import configured_end_ids, read_json
from .byte_level_tokenizer import add_byte_level
from .sentencepiece_tokenizer import add_sentencepiece
from .vocabulary import Vocabulary

# The tokens of the supported families at which llama.cpp stops because of their text alone.
_KNOWN_ENDS = {
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<eos>",
    "</s>",
}


def add_tokenizer(writer: gguf.GGUFWriter, model_dir: Path, rows: int) -> None:
    """Write everything that llama.cpp needs to tokenize as the directory does. `rows` counts the embedding's rows.

    Raises: ExportError when a file is missing or damaged, a token has no embedding row, or llama.cpp would split some
    text differently.
    """
    tokenizer = _read_tokenizer(model_dir)
    settings = read_json(model_dir / "tokenizer_config.json")
    vocabulary = Vocabulary.of(tokenizer, rows)
    if tokenizer["model"].get("byte_fallback"):
        add_sentencepiece(writer, tokenizer, vocabulary)
    else:
        add_byte_level(writer, tokenizer)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types([int(kind) for kind in vocabulary.types])
    special = _special_ids(settings, vocabulary.ids)
    _add_special_ids(writer, special, _more_end_ids(model_dir, special, vocabulary))
    adds_bos, adds_eos = _added_by_post_processor(tokenizer, special, rows)
    writer.add_add_bos_token(adds_bos)
    writer.add_add_eos_token(adds_eos)
    if template := _chat_template(model_dir, settings):
        writer.add_chat_template(template)


def _read_tokenizer(model_dir: Path) -> dict[str, Any]:
    path = model_dir / "tokenizer.json"
    if not path.exists() and (model_dir / "tokenizer.model").exists():
        hint = "load it with AutoTokenizer and save_pretrained it, which writes tokenizer.json"
        raise ExportError(f"{model_dir} has a tokenizer.model but no tokenizer.json", hint)
    tokenizer = read_json(path)
    if (kind := (tokenizer.get("model") or {}).get("type")) != "BPE":
        raise ExportError(f"cannot convert this {kind} tokenizer", "supported: byte-level and SentencePiece-like BPE")
    return tokenizer


def _special_ids(settings: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, int]:
    """The ids that tokenizer_config.json names, by "bos", "eos", "pad" and "unk"."""
    special: dict[str, int] = {}
    for name in ("bos", "eos", "pad", "unk"):
        token = settings.get(f"{name}_token")
        content = token.get("content") if isinstance(token, dict) else token
        if content is not None:
            if content not in ids:
                raise ExportError(f"tokenizer_config.json names {content!r} as {name}_token, which its tokenizer lacks")
            special[name] = ids[content]
    if "eos" not in special:
        hint = "llama.cpp would use another token instead; set the tokenizer's eos_token"
        raise ExportError("tokenizer_config.json has no eos_token", hint)
    return special


def _more_end_ids(model_dir: Path, special: Mapping[str, int], vocabulary: Vocabulary) -> list[int]:
    """The ids at which generation stops, except the end token and those that llama.cpp knows by their text."""
    ids = configured_end_ids(model_dir)
    if outside := sorted(i for i in ids if not 0 <= i < len(vocabulary.tokens)):
        raise ExportError(
            f"generation_config.json stops at the ids {outside}, which do not exist", "correct its eos_token_id"
        )
    return sorted(i for i in ids - {special["eos"]} if vocabulary.tokens[i] not in _KNOWN_ENDS)


def _add_special_ids(writer: gguf.GGUFWriter, special: Mapping[str, int], more_ends: list[int]) -> None:
    for name, add in (
        ("bos", writer.add_bos_token_id),
        ("eos", writer.add_eos_token_id),
        ("pad", writer.add_pad_token_id),
        ("unk", writer.add_unk_token_id),
    ):
        if name in special:
            add(special[name])
    # "End of turn" and "end of message": a GGUF file has these two fields besides the end token.
    fields = (writer.add_eot_token_id, writer.add_eom_token_id)
    if len(more_ends) > len(fields):
        hint = f"a GGUF file can name {len(fields)} besides the end token; name fewer in eos_token_id"
        raise ExportError(f"generation_config.json stops at {len(more_ends)} further tokens: {more_ends}", hint)
    for add, i in zip(fields, more_ends, strict=False):
        add(i)


def _added_by_post_processor(tokenizer: Mapping[str, Any], special: Mapping[str, int], rows: int) -> tuple[bool, bool]:
    """Whether the post-processor adds the start token before a text, and the end token after it.

    Raises: ExportError when it adds anything else.
    """
    bare: dict[str, Any] = {
        "model": {"type": "BPE", "vocab": {"x": rows}, "merges": []},  # an id that no real token has
        "added_tokens": [],
        "post_processor": tokenizer.get("post_processor"),
    }
    try:
        ids = Tokenizer.from_str(json.dumps(bare)).encode("x").ids
    except Exception as error:  # tokenizers raises no narrower class
        raise ExportError(f"the post-processor of tokenizer.json cannot be read: {error}") from error
    for adds_bos in (False, True):
        for adds_eos in (False, True):
            front = [special.get("bos")] if adds_bos else []
            if ids == [*front, rows, *([special["eos"]] if adds_eos else [])]:
                return adds_bos, adds_eos
    pieces = ["text" if i == rows else i for i in ids]
    raise ExportError(
        f"the post-processor turns a text into {pieces}", "supported: a start token, an end token, or none"
    )


def _chat_template(model_dir: Path, settings: Mapping[str, Any]) -> str | None:
    try:
        template = stored_template(model_dir, settings.get("chat_template"))
    except StudentError as error:
        raise ExportError(error.problem, error.hint) from error
    return None if template is None else template.source
