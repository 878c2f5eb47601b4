"""The tokenizer and chat template of a model directory in GGUF: vocabulary, merges or scores, special ids, template.

llama.cpp implements two of the tokenizers that these families use: byte-level BPE, where the file names one of the ways
of splitting text that are compiled in, and SentencePiece's BPE over text whose spaces are written `▁`. Read from its
`src/llama-vocab.cpp` as of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
from tokenizers import Tokenizer

from mentor_edge.errors import ExportError

from ..checkpoint import read_json

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
"""llama.cpp's name for a split regex, which also decides whether merges are skipped for whole words."""

SPACE = "▁"
_BYTES = {f"<0x{byte:02X}>" for byte in range(256)}
# Tokens that llama.cpp stops at because of their text alone, of those that these families use.
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


@dataclass(frozen=True)
class Vocabulary:
    """Every row of the embedding as a token: `tokens[i]` and its GGUF type `types[i]`. `ids` holds the real ones."""

    tokens: list[str]
    types: list[gguf.TokenType]
    ids: dict[str, int]


def add_tokenizer(writer: gguf.GGUFWriter, model_dir: Path, rows: int) -> None:
    """Write everything that llama.cpp needs to tokenize as the directory does. `rows` counts the embedding's rows.

    Raises: ExportError when a file is missing or damaged, a token has no embedding row, or llama.cpp would split some
    text differently.
    """
    tokenizer = _read_tokenizer(model_dir)
    settings = read_json(model_dir / "tokenizer_config.json")
    vocabulary = _vocabulary(tokenizer, rows)
    if tokenizer["model"].get("byte_fallback"):
        _add_sentencepiece(writer, tokenizer, vocabulary)
    else:
        _add_byte_level(writer, tokenizer)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types([int(kind) for kind in vocabulary.types])
    special = _special_ids(settings, vocabulary.ids)
    _add_special_ids(writer, special, _end_ids(model_dir, special, vocabulary))
    starts, ends = _frame(tokenizer, special, rows)
    writer.add_add_bos_token(starts)
    writer.add_add_eos_token(ends)
    if template := _chat_template(model_dir, settings):
        writer.add_chat_template(template)


def _read_tokenizer(model_dir: Path) -> dict[str, Any]:
    path = model_dir / "tokenizer.json"
    if not path.exists() and (model_dir / "tokenizer.model").exists():
        hint = "load it with AutoTokenizer and save_pretrained it, which writes tokenizer.json"
        raise ExportError(f"{model_dir} holds a tokenizer.model but no tokenizer.json", hint)
    tokenizer = read_json(path)
    if (kind := (tokenizer.get("model") or {}).get("type")) != "BPE":
        raise ExportError(f"cannot convert this {kind} tokenizer", "supported: byte-level and SentencePiece-like BPE")
    return tokenizer


def _vocabulary(tokenizer: Mapping[str, Any], rows: int) -> Vocabulary:
    model = tokenizer["model"]
    tokens = [f"[PAD{i}]" for i in range(rows)]
    types = [gguf.TokenType.UNUSED] * rows
    entries = [
        (token, i, gguf.TokenType.BYTE if model.get("byte_fallback") and token in _BYTES else gguf.TokenType.NORMAL)
        for token, i in model["vocab"].items()
    ]
    for token in tokenizer.get("added_tokens", []):
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
            raise ExportError(f"cannot convert the added token {token['content']!r}", "it must match as plain text")
        if token["id"] < rows:  # Gemma 3's token for images has no embedding: no text for the model can hold it
            entries.append((token["content"], token["id"], _added_type(token, model)))
    ids: dict[str, int] = {}
    for content, i, kind in entries:
        if not 0 <= i < rows:
            raise ExportError(f"token {content!r} has id {i}; the embedding has {rows} rows", "resize the embedding")
        tokens[i], types[i], ids[content] = content, kind, i
    if len(set(tokens)) < rows:  # llama.cpp would abort
        twice = next(token for i, token in enumerate(tokens) if ids.get(token, i) != i)
        raise ExportError(f"two tokens read {twice!r}", "llama.cpp needs every token of its own text")
    return Vocabulary(tokens, types, ids)


def _added_type(token: Mapping[str, Any], model: Mapping[str, Any]) -> gguf.TokenType:
    if not token["special"]:
        # Gemma's runs of spaces: transformers matches them in raw text, where `▁` is not a space, and makes them from
        # real spaces by merging. Any other type would be printed with `▁`.
        spaces = model.get("byte_fallback") and SPACE in token["content"]
        return gguf.TokenType.NORMAL if spaces else gguf.TokenType.USER_DEFINED
    unknown = model.get("byte_fallback") and token["content"] == model.get("unk_token")
    return gguf.TokenType.UNKNOWN if unknown else gguf.TokenType.CONTROL


def _refuse_model_variants(model: Mapping[str, Any], *variants: str) -> None:
    for variant in variants:
        if model.get(variant):
            raise ExportError(f"cannot convert a BPE tokenizer with {variant} = {model[variant]!r}", "supported: none")


def _add_byte_level(writer: gguf.GGUFWriter, tokenizer: Mapping[str, Any]) -> None:
    model = tokenizer["model"]
    if (tokenizer.get("decoder") or {}).get("type") != "ByteLevel":
        seen = (tokenizer.get("decoder") or {}).get("type")
        raise ExportError(f"cannot convert this BPE tokenizer (its decoder is {seen})", "supported: ByteLevel")
    _refuse_model_variants(model, "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    normalizer = tokenizer.get("normalizer")
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise ExportError(f"cannot convert the normalizer {normalizer.get('type')}", "supported: none, NFC")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(tokenizer))
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])


def _pre_tokenizer(tokenizer: Mapping[str, Any]) -> str:
    """llama.cpp's name for a byte-level tokenizer's way of splitting text, or a refusal."""
    spec = tokenizer.get("pre_tokenizer") or {}
    steps = spec["pretokenizers"] if spec.get("type") == "Sequence" else [spec]
    shape = [step.get("type") for step in steps]
    ignore_merges = bool(tokenizer["model"].get("ignore_merges"))
    name: str | None = None
    seen = json.dumps(spec)
    if shape == ["ByteLevel"] and steps[0].get("use_regex", True):
        name = None if ignore_merges else "gpt-2"
    elif shape == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and steps[1].get("use_regex", True):
        name = None if ignore_merges else "smollm"
    elif shape == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
        seen = (steps[0].get("pattern") or {}).get("Regex", seen)
        if steps[0].get("behavior") == "Isolated" and not steps[0].get("invert"):
            name = PRE_TOKENIZERS.get((seen, ignore_merges))
    if name is None or steps[-1].get("add_prefix_space"):
        raise ExportError(
            f"llama.cpp has no name for the pre-tokenizer {seen} with ignore_merges={ignore_merges}",
            "supported: the splits of Qwen2 to Qwen3.5, Llama 3, SmolLM 1 to 3 and GPT-2",
        )
    return name


def _add_sentencepiece(writer: gguf.GGUFWriter, tokenizer: Mapping[str, Any], vocabulary: Vocabulary) -> None:
    """llama.cpp merges the neighbours whose joined text has the highest score, the leftmost among equals. A score that
    falls with the rank of a token's first merge gives BPE's order."""
    model = tokenizer["model"]
    _refuse_model_variants(model, "dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    if missing := sorted(_BYTES - vocabulary.ids.keys()):
        raise ExportError(f"the tokenizer lacks the byte token {missing[0]}", "llama.cpp needs all 256 of them")
    prefix = _space_prefix(tokenizer)
    merges = [tuple(merge.split(" ", 1) if isinstance(merge, str) else merge) for merge in model["merges"]]
    _check_splits(merges, vocabulary)
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_scores([-float(ranks.get(token, len(merges))) for token in vocabulary.tokens])
    writer.add_add_space_prefix(prefix)


def _space_prefix(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a space is put before every text, also those after special tokens; refuses all that llama.cpp cannot do.

    llama.cpp writes spaces as `▁` and puts one before each text or before none.
    """
    normalizer, spec = tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    prepend = {"type": "Prepend", "prepend": SPACE}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    # Gemma's, which finds nothing to split after the spaces are gone.
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": False}
    prefix = (steps, spec) == ([prepend, replace], None)
    if not prefix and (steps, spec) not in (([replace], None), ([replace], split), ([], metaspace)):
        seen = json.dumps({"normalizer": normalizer, "pre_tokenizer": spec}, ensure_ascii=False)
        hint = "supported: spaces written as ▁, with one more before every text or before none"
        if spec is not None and spec.get("prepend_scheme", "never") != "never":
            hint += "; a tokenizer of transformers gets there with add_prefix_space=False, before the model is trained"
        raise ExportError(f"cannot convert the SentencePiece-like tokenizer with {seen}", hint)
    for token in tokenizer.get("added_tokens", []):
        # A normalized token is looked for in normalized text.
        if token.get("normalized") and (prefix or " " in token["content"]):
            raise ExportError(f"cannot convert the added token {token['content']!r}", "it must be normalized=False")
    return prefix


def _check_splits(merges: list[tuple[str, ...]], vocabulary: Vocabulary) -> None:
    """Refuse a tokenizer that does not merge some neighbours whose joined text is a token. llama.cpp would."""
    known = set(merges)
    ids, types = vocabulary.ids, vocabulary.types
    # The others are cut out of the text before it is merged.
    merged = [token for token, i in ids.items() if types[i] in (gguf.TokenType.NORMAL, gguf.TokenType.BYTE)]
    for token in merged:
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            # A single character that is no token is merged by llama.cpp before it falls back to bytes.
            if (left in ids or cut == 1) and (right in ids or cut == len(token) - 1) and (left, right) not in known:
                hint = "supported: BPE with every merge that its vocabulary allows, as SentencePiece makes it"
                raise ExportError(f"the tokenizer does not merge {left!r} and {right!r}; llama.cpp would", hint)


def _special_ids(settings: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, int]:
    """The ids that tokenizer_config.json names, by "bos", "eos", "pad" and "unk"."""
    special: dict[str, int] = {}
    for name in ("bos", "eos", "pad", "unk"):
        token = settings.get(f"{name}_token")
        content = token.get("content") if isinstance(token, dict) else token
        if content is not None:
            if content not in ids:
                raise ExportError(f"tokenizer_config.json names {content!r} as {name}_token, which is no token")
            special[name] = ids[content]
    if "eos" not in special:
        hint = "llama.cpp would take some other token for it; set the tokenizer's eos_token"
        raise ExportError("tokenizer_config.json names no eos_token", hint)
    return special


def _end_ids(model_dir: Path, special: Mapping[str, int], vocabulary: Vocabulary) -> list[int]:
    """The ids that generation stops at besides the end token and those that llama.cpp knows by their text."""
    path = model_dir / "generation_config.json"
    stated = read_json(path).get("eos_token_id") if path.exists() else None
    ids = {stated} if isinstance(stated, int) else set(stated or ())
    if outside := sorted(i for i in ids if not 0 <= i < len(vocabulary.tokens)):
        raise ExportError(f"generation_config.json stops at {outside}, which are no tokens", "correct its eos_token_id")
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
    # "End of turn" and "end of message": with the end token, all that a file can name.
    places = (writer.add_eot_token_id, writer.add_eom_token_id)
    if len(more_ends) > len(places):
        hint = f"llama.cpp has places for {len(places)} besides the end token; name fewer in eos_token_id"
        raise ExportError(f"generation_config.json stops at {len(more_ends)} further tokens: {more_ends}", hint)
    for add, i in zip(places, more_ends, strict=False):
        add(i)


def _frame(tokenizer: Mapping[str, Any], special: Mapping[str, int], rows: int) -> tuple[bool, bool]:
    """Whether the post-processor puts the start token before and the end token behind a text; refuses all else."""
    bare: dict[str, Any] = {
        "model": {"type": "BPE", "vocab": {"x": rows}, "merges": []},  # an id that no real token has
        "added_tokens": [],
        "post_processor": tokenizer.get("post_processor"),
    }
    try:
        seen = Tokenizer.from_str(json.dumps(bare)).encode("x").ids
    except Exception as error:  # tokenizers raises no narrower class
        raise ExportError(f"the post-processor of tokenizer.json cannot be read: {error}") from error
    for starts in (False, True):
        for ends in (False, True):
            front = [special.get("bos")] if starts else []
            if seen == [*front, rows, *([special["eos"]] if ends else [])]:
                return starts, ends
    shown = ["text" if i == rows else i for i in seen]
    raise ExportError(f"the post-processor makes {shown} of a text", "supported: a start token, an end token, or none")


def _chat_template(model_dir: Path, settings: Mapping[str, Any]) -> str | None:
    # The file comes first, as in transformers.
    file = model_dir / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.exists() else settings.get("chat_template")
    more = sorted(path.stem for path in model_dir.glob("additional_chat_templates/*.jinja"))
    if isinstance(template, list):
        more = [str(entry.get("name")) for entry in template]
        if len(template) == 1:
            template, more = template[0].get("template"), []
    if more or not isinstance(template, str | None):
        listed = f" ({', '.join(more)})" if more else ""
        hint = "keep the one that the model was trained with"
        raise ExportError(f"the tokenizer holds several chat templates{listed}", hint)
    return template
