"""What a template leaves out of an assistant's turn: its calls, their arguments, or the text of an answer."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from mentor_edge.messages import Message

_WORD = re.compile(r"[^\W_]+")
_CLOSED = re.compile(r"[>\]]")


def left_out(turn: Message, text: str) -> str:
    """The first part of a turn that is not in the text that a template writes for it; empty if nothing is missing.

    Templates escape, trim and quote in many ways, so values are compared by their words. Text beside calls, thinking
    and null arguments may be missing: many templates leave those out on purpose.
    """
    for name, count in Counter(call.name for call in turn.tool_calls).items():
        if text.count(name) < count:
            return f"the call of {name}"
    for call in turn.tool_calls:
        for key, value in call.arguments.items():
            if value is not None and not all(_is_written(part, text) for part in (key, *_parts(value))):
                return f"the argument {key} of the call of {call.name}"
    if turn.tool_calls or _is_written(turn.content, text) or _is_written(_CLOSED.split(turn.content)[-1], text):
        return ""
    return "the assistant's answer"


def _parts(value: Any) -> Iterator[str]:
    """The keys and values of an argument, as texts."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            yield from part
            waiting += part.values()
        elif isinstance(part, list | tuple):
            waiting += part
        elif isinstance(part, str):
            yield part
        elif part is not None:
            yield json.dumps(part)


def _is_written(value: str, text: str) -> bool:
    value = value.strip()
    if value in text:
        return True
    words = _WORD.findall(value)
    if not words:
        forms = (_json(value, ascii=True), _json(value), html.escape(value))
        return any(form in text for form in forms)
    return all(word in text or _json(word, ascii=True) in text or _is_constant(word, text) for word in words)


def _is_constant(word: str, text: str) -> bool:
    """Whether true or false is written as in Python."""
    return word in ("true", "false") and word.capitalize() in text


def _json(value: str, *, ascii: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ascii)[1:-1]
