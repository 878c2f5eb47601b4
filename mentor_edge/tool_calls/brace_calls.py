"""Calls written as `call:f{a:1}`: FunctionGemma and Gemma 4. Keys have no quotes; text is between two marks."""

from __future__ import annotations

import json
import re
from typing import Any

from mentor_edge.tool_calls.offered import OfferedTools
from mentor_edge.tool_calls.reading import MAX_NESTING, Calls, UnreadableCallError, after_space, checked_call

OPENING = re.compile(r"call:\s{0,8}([^\s{}<>:]{1,256})\s{0,8}(?=\{)")

_MARKS = ("<escape>", '<|"|>')
"""What FunctionGemma and Gemma 4 write for a quotation mark."""
_KEY = re.compile(r"\s*([^\s{}\[\]:,<>\"']{1,256})\s*:")
_PLAIN = re.compile(r"[^,{}\[\]<>\"]*")
_DECODER = json.JSONDecoder()


def read_brace_call(text: str, opening: re.Match[str], offered: OfferedTools) -> Calls:
    """The call whose beginning matched `OPENING`. Raises: one of `UNREADABLE`."""
    arguments, end = _object(text, opening.end(), MAX_NESTING)
    call = checked_call(offered.own_name(opening[1]), arguments)
    return Calls((call,), opening.start(), end, "call:name{key:...}")


def _object(text: str, start: int, levels: int) -> tuple[dict[str, Any], int]:
    members: dict[str, Any] = {}
    position = after_space(text, start + 1)
    while not text.startswith("}", position):
        if members:
            position = _expect(text, position, ",")
        if not (key := _KEY.match(text, position)):
            raise UnreadableCallError("a key is missing")
        members[key[1]], position = _value(text, after_space(text, key.end()), levels)
        position = after_space(text, position)
    return members, position + 1


def _list(text: str, start: int, levels: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    position = after_space(text, start + 1)
    while not text.startswith("]", position):
        if items:
            position = after_space(text, _expect(text, position, ","))
        item, position = _value(text, position, levels)
        items.append(item)
        position = after_space(text, position)
    return items, position + 1


def _value(text: str, start: int, levels: int) -> tuple[Any, int]:
    if levels <= 0:
        raise UnreadableCallError("the arguments nest too deeply")
    for mark in _MARKS:
        if text.startswith(mark, start):
            end = text.find(mark, start + len(mark))
            if end < 0:
                raise UnreadableCallError("text is not closed")
            return text[start + len(mark) : end], end + len(mark)
    match text[start : start + 1]:
        case "{":
            return _object(text, start, levels - 1)
        case "[":
            return _list(text, start, levels - 1)
        case '"':
            return _DECODER.raw_decode(text, start)
    plain = _PLAIN.match(text, start)
    if not plain or not plain[0].strip():
        raise UnreadableCallError("a value is missing")
    try:
        return json.loads(plain[0]), plain.end()
    except ValueError:
        return plain[0].strip(), plain.end()


def _expect(text: str, position: int, mark: str) -> int:
    if not text.startswith(mark, position):
        raise UnreadableCallError(f"expected {mark}")
    return position + len(mark)
