"""Reading an ONNX directory: sizes, end tokens, template and tokenizer. The graph is not opened here.

onnxruntime-genai's model builder writes such directories. They contain genai_config.json, the graph with its weights,
and the Hugging Face tokenizer files (tokenizer.json, tokenizer_config.json, chat_template.jinja).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError
from tokenizers import Tokenizer

from mentor_edge.chat import ChatTemplate
from mentor_edge.chat.setting import OWN, TemplateSetting, Tokens, choose_template
from mentor_edge.engines.onnx.genai_config import CONFIG, GenaiConfig
from mentor_edge.errors import EngineError, StudentError
from mentor_edge.json_object import LARGEST_TOKENIZER, read_bounded
from mentor_edge.model_directory import TEMPLATE_FILE, NamedTemplate, end_ids, parse_tokenizer, stored_template

_INCOMPLETE = "the directory is incomplete or damaged: export the model again"


class _AddedToken(BaseModel):
    content: str


class _TokenizerConfig(BaseModel):
    eos_token: str | _AddedToken | None = None
    bos_token: str | _AddedToken | None = None
    chat_template: Any = None  # text, or a list of named templates


_Config = TypeVar("_Config", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class OnnxDirectory:
    """The parts of an ONNX directory that the parent process needs."""

    path: Path
    settings: GenaiConfig
    """What the runtime is told about the graph."""
    context_length: int
    """In tokens."""
    kv_bytes_per_token: int
    """The size of one conversation's cache, per token."""
    end_ids: frozenset[int]
    """The tokens that end a turn."""
    template: ChatTemplate
    tokenizer: Tokenizer

    @classmethod
    def read(cls, path: Path, template: TemplateSetting = OWN) -> Self:
        """Read a directory; `template` is a chat template to use instead of its own, and its arguments.

        Raises: EngineError when a file is missing or damaged, or the model lacks a template or an end token;
        StudentError when `template` does not suit the model.
        """
        if not (path / CONFIG).is_file():
            raise EngineError(f"{path} has no {CONFIG}", "give a directory that onnxruntime-genai's builder wrote")
        settings = GenaiConfig.read(path)
        model, decoder = settings.model, settings.model.decoder
        if not (path / decoder.filename).is_file():
            raise EngineError(f"{path} has no {decoder.filename}, which its {CONFIG} names", _INCOMPLETE)
        config = _parse(path / "tokenizer_config.json", _TokenizerConfig)
        tokenizer = _read_tokenizer(path / "tokenizer.json")
        eos_token = _content(config.eos_token)
        eos_id = tokenizer.token_to_id(eos_token)
        if eos_id is None:
            raise EngineError(f"{path} names no end-of-turn token", "export a model whose tokenizer has an eos_token")
        own = _read_template(path, config, replaced=template.template is not None)
        bos_token = _content(config.bos_token)
        tokens = Tokens.of(tokenizer, eos_token, bos_token)
        if own is None and not template:
            raise EngineError(f"{path} has no chat template", f"add the {TEMPLATE_FILE} that it was trained with")
        chosen = choose_template(template, own, tokens, str(path))
        if chosen.end_of_turn is not None:
            eos_token = chosen.end_of_turn
        ends = end_ids(eos_id, model.eos_token_id, tokens.encode(eos_token))
        texts = tuple(tokens.decode([token]) for token in sorted(ends))
        return cls(
            path=path,
            settings=settings,
            context_length=model.context_length,
            # Keys and values, of at most four bytes each: the builder's CPU models have float32 caches.
            kv_bytes_per_token=2 * decoder.num_hidden_layers * decoder.num_key_value_heads * decoder.head_size * 4,
            end_ids=ends,
            template=ChatTemplate(chosen.source, eos_token, bos_token, texts),
            tokenizer=tokenizer,
        )


def _read(path: Path) -> str:
    try:
        return read_bounded(path, LARGEST_TOKENIZER).decode("utf-8")
    except FileNotFoundError as error:
        raise EngineError(f"{path.parent} has no {path.name}", _INCOMPLETE) from error
    except (OSError, ValueError) as error:
        raise EngineError(f"cannot read {path}: {error}", _INCOMPLETE) from error


def _parse(path: Path, kind: type[_Config]) -> _Config:
    try:
        return kind.model_validate_json(_read(path))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "its text"
        raise EngineError(f"{path} cannot be used: {field}: {first['msg']}", _INCOMPLETE) from error


def _read_tokenizer(path: Path) -> Tokenizer:
    text = _read(path)
    try:
        return parse_tokenizer(text)
    except ValueError as error:
        raise EngineError(f"{path} is not a tokenizer: {error}", _INCOMPLETE) from error


def _read_template(path: Path, config: _TokenizerConfig, *, replaced: bool) -> NamedTemplate | None:
    try:
        return stored_template(path, config.chat_template, replaced=replaced)
    except StudentError as error:
        raise EngineError(error.problem, error.hint) from error


def _content(token: str | _AddedToken | None) -> str:
    return token.content if isinstance(token, _AddedToken) else token or ""
