"""Reading a Hugging Face directory without transformers: configuration, tokenizer, template, headers of the weights.

transformers takes four CPU-seconds to import; these files take a fraction of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mentor_edge.chat.setting import TemplateSetting, Tokens
from mentor_edge.errors import StudentError
from mentor_edge.inspection.facts import StudentFacts, resolve_template
from mentor_edge.inspection.weights import weight_facts
from mentor_edge.json_object import LARGEST_TOKENIZER, read_bounded
from mentor_edge.model_directory import (
    TOKENIZER_CONFIG,
    check_config,
    check_tokenizer_config,
    parse_tokenizer,
    read_json_object,
    read_optional_json_object,
    stated_end_ids,
    stored_template,
    template_names,
)

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
_STATED_ABOVE = ("model_type", "tie_word_embeddings", "quantization_config")
"""What the outer configuration of a model with several parts says about its language model."""
_COPY_AGAIN = "copy or download the model again"


def read_directory(path: Path, setting: TemplateSetting) -> StudentFacts:
    """The facts about a Hugging Face directory; `setting` is the template to use instead of its own.

    Raises: StudentError when a file is missing or damaged that every use needs: the configuration, the tokenizer, the
    chat template's file.
    """
    config = read_json_object(path / CONFIG)
    check_config(config, path / CONFIG)
    nested = config.get("text_config")
    text_config = nested if isinstance(nested, dict) else config
    check_tokenizer_config(path)
    tokenizer = read_tokenizer(path)
    settings = read_optional_json_object(path / TOKENIZER_CONFIG)
    special = read_optional_json_object(path / "special_tokens_map.json") | settings
    tokens = Tokens.of(tokenizer, special.get("eos_token"), special.get("bos_token"))
    own = stored_template(path, settings.get("chat_template"), replaced=setting.template is not None)
    resolved = resolve_template(setting, own, tokens, stated_end_ids(path), str(path))
    stated = {key: config[key] for key in _STATED_ABOVE if key in config}
    weights = weight_facts(path, {**text_config, **stated})
    tied = stated.get("tie_word_embeddings", text_config.get("tie_word_embeddings"))
    limit = text_config.get("max_position_embeddings")
    problems = list(weights.problems)
    if not tokens.eos or tokenizer.token_to_id(tokens.eos) is None:
        problems.append(f"its tokenizer has no end-of-turn token (eos_token is {tokens.eos or None!r})")
    problems += _without_embedding(tokenizer, resolved.end_tokens, text_config.get("vocab_size"))
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
        end_tokens=resolved.end_tokens,
        templates=template_names(path, settings.get("chat_template")),
        template_name=resolved.name,
        template=resolved.template,
        has_token=tokens.has,
        problems=problems,
        notes=_head_notes(tied, weights.own_head),
    )


def read_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a directory.

    Raises: StudentError when tokenizer.json is missing or damaged.
    """
    path = directory / TOKENIZER
    if not path.is_file():
        hint = f"add {TOKENIZER}: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) writes it"
        raise StudentError(f"{directory} has no tokenizer ({TOKENIZER} is missing)", hint)
    try:
        return parse_tokenizer(read_bounded(path, LARGEST_TOKENIZER).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise StudentError(f"{path} is damaged: {error}", _COPY_AGAIN) from error


def _architecture(config: Mapping[str, Any]) -> str | None:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else config.get("model_type")
    return name if isinstance(name, str) else None


def _without_embedding(tokenizer: Tokenizer, ends: Iterable[int], rows: Any) -> list[str]:
    """Tokens that the model has no embedding for. Added tokens may lack one, unless they end turns."""
    added = tokenizer.get_added_tokens_decoder().keys()
    largest = max({*ends, *tokenizer.get_vocab(with_added_tokens=True).values()} - (added - {*ends}), default=0)
    if not isinstance(rows, int) or largest < rows:
        return []
    return [
        f"config.json has embeddings of {rows} tokens (vocab_size), but the tokenizer or an eos_token_id uses a"
        f" token {largest}"
    ]


def _head_notes(tied: Any, own_head: bool | None) -> list[str]:
    if tied is True and own_head:
        return ["config.json ties the output head to the embedding, but the weights hold a head of their own"]
    return []
