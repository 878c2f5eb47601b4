"""The parser of assistant turns: one for every model and every runtime.

It does not ask which model wrote the text. It knows three shapes of a call: `<tool_call>` blocks (Hermes, Qwen), JSON
that is the whole turn (Llama 3), and a Python-style list that is the whole turn (Llama 3.2 and 4). Nothing is run: JSON
is decoded, and Python is parsed to a syntax tree of which only names and literals are read.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from dataclasses import dataclass
from typing import Any

from mentor_edge.messages import Message, ToolCall

TOOL_CALL_OPEN = "<tool_call>"
TOOL_CALL_CLOSE = "</tool_call>"
THINK_CLOSE = "</think>"
PYTHON_TAG = "<|python_tag|>"
"""What Llama 3.1 may write in front of a call. It is never part of an answer."""

MAX_PYTHON_CHARACTERS = 65_536
"""Longer turns are not tried as Python: its parser needs about a second and hundreds of megabytes per megabyte."""
MAX_NESTING = 64
"""Levels of lists and objects in arguments. More would break what walks them by recursion, the JSON encoder first."""

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"\s*")
_SEPARATOR = re.compile(r"[\s;]*")
_OPENS_CALL = re.compile(
    r'\[?\s*\{\s*"name"\s*:(?=.*"(?:parameters|arguments)")|\[\s*[A-Za-z_][\w.]*\((?!.*\]\()', re.DOTALL
)
"""How a turn of shape 2 or 3 begins. One that goes on as something else is a call gone wrong, not an answer (unless it
is a link in Markdown: `[f(x)](address)`)."""
_UNREADABLE = (ValueError, TypeError, RecursionError)
"""What decoding a call raises when the text is none."""


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """One assistant turn: its message, and whether it holds a tool call that cannot be read."""

    message: Message
    malformed: bool


def parse_turn(text: str) -> ParsedTurn:
    """Parse the text of one assistant turn (without its end-of-turn token).

    Calls have one of three shapes:

    1. `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` blocks, with text before, between and after them.
       `parameters` may stand for `arguments`, and the object may be written as a JSON string, as OpenAI's API does.
    2. One or more objects with a `name` and `parameters` or `arguments`, separated by `;` or white space, or a list of
       them, where they are the whole turn. `<|python_tag|>` may stand in front.
    3. `[f(a=1), g.h(b="x")]`, likewise.

    The turn is malformed, and has no calls, when any block is unclosed or unreadable (as in TRL), when a turn begins as
    shape 2 or 3 do and cannot be read, or its arguments cannot be used (positional, no object, no JSON), and when no
    readable call follows `<|python_tag|>`. Any other text is an answer.

    Thinking is what precedes `</think>`. Blocks in it count only when nothing follows it, or it is never closed: then
    the model stopped to get a result (llama.cpp issues 20260 and 24202). Content keeps the text as it is, thinking
    included; with calls, it is what remains of it, stripped.

    Never raises; linear in the length of the text.
    """
    try:
        calls, remaining = _read(text)
    except _UNREADABLE:
        return ParsedTurn(Message("assistant", text), malformed=True)
    return ParsedTurn(Message("assistant", remaining.strip() if calls else text, tuple(calls)), malformed=False)


def _read(text: str) -> tuple[list[ToolCall], str]:
    """The calls of a turn and the text around them. Raises one of `_UNREADABLE` when the turn is malformed."""
    # Before thinking is looked for: an argument may hold any tag.
    if (calls := _whole_turn(text)) is not None:
        return calls, ""
    thinking, visible = _split_thinking(text)
    if not visible.strip():
        return _blocks(thinking)
    if thinking and (calls := _whole_turn(visible)) is not None:
        return calls, thinking
    calls, remaining = _blocks(visible)
    return calls, thinking + remaining


def _split_thinking(text: str) -> tuple[str, str]:
    """The thinking that opens a turn, with its tags, and what follows it. The closing tag alone decides.

    Templates that end a prompt with `<think>` leave only that one to the model. Thinking that is never closed needs no
    care: like any text it holds blocks or none.
    """
    end = text.find(THINK_CLOSE)
    position = 0
    while end >= 0 and (start := text.find(TOOL_CALL_OPEN, position, end)) >= 0:
        try:
            _, position = _block(text, start)
        except _UNREADABLE:
            break
        if position > end:  # that tag was in an argument
            end = text.find(THINK_CLOSE, position)
    end = end + len(THINK_CLOSE) if end >= 0 else 0
    return text[:end], text[end:]


def _blocks(text: str) -> tuple[list[ToolCall], str]:
    """The calls in `<tool_call>` blocks, and the text around them."""
    calls: list[ToolCall] = []
    around: list[str] = []
    position = 0
    # The first block that cannot be read ends this: decoding again from every later tag would be quadratic.
    while (start := text.find(TOOL_CALL_OPEN, position)) >= 0:
        around.append(text[position:start])
        call, position = _block(text, start)
        calls.append(call)
    around.append(text[position:])
    remaining = "".join(around)
    if TOOL_CALL_CLOSE in remaining:
        raise ValueError("a closing tag without its opening tag")
    return calls, remaining


def _block(text: str, start: int) -> tuple[ToolCall, int]:
    """The call in the block that opens at `start`, and where the block ends."""
    # The JSON says where it ends: looking for the closing tag would find one inside an argument.
    value, end = _DECODER.raw_decode(text, _after(_SPACE, text, start + len(TOOL_CALL_OPEN)))
    end = _after(_SPACE, text, end)
    if not text.startswith(TOOL_CALL_CLOSE, end):
        raise ValueError("a block goes on after its JSON")
    return _call(value), end + len(TOOL_CALL_CLOSE)


def _after(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def _whole_turn(text: str) -> list[ToolCall] | None:
    """The calls of a turn that is nothing but calls, without `<tool_call>` tags; None for any other text."""
    turn = text.strip()
    body = turn.removeprefix(PYTHON_TAG).lstrip()
    calls = _json_calls(body)
    if calls is None:
        calls = _python_calls(body)
    if calls is None and (turn.startswith(PYTHON_TAG) or _OPENS_CALL.match(body)):
        raise ValueError("a call was begun, or announced by its tag, and cannot be read")
    return calls


def _json_calls(text: str) -> list[ToolCall] | None:
    values: list[Any] = []
    position = 0
    try:
        while position < len(text):
            value, position = _DECODER.raw_decode(text, position)
            found = value if isinstance(value, list) else [value]
            if not found or not all(map(_has_form_of_call, found)):
                return None
            values += found
            position = _after(_SEPARATOR, text, position)
    except _UNREADABLE:
        return None
    return [_call(value) for value in values] if values else None


def _has_form_of_call(value: Any) -> bool:
    """Stricter than inside tags: {"name": "Rome"} alone may be an answer in JSON."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("name"), str)
        and bool({"arguments", "parameters"} & value.keys())
    )


def _call(value: Any) -> ToolCall:
    """The call that a decoded JSON value stands for. Raises one of `_UNREADABLE` when it is none."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError("not an object with a name")
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    return _checked(value["name"], arguments)


def _checked(name: str, arguments: Any) -> ToolCall:
    if not isinstance(arguments, dict) or not _nests_within(MAX_NESTING, arguments):
        raise ValueError("the arguments are no object, or nest too deeply")
    # NaN, 1e999 or a lone surrogate can be decoded, but no tokenizer and no JSON file takes them.
    json.dumps({name: arguments}, ensure_ascii=False, allow_nan=False).encode()
    return ToolCall(name, arguments)


def _nests_within(levels: int, value: dict[str, Any] | list[Any]) -> bool:
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_nests_within(levels - 1, item) for item in inner if isinstance(item, dict | list))


def _python_calls(text: str) -> list[ToolCall] | None:
    if not (text.startswith("[") and text.endswith("]") and len(text) <= MAX_PYTHON_CHARACTERS):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a string like "\d" is the model's business, not the user's
            listed = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):  # MemoryError: nested too deeply for the parser
        return None
    items = listed.elts if isinstance(listed, ast.List) else []
    calls = [(name, item) for item in items if isinstance(item, ast.Call) and (name := _dotted_name(item.func))]
    if not calls or len(calls) < len(items):
        return None
    return [_python_call(name, call) for name, call in calls]


def _dotted_name(function: ast.expr) -> str | None:
    parts: list[str] = []
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    return ".".join([function.id, *reversed(parts)]) if isinstance(function, ast.Name) else None


def _python_call(name: str, call: ast.Call) -> ToolCall:
    if call.args:
        raise ValueError("positional arguments have no names without the tool's schema")
    arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    # Tuples, sets, bytes, keys that are no strings (and the None of **x) do not come back from JSON as they were.
    if json.loads(json.dumps(arguments)) != arguments:
        raise ValueError("a literal that JSON does not have")
    return _checked(name, arguments)
