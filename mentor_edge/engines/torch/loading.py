"""Loading a student from a Hugging Face directory, and reading from it what every engine needs.

It checks what transformers silently accepts: missing or misshapen weights, tokens without an embedding, a
missing or broken chat template.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from mentor_edge.chat import ChatTemplate
from mentor_edge.chat.setting import OWN, TemplateSetting, Tokens, choose_template
from mentor_edge.errors import MentorEdgeError, StudentError, panics_as_errors
from mentor_edge.model_directory import (
    NamedTemplate,
    check_config,
    check_tokenizer_config,
    end_ids,
    from_hub,
    read_json_object,
    read_optional_json_object,
    stated_end_ids,
    stored_entry,
    stored_template,
)
from mentor_edge.template_record import TemplateRecord
from mentor_edge.weight_files import weight_files

_OTHER_WEIGHTS = "copy the model again: its weights and config.json do not belong together"

_LAYER = re.compile(r"^(.*?)\.(\d+)\.")

_LARGER = 16
"""More numbers than this for each stored byte of weights: the configuration is not theirs."""


_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
FILES_AND_WEIGHTS = (*_FILES, "*.safetensors")
"""Patterns of the names of all files of a model that are read."""


def _directory(student: str | Path, files: Sequence[str] = _FILES) -> Path:
    """The directory of a student. Files from the hub are fetched first, so that they are checked like all others."""
    return Path(student) if Path(student).is_dir() else from_hub(str(student), files)


@contextmanager
def _loading(directory: Path, name: str) -> Iterator[None]:
    check_config(read_optional_json_object(directory / "config.json"), directory / "config.json")
    check_tokenizer_config(directory)
    try:
        with panics_as_errors():
            yield
    except MentorEdgeError:
        raise
    except Exception as error:  # the class that a configuration names may raise anything
        if "trust_remote_code" in str(error):
            raise StudentError(
                f"the student {name!r} needs program code that comes with it (auto_map in its config.json or"
                " tokenizer_config.json); mentor-edge never runs such code",
                "use a model whose architecture is part of transformers",
            ) from error
        first_lines = " ".join(" ".join(str(error).strip().splitlines()[:2]).split()) or type(error).__name__
        raise StudentError(
            f"cannot load the student {name!r}: {first_lines}",
            "give a directory with config.json, model.safetensors and a tokenizer (a hub id needs a reachable hub)",
        ) from error


def load_tokenizer(path: str | Path, template: TemplateSetting = OWN) -> Any:
    """Load the tokenizer of a student, with the one chat template that it uses.

    Args:
        path: a local Hugging Face directory or, if a hub is reachable, a hub id.
        template: the template to use instead of the student's own, and its arguments. The token that ends a turn in it
            becomes the tokenizer's end token.

    Raises: StudentError when it cannot be loaded, has no end token, or has no chat template or one that cannot be used.
    """
    name, directory = str(path), _directory(path)
    own = _own(directory, template)  # first: transformers fails on some forms with a KeyError
    with _loading(directory, name):
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    if tokenizer.eos_token is None:
        raise StudentError(f"the student {name!r} has no end-of-turn token (eos_token)")
    chosen = choose_template(template, own, tokens_of(tokenizer), name)
    tokenizer.chat_template = chosen.source
    if chosen.end_of_turn is not None:
        tokenizer.eos_token = chosen.end_of_turn
    try:
        replace(template_of(tokenizer), name=chosen.record.name).check()
    except StudentError as error:
        raise StudentError(f"the student {name!r} cannot be used: {error.problem}", error.hint) from error
    return tokenizer


def _own(directory: Path, template: TemplateSetting) -> NamedTemplate | None:
    """The template of a directory, byte for byte; None if it cannot be used but is replaced anyway."""
    return stored_template(directory, stored_entry(directory), replaced=template.template is not None)


def template_record(path: str | Path, template: TemplateSetting = OWN) -> TemplateRecord:
    """The template that `load_tokenizer` gives the student, and where it comes from.

    Raises: StudentError as `load_tokenizer`.
    """
    name, directory = str(path), _directory(path)
    with _loading(directory, name):
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    record = choose_template(template, _own(directory, template), tokens_of(tokenizer), name).record
    saved = TemplateRecord.of(directory)
    return saved if saved is not None and saved.sha256 == record.sha256 else record


def load_model(path: str | Path, tokenizer: Any, **options: Any) -> Any:
    """Load the weights of a student into a transformers model, with `options` of `from_pretrained`.

    Raises: StudentError when they cannot be loaded, when some are missing or of another shape (transformers would
    initialize those at random), when there are more layers or biases than the configuration names, or when the
    tokenizer has tokens without an embedding. Added tokens may lack one, as Gemma 3's image token does.
    """
    name, directory = str(path), _directory(path, FILES_AND_WEIGHTS)
    _check_directory(directory)
    with _loading(directory, name):
        model = _load_model(directory, name, tokenizer, options)
    model.name_or_path = model.config.name_or_path = name  # also if it is a hub id: adapters state it
    return model


def _load_model(directory: Path, name: str, tokenizer: Any, options: Mapping[str, Any]) -> Any:
    model, info = AutoModelForCausalLM.from_pretrained(
        directory,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    for weight in sorted(info["missing_keys"]):
        raise StudentError(f"the weights of the student {name!r} lack {weight}", _OTHER_WEIGHTS)
    for weight, stored, expected in sorted(info["mismatched_keys"]):
        shapes = f"{list(stored)}, but its configuration needs {list(expected)}"
        raise StudentError(f"{weight} of the student {name!r} has the shape {shapes}", _OTHER_WEIGHTS)
    if surplus := _left_out(info["unexpected_keys"], model):
        raise StudentError(
            f"the weights of the student {name!r} contain {surplus}, which its configuration leaves out", _OTHER_WEIGHTS
        )
    rows = model.get_input_embeddings().weight.shape[0]
    used = {*tokenizer.get_vocab().values()} - tokenizer.added_tokens_decoder.keys()
    largest = max(used | end_ids_of(model, tokenizer), default=0)
    if largest >= rows:
        raise StudentError(
            f"the student {name!r} has embeddings of {rows} tokens, but its tokenizer or generation_config.json uses a"
            f" token {largest}",
            "put the model's own tokenizer and generation_config.json next to its weights",
        )
    return model


def _left_out(unexpected: Iterable[str], model: Any) -> str | None:
    """A layer that follows the model's last one, or the bias of one that has none. transformers only warns of them."""
    names = model.state_dict().keys()
    layers = {(found[1], int(found[2])) for name in names if (found := _LAYER.match(name))}
    stacks = {stack for stack, _ in layers}
    for name in sorted(unexpected):
        if (found := _LAYER.match(name)) and found[1] in stacks and (found[1], int(found[2])) not in layers:
            return f"{found[1]}.{found[2]}"
        if name.endswith(".bias") and f"{name.removesuffix('bias')}weight" in names:
            return name
    return None


def _check_directory(path: Path) -> None:
    """Check what transformers would report without naming it. Raises: StudentError."""
    config = read_json_object(path / "config.json")
    check_config(config, path / "config.json")  # before its sizes are multiplied
    stated_end_ids(path)
    stored = sum(file.stat().st_size for file in weight_files(path))
    if (numbers := _numbers(config)) > _LARGER * max(stored, 1 << 24):  # transformers would allocate them all
        raise StudentError(
            f"{path / 'config.json'} describes at least {numbers:,} weights, but {stored:,} bytes are stored",
            _OTHER_WEIGHTS,
        )


def _numbers(config: Mapping[str, Any]) -> int:
    """The weights that a configuration describes, without those that only some families have."""
    nested = config.get("text_config")
    part = nested if isinstance(nested, dict) else config

    def size(name: str) -> int:
        value = part.get(name)
        return value if isinstance(value, int) else 1

    attention = size("num_attention_heads") * size("head_dim")
    return size("hidden_size") * (
        size("vocab_size") + size("num_hidden_layers") * (size("intermediate_size") + attention)
    )


def load_student(
    path: str | Path, *, four_bit: bool = False, as_stored: bool = False, template: TemplateSetting = OWN
) -> tuple[Any, Any]:
    """Load a student as (model, tokenizer).

    Args:
        path: a local Hugging Face directory or, if a hub is reachable, a hub id.
        four_bit: keep the weights as NF4 with double quantization (QLoRA). By default they are float32 on a CPU and
            bfloat16 on a GPU.
        as_stored: keep the weights in the dtype that the configuration names.
        template: as in `load_tokenizer`.

    Raises:
        StudentError: as `load_tokenizer` and `load_model`.
    """
    name = str(path)
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    options: dict[str, Any] = {"dtype": "auto" if as_stored else dtype}
    if four_bit:  # only then: passing None makes transformers forget how a quantized student is stored
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    tokenizer = load_tokenizer(name, template)
    return load_model(name, tokenizer, **options), tokenizer


def end_ids_of(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a turn of a loaded model: the tokenizer's end token, those of its generation config, and the
    one with which its chat template closes a turn."""
    return end_ids(
        tokenizer.eos_token_id, getattr(model.generation_config, "eos_token_id", None), closing_ids(tokenizer)
    )


def closing_ids(tokenizer: Any) -> list[int]:
    """The token with which the chat template closes the assistant's turn, as a list of one id or none."""
    if not isinstance(tokenizer.chat_template, str):
        return []
    tokens = tokens_of(tokenizer)
    closing = tokens.ends_turns(tokenizer.chat_template)
    return tokens.encode(closing) if closing else []


def tokens_of(tokenizer: Any) -> Tokens:
    """What a chat template needs to know about a loaded tokenizer."""
    return Tokens(
        lambda text: list(tokenizer.encode(text, add_special_tokens=False)),
        lambda ids: str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)),
        tokenizer.eos_token or "",
        tokenizer.bos_token or "",
    )


def template_of(tokenizer: Any, ends: Collection[int] = ()) -> ChatTemplate:
    """The chat template of a loaded tokenizer, with its start token and the tokens that end a turn.

    `ends` are ids of further end tokens, such as those of the model's generation config.
    """
    ids = sorted({*ends, *closing_ids(tokenizer)} - {tokenizer.eos_token_id})
    texts = tuple(tokenizer.decode([token]) for token in ids if token < len(tokenizer))
    return ChatTemplate(tokenizer.chat_template, tokenizer.eos_token or "", tokenizer.bos_token or "", texts)


def template_of_student(path: str | Path, setting: TemplateSetting = OWN) -> ChatTemplate:
    """The chat template of a student, with all its end tokens, without loading its weights.

    Raises: StudentError as `load_tokenizer`.
    """
    return template_of(load_tokenizer(path, setting), stated_end_ids(_directory(path)))
