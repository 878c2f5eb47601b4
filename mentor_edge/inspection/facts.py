"""The facts that the files of a student state, whatever their kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mentor_edge.chat import ChatTemplate
from mentor_edge.chat.setting import TemplateSetting, Tokens, choose_template
from mentor_edge.model_directory import NamedTemplate


@dataclass(frozen=True)
class StudentFacts:
    """What was read from a directory or a file; most fields are as in `StudentReport`."""

    path: Path
    """The file or directory."""
    architecture: str | None
    """The model's class in transformers, or the runtime's name of the architecture."""
    config: Mapping[str, Any]
    """config.json; empty for exported files."""
    context_length: int | None
    """The longest conversation in tokens."""
    bytes: int
    """Size of the weights on disk."""
    dtypes: Mapping[str, int]
    """The number of weights of each type; empty if the files do not state it."""
    vocabulary: int | None
    """The number of tokens."""
    tied: bool | None
    """What the configuration says about head and embedding."""
    own_head: bool | None
    """Whether the weights hold an output head."""
    end_tokens: Mapping[int, str]
    """The tokens that end a turn, with their texts."""
    templates: tuple[str, ...]
    """The names of the chat templates that it comes with."""
    template_name: str | None
    """The name of the one that is used."""
    template: ChatTemplate | None
    """The one that is used."""
    has_token: Callable[[str], bool]
    """Whether a text is one token."""
    problems: Sequence[str] = field(default_factory=tuple)
    """Why the weights cannot be loaded, one reason per entry."""
    notes: Sequence[str] = field(default_factory=tuple)
    """What you should know."""


@dataclass(frozen=True, slots=True)
class ResolvedTemplate:
    """The template that a student uses, and the tokens that end its turns."""

    name: str | None
    template: ChatTemplate | None
    end_tokens: Mapping[int, str]


def resolve_template(
    setting: TemplateSetting, own: NamedTemplate | None, tokens: Tokens, stated: Iterable[int], student: str
) -> ResolvedTemplate:
    """The template that `setting` means for a student, as training and the engines choose it.

    Args:
        setting: What the user asks for.
        own: The student's own template, if it has one.
        tokens: Its tokenizer.
        stated: The end tokens that its files state besides the tokenizer's.
        student: Its name, for messages.

    Raises:
        StudentError: The template does not suit the student, or is not valid Jinja.
    """
    eos, source, name = tokens.eos, None, None
    if own is not None or setting:
        chosen = choose_template(setting, own, tokens, student)
        eos, source, name = chosen.end_of_turn or tokens.eos, chosen.source, chosen.record.name
    closing = "" if source is None else tokens.ends_turns(source)
    ends = {number: text for text in (eos, closing) if text for number in tokens.encode(text)[:1]}
    ends |= {number: tokens.decode([number]) for number in sorted(stated) if number not in ends}
    if source is None or name is None:
        return ResolvedTemplate(name, None, ends)
    return ResolvedTemplate(name, ChatTemplate(source, eos, tokens.bos, tuple(ends.values()), name), ends)
