"""Calls with one tag per argument, whose values are plain text: Qwen3-Coder, Llama's `<function=f>`, DeepSeek, GLM."""

from __future__ import annotations

import json
import re
from typing import Any

from mentor_edge.tool_calls.offered import OfferedTools
from mentor_edge.tool_calls.reading import Calls, UnreadableCallError, after_space, checked_call

_DSML = "｜DSML｜"
"""What DeepSeek-V3.2 puts before the name of each tag."""
OPENING = re.compile(
    rf"<((?:{_DSML})?(?:function|invoke))(?:=|\s{{1,8}}name\s{{0,8}}=\s{{0,8}})([\"']?)([^<>\"'\n]{{1,256}})\2\s{{0,8}}>"
)
"""`<function=f>`, `<function name="f">`, `<invoke name="f">`."""

_PARAMETER = re.compile(
    rf"<((?:{_DSML})?(?:parameter|param))(?:=|\s{{1,8}}name\s{{0,8}}=\s{{0,8}})([\"']?)([^<>\"'\n]{{1,256}})\2"
    r"(?:\s{1,8}string=\"(?P<string>true|false)\")?(?:\s[^<>]{0,256})?>"
)
_GLM_NAME = re.compile(r"([^\s<>{}()\[\]\"']{1,256})(?=\s{0,64}<arg_key>|\s{0,64}\n\s{0,64}</tool_call>)\s{0,64}")
_DECODER = json.JSONDecoder()


def read_function(text: str, opening: re.Match[str], offered: OfferedTools) -> Calls:
    """The call whose opening tag matched. Its body is JSON, or one tag per parameter, or empty.

    Raises: one of `UNREADABLE`.
    """
    tag, _, name = opening.groups()
    closing = f"</{tag}>"
    position = after_space(text, opening.end())
    name = offered.own_name(name.strip())
    arguments: Any = {}
    body = ""
    if text.startswith("{", position):
        arguments, position = _DECODER.raw_decode(text, position)
        position = after_space(text, position)
        body = "{...}"
    else:
        while parameter := _PARAMETER.match(text, position):
            key = parameter[3].strip()
            value, position = _value(text, parameter.end(), f"</{parameter[1]}>", closing)
            if key in arguments:
                raise UnreadableCallError("a parameter is given twice")
            match parameter["string"]:
                case "true":
                    arguments[key] = value
                case "false":
                    arguments[key] = json.loads(value)
                case _:
                    arguments[key] = offered.typed(name, key, value)
            body = f"<{parameter[1]}{parameter[0][len(parameter[1]) + 1]}...>"
    if not text.startswith(closing, position):
        raise UnreadableCallError("a function is not closed")
    separator = opening[0][len(tag) + 1]
    call = checked_call(name, arguments)
    return Calls((call,), opening.start(), position + len(closing), f"<{tag}{separator}...>{body}{closing}")


def _value(text: str, start: int, closing: str, end_of_call: str) -> tuple[str, int]:
    """The text of an argument, and where the next tag begins.

    A closing tag counts only before the next parameter or the end of the call: the value may contain one.
    """
    position = start
    while (end := text.find(closing, position)) >= 0:
        position = after_space(text, end + len(closing))
        if text.startswith(("<param", f"<{_DSML}param", end_of_call), position):
            return text[start:end].removeprefix("\n").removesuffix("\n"), position
    raise UnreadableCallError("a parameter is not closed")


def read_glm(text: str, start: int, offered: OfferedTools) -> Calls | None:
    """GLM's call inside `<tool_call>`: the name, then pairs of `<arg_key>` and `<arg_value>`; None for other text.

    Raises: one of `UNREADABLE`.
    """
    opening = _GLM_NAME.match(text, start)
    if not opening:
        return None
    name = offered.own_name(opening[1])
    if not (text.startswith("<arg_key>", opening.end()) or offered.offers(name)):
        return None  # a word, not a call without arguments
    arguments: dict[str, Any] = {}
    position = opening.end()
    while text.startswith("<arg_key>", position):
        key, position = _between(text, position, "<arg_key>", "</arg_key>")
        value, position = _between(text, position, "<arg_value>", "</arg_value>")
        arguments[key] = offered.typed(name, key, value)
    return Calls((checked_call(name, arguments),), start, position, "name<arg_key>...<arg_value>...")


def _between(text: str, start: int, opening: str, closing: str) -> tuple[str, int]:
    end = text.find(closing, start)
    if not text.startswith(opening, start) or end < 0:
        raise UnreadableCallError(f"{opening} is missing or not closed")
    return text[start + len(opening) : end], after_space(text, end + len(closing))
