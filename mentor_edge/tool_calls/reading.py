"""What the readers of all spellings share: the result, the error, and the check of arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mentor_edge.messages import ToolCall

MAX_NESTING = 64
"""Levels of lists and objects in arguments. More would break recursive code, the JSON encoder first."""
UNREADABLE = (ValueError, TypeError, RecursionError)
"""What reading raises when the text is not a call."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_SPACE = re.compile(r"\s*")
_SEPARATORS = re.compile(r"[\s;,]*")


class UnreadableCallError(ValueError):
    """The text begins like a call, but cannot be read as one."""


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls that were read from a part of a turn."""

    calls: tuple[ToolCall, ...]
    start: int
    """Where the part begins."""
    end: int
    """Where the part ends."""
    spelling: str
    """How they are written, such as `<tool_call>{"name": ..., "arguments": {...}}`."""


def after_space(text: str, position: int) -> int:
    """The position of the next character that is not white space."""
    match = _SPACE.match(text, position)
    return match.end() if match else position


def after_separators(text: str, position: int) -> int:
    """The position after white space, semicolons and commas."""
    match = _SEPARATORS.match(text, position)
    return match.end() if match else position


def checked_call(name: Any, arguments: Any) -> ToolCall:
    """A call whose arguments can be encoded, validated and written as JSON.

    No arguments may be written as nothing, null or empty text; an object may be written as JSON text, even twice.

    Raises: one of `UNREADABLE`.
    """
    if not isinstance(name, str):
        raise UnreadableCallError("the name is not text")
    for _ in range(2):
        if isinstance(arguments, str) and arguments.strip():
            arguments = json.loads(arguments)
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        arguments = {}
    if not isinstance(arguments, Mapping) or not _nests_within(MAX_NESTING, arguments):
        raise UnreadableCallError("the arguments are not an object, or nest too deeply")
    # NaN, 1e999 and lone surrogates can be decoded, but no tokenizer or JSON file accepts them.
    _ENCODER.encode({name: arguments}).encode()
    return ToolCall(name, arguments)


def _nests_within(levels: int, value: Mapping[str, Any] | list[Any]) -> bool:
    inner = value.values() if isinstance(value, Mapping) else value
    return levels > 0 and all(_nests_within(levels - 1, item) for item in inner if isinstance(item, dict | list))
