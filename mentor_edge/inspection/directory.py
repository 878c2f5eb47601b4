"""Reading a Hugging Face directory without transformers: configuration, tokenizer, template, headers of the weights.

transformers takes four CPU-seconds to import; these files take a fraction of one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mentor_edge.chat import ChatTemplate
from mentor_edge.errors import StudentError
from mentor_edge.inspection.facts import StudentFacts
from mentor_edge.inspection.weights import weight_facts
from mentor_edge.model_directory import end_ids, stored_template

CONFIG, TOKENIZER, TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"
_COPY_AGAIN = "copy or download the model again"


def read_directory(path: Path) -> StudentFacts:
    """The facts about a Hugging Face directory.

    Raises: StudentError when a file is missing or damaged that every use needs: the configuration, the tokenizer, the
    chat template's file.
    """
    config = read_json_object(path / CONFIG)
    nested = config.get("text_config")
    text_config = nested if isinstance(nested, dict) else config
    tokenizer = read_tokenizer(path)
    settings = read_json_object(path / TOKENIZER_CONFIG) if (path / TOKENIZER_CONFIG).is_file() else {}
    legacy = path / "special_tokens_map.json"
    special = (read_json_object(legacy) if legacy.is_file() else {}) | settings
    eos, bos = _content(special.get("eos_token")), _content(special.get("bos_token"))
    stored = stored_template(path, settings.get("chat_template"))
    weights = weight_facts(path)
    tied = config.get("tie_word_embeddings", text_config.get("tie_word_embeddings"))
    limit = text_config.get("max_position_embeddings")
    problems = list(weights.problems)
    if not eos or tokenizer.token_to_id(eos) is None:
        problems.append(f"its tokenizer has no end-of-turn token (eos_token is {eos or None!r})")
    return StudentFacts(
        path=path,
        architecture=_architecture(config),
        config=config,
        context_length=limit if isinstance(limit, int) else None,
        bytes=weights.bytes,
        dtypes=weights.dtypes,
        vocabulary=tokenizer.get_vocab_size(),
        tied=tied if isinstance(tied, bool) else None,
        own_head=weights.own_head,
        end_tokens=_end_tokens(path, config, tokenizer, eos),
        templates=() if stored is None else (stored.name,),
        template_name=None if stored is None else stored.name,
        template=None if stored is None else ChatTemplate(stored.source, eos, bos, name=stored.name),
        encode=lambda texts: encoded(tokenizer, texts),
        problems=problems,
        notes=_head_notes(tied, weights.own_head),
    )


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises: StudentError when the file is missing, cannot be read or does not contain an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StudentError(f"{path.parent} has no {path.name}", _COPY_AGAIN) from error
    except (OSError, ValueError, RecursionError) as error:
        raise StudentError(f"{path} is damaged: {error}", _COPY_AGAIN) from error
    if not isinstance(value, dict):
        raise StudentError(f"{path} is damaged: it is not a JSON object", _COPY_AGAIN)
    return value


def read_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a directory.

    Raises: StudentError when tokenizer.json is missing or damaged.
    """
    path = directory / TOKENIZER
    if not path.is_file():
        hint = f"add {TOKENIZER}: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) writes it"
        raise StudentError(f"{directory} has no tokenizer ({TOKENIZER} is missing)", hint)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise StudentError(f"{path} is damaged: {error}", _COPY_AGAIN) from error


def encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts; nothing is added."""
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def _architecture(config: Mapping[str, Any]) -> str | None:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else config.get("model_type")
    return name if isinstance(name, str) else None


def _content(token: Any) -> str:
    """A special token's text: it is stored as text or as an object with `content`."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _end_tokens(path: Path, config: Mapping[str, Any], tokenizer: Tokenizer, eos: str) -> dict[int, str]:
    """The tokenizer's end token, then those that generation_config.json (or else config.json) states."""
    generation = path / "generation_config.json"
    stated = (read_json_object(generation) if generation.is_file() else config).get("eos_token_id")
    own = tokenizer.token_to_id(eos) if eos else None
    if not all(isinstance(number, int) for number in (stated if isinstance(stated, list) else [stated or 0])):
        raise StudentError(f"{path} states the end token {stated!r}, which is not a number", _COPY_AGAIN)
    ids = end_ids(own, stated)
    return {number: tokenizer.id_to_token(number) or "" for number in sorted(ids, key=lambda n: (n != own, n))}


def _head_notes(tied: Any, own_head: bool | None) -> list[str]:
    if tied is True and own_head:
        return ["config.json ties the output head to the embedding, but the weights hold a head of their own"]
    if tied is False and own_head is False:
        return ["config.json says that the output head is not the embedding, but the weights have no head"]
    return []
