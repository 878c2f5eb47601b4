"""The facts that the files of a student state, whatever their kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mentor_edge.chat import ChatTemplate


@dataclass(frozen=True)
class StudentFacts:
    """What was read from a directory or a file; the fields as in `StudentReport`."""

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
    """The names of the chat templates."""
    template_name: str | None
    """The name of the one that is used."""
    template: ChatTemplate | None
    """The one that is used."""
    encode: Callable[[Sequence[str]], Sequence[Sequence[int]]]
    """The tokenizer."""
    problems: Sequence[str] = field(default_factory=tuple)
    """Why the weights cannot be loaded, one reason per entry."""
    notes: Sequence[str] = field(default_factory=tuple)
    """What you should know."""
