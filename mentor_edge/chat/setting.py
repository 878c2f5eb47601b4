"""Which template a student uses: its own, one of ours or a file, with arguments written into it.

Arguments such as `enable_thinking` become `{% set %}` blocks at the start of the template. Every runtime then renders
the same text, without passing them.
"""

from __future__ import annotations

import hashlib
import json
import keyword
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from mentor_edge.chat import renderer
from mentor_edge.chat.own_templates import own_template
from mentor_edge.chat.template import MARKER, ChatTemplate
from mentor_edge.errors import ConfigError, StudentError
from mentor_edge.messages import Message
from mentor_edge.model_directory import TEMPLATE_LIMIT, NamedTemplate
from mentor_edge.readable import has_surrogates
from mentor_edge.template_record import Scalar, TemplateRecord

if TYPE_CHECKING:
    from tokenizers import Tokenizer

GIVEN = ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token")
"""The variables that every template is rendered with."""
FUNCTIONS = frozenset({"cycler", "dict", "joiner", "lipsum", "namespace", "raise_exception", "range", "strftime_now"})
"""The functions and classes that Jinja or transformers gives every template."""
OURS = ("hermes", "neutral")
"""Our own templates, which render tools and calls."""
_ANSWERED = (Message("user", "x"), Message("assistant", "y"))
_CHATML = ("<|im_start|>", "<|im_end|>")
"""The tokens of the template "hermes"."""
_MARK = "{#- template_arguments -#}"
_ASSIGNMENT = re.compile(r"\{%- set (\w+) = (.+?) %\}(?=\{%- set \w+ = |\n)")
_CONSTANTS: Mapping[object, str] = {None: "none", True: "true", False: "false"}
_PYTHON: Mapping[str, Scalar] = {"True": True, "False": False, "None": None}
_WORDS = frozenset(
    {"and", "or", "not", "in", "is", "if", "else", "true", "false", "none", "True", "False", "None", "loop"}
)


def fitting_template(has_token: Callable[[str], bool]) -> str:
    """The name of our own template that suits a tokenizer: "hermes" if it has ChatML's tokens, else "neutral"."""
    return "hermes" if all(map(has_token, _CHATML)) else "neutral"


def template_mistakes(template: str | None) -> list[str]:
    """What is wrong with the value of a `template` setting, before any student is known."""
    if template is None or template in OURS:
        return []
    if not template.endswith(".jinja"):
        return [f"{template!r} is not a template; use {', '.join(OURS)} or the path of a .jinja file"]
    return [] if Path(template).is_file() else [f"there is no file {template}"]


def argument_mistakes(arguments: Mapping[str, Scalar]) -> list[str]:
    """What is wrong with template arguments, before any template is known."""
    mistakes = []
    for name, value in arguments.items():
        if not name.isidentifier() or keyword.iskeyword(name) or name in _WORDS:
            mistakes.append(f"{name!r} is not the name of a variable")
        elif name in GIVEN:
            mistakes.append(f"{name} is set for every conversation and cannot be an argument")
        elif name in FUNCTIONS:
            mistakes.append(f"{name} is a function of Jinja and cannot be an argument")
        if isinstance(value, str) and has_surrogates(value):
            mistakes.append(f"{name} is not Unicode text")
        if isinstance(value, float) and not math.isfinite(value):
            mistakes.append(f"{name} is {value}; use a finite number")
    return mistakes


def parse_arguments(pairs: Sequence[str]) -> dict[str, Scalar]:
    """The arguments in texts like "enable_thinking=false". Values are JSON, or True, False and None as in Python;
    anything else is text.

    Raises: ConfigError with every text that is not an argument, and every name that is given twice.
    """
    arguments: dict[str, Scalar] = {}
    mistakes = []
    for pair in pairs:
        name, equals, text = pair.partition("=")
        try:
            value = _PYTHON[text] if text in _PYTHON else json.loads(text)
        except (ValueError, RecursionError):
            value = text
        if not equals or isinstance(value, list | dict):
            mistakes.append(f"{pair!r} is not NAME=VALUE with one number, text, true, false or null")
        elif name in arguments:
            mistakes.append(f"{name} is given twice")
        else:
            arguments[name] = value
    if mistakes:
        raise ConfigError(mistakes)
    return arguments


@dataclass(frozen=True)
class TemplateSetting:
    """What a user asks for."""

    template: str | None = None
    """"hermes", "neutral", the path of a .jinja file, or None for the student's own template."""
    arguments: Mapping[str, Scalar] = field(default_factory=lambda: MappingProxyType({}))
    """Variables to set in the template."""

    def __bool__(self) -> bool:
        return self.template is not None or bool(self.arguments)

    def named(self) -> NamedTemplate | None:
        """The template that is asked for; None for the student's own. Raises: StudentError when it cannot be read."""
        if self.template is None:
            return None
        if self.template in OURS:
            return NamedTemplate(self.template, own_template(self.template))
        path = Path(self.template)
        try:
            with path.open(encoding="utf-8", newline="") as file:
                return NamedTemplate(path.name, file.read(TEMPLATE_LIMIT + 1))
        except (OSError, UnicodeDecodeError) as error:
            raise StudentError(
                f"cannot read the template {path}: {error}", f"use {', '.join(OURS)} or the path of a .jinja file"
            ) from error

    @property
    def title(self) -> str:
        """What is asked for, for headings; empty if nothing is."""
        parts = [] if self.template is None else [f"template {self.template}"]
        parts += [f"{name}={json.dumps(value)}" for name, value in self.arguments.items()]
        return f"({', '.join(parts)})" if parts else ""

    @property
    def identity(self) -> str:
        """A text that identifies the setting in results: empty if nothing is asked for."""
        if not self:
            return ""
        named = self.named()
        source = "" if named is None else hashlib.sha256(named.source.encode()).hexdigest()
        return f"template:{source} {json.dumps(dict(self.arguments), sort_keys=True)}"


def checked_setting(template: str | Path | None, arguments: Mapping[str, Scalar]) -> TemplateSetting:
    """The setting. Raises: ConfigError with everything that is wrong with it."""
    name = None if template is None else str(template)
    if mistakes := [*template_mistakes(name), *argument_mistakes(arguments)]:
        raise ConfigError(mistakes)
    return TemplateSetting(name, arguments)


OWN = TemplateSetting()
"""The student's own template."""


@dataclass(frozen=True)
class Tokens:
    """The parts of a student's tokenizer that a template depends on."""

    encode: Callable[[str], list[int]]
    """The ids of a text, without anything added."""
    decode: Callable[[list[int]], str]
    """The text of ids, special tokens included."""
    eos: str
    """The text of the end token."""
    bos: str = ""
    """The text of the start token."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, eos: Any, bos: Any) -> Self:
        """Those of a tokenizer.json, with the `eos_token` and `bos_token` of tokenizer_config.json."""
        return cls(
            lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids),
            lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False)),
            *(str(token.get("content", "") if isinstance(token, Mapping) else token or "") for token in (eos, bos)),
        )

    def has(self, text: str) -> bool:
        """Whether `text` is one token."""
        return len(self.encode(text)) == 1

    def ends_turns(self, source: str) -> str:
        """The token with which a template closes the assistant's answer; empty if it is not a special token."""
        end = ChatTemplate(source, self.eos, self.bos).turn_end
        if self.eos and end.startswith(self.eos):
            return self.eos
        first = self.decode(self.encode(end)[:1]) if end else ""
        return first if end.startswith(first) and MARKER.fullmatch(first) else ""


@dataclass(frozen=True)
class ChosenTemplate:
    """The template that a student uses and ships."""

    source: str
    """Its Jinja source, with the arguments."""
    record: TemplateRecord
    """Where it comes from."""
    end_of_turn: str | None = None
    """The token that must become the student's end token, if the template is not the student's own."""


def choose_template(
    setting: TemplateSetting, own: NamedTemplate | None, tokens: Tokens, student: str
) -> ChosenTemplate:
    """The template that `setting` means for a student whose own template is `own`.

    Raises: StudentError when the student has no template and none is asked for, when it lacks the tokens of the
    template that is asked for, when an argument is not read by it, or when a file is not valid Jinja.
    """
    named, inherited = setting.named() or own, {}
    if named is None:
        raise StudentError(
            f"the student {student!r} has no chat template", f"set template: {fitting_template(tokens.has)}"
        )
    original, kept = without_arguments(named.source)
    if setting.template is None:
        inherited = kept
    if setting.template == "hermes" and (missing := [token for token in _CHATML if not tokens.has(token)]):
        raise StudentError(
            f"the template hermes needs {' and '.join(missing)}, which the student {student!r} does not have as"
            f" {'a token' if len(missing) == 1 else 'tokens'}",
            "set template: neutral",
        )
    arguments = inherited | dict(setting.arguments)
    source = with_arguments(original, arguments, named.name) if setting.arguments else named.source
    end = None
    if setting.template is not None:
        end = tokens.ends_turns(source)
        if not end:
            # A template that fails says why.
            ChatTemplate(source, tokens.eos, tokens.bos, name=named.name).render(_ANSWERED)
            raise StudentError(
                f"the template {named.name} does not end the assistant's turn with a token of the student {student!r}",
                "end each turn in it with {{ eos_token }}",
            )
    record = TemplateRecord(
        name=named.name,
        sha256=_sha256(source),
        arguments=arguments,
        source_sha256=_sha256(original),
        student_template=None if own is None else own.name,
        student_sha256=None if own is None else _sha256(without_arguments(own.source)[0]),
    )
    return ChosenTemplate(source, record, end)


def variables(source: str, name: str = "default") -> frozenset[str]:
    """The variables that the template `name` reads, besides those that it is always rendered with.

    Raises: StudentError when the source is not valid Jinja.
    """
    try:
        return renderer.variables(source) - set(GIVEN)
    except renderer.TemplateFault as fault:
        raise fault.error(name) from fault


def with_arguments(source: str, arguments: Mapping[str, Scalar], name: str = "default") -> str:
    """The template with variables set at its start. It renders as if they were passed to it.

    Raises: StudentError when an argument cannot be one, or is not read by the template.
    """
    read = variables(source, name)
    mistakes = argument_mistakes(arguments)
    mistakes += [f"{key} is not read by the chat template {name!r}" for key in arguments if key not in read]
    if mistakes:
        listed = ", ".join(sorted(read)) or "no variable that an argument could set"
        raise StudentError("template_arguments: " + "; ".join(mistakes), f"it reads {listed}")
    if not arguments:
        return source
    # trim_blocks removes exactly the line break behind the last block, so the template itself renders as before.
    assignments = "".join(f"{{%- set {key} = {_literal(value)} %}}" for key, value in sorted(arguments.items()))
    return f"{_MARK}{assignments}\n{source}"


def without_arguments(source: str) -> tuple[str, dict[str, Scalar]]:
    """The template as it was before `with_arguments`, and the arguments. One that only looks as if it came from there
    stays as it is, without arguments."""
    if not source.startswith(_MARK):
        return source, {}
    arguments: dict[str, Scalar] = {}
    position = len(_MARK)
    while match := _ASSIGNMENT.match(source, position):
        try:
            value = json.loads("null" if match[2] == "none" else match[2])
        except (ValueError, RecursionError):
            return source, {}
        if isinstance(value, list | dict) or argument_mistakes({match[1]: value}):
            return source, {}
        arguments[match[1]] = value
        position = match.end()
    return source[position:].removeprefix("\n"), arguments


def _literal(value: Scalar) -> str:
    """A value as Jinja and JSON both read it; no character of a text can end the block."""
    if value is None or isinstance(value, bool):
        return _CONSTANTS[value]
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("%}", "\\u0025}")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
