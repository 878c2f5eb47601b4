"""The parser of assistant turns: one parser for every model and every runtime.

It does not need to know which model wrote the text. It reads three shapes of a call: `<tool_call>` blocks (Hermes,
Qwen), JSON that is the whole turn (Llama 3), and a Python-style list that is the whole turn (Llama 3.2 and 4). It runs
nothing: JSON is decoded, and Python is parsed to a syntax tree, of which only names and literals are read.
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
"""Llama 3.1 may write this before a call. It is never part of an answer."""

MAX_PYTHON_CHARACTERS = 65_536
"""Longer turns are not parsed as Python: its parser needs about a second and hundreds of megabytes per megabyte."""
MAX_NESTING = 64
"""Levels of lists and objects in arguments. More would break recursive code, the JSON encoder first."""

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"\s*")
_SEPARATOR = re.compile(r"[\s;]*")
_OPENS_CALL = re.compile(
    r'\[?\s*\{\s*"name"\s*:(?=.*"(?:parameters|arguments)")|\[\s*[A-Za-z_][\w.]*\((?!.*\]\()', re.DOTALL
)
"""How a turn of shape 2 or 3 begins. If the rest cannot be read, the turn is a failed call, not an answer (unless it is
a link in Markdown: `[f(x)](address)`)."""
_UNREADABLE = (ValueError, TypeError, RecursionError)
"""What decoding raises when the text is not a call."""


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """One assistant turn."""

    message: Message
    malformed: bool
    """The turn contains a tool call that cannot be read; the message then has no calls."""


def parse_turn(text: str) -> ParsedTurn:
    """Parse the text of one assistant turn (without its end-of-turn token).

    Calls have one of three shapes:

    1. `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` blocks, with text before, between and after them. The
       key may be `parameters` instead of `arguments`, and the arguments may be a JSON string, as in OpenAI's API.
    2. One or more objects with a `name` and `parameters` or `arguments`, separated by `;` or white space, or a list of
       them, if they are the whole turn. `<|python_tag|>` may precede them.
    3. `[f(a=1), g.h(b="x")]`, under the same conditions.

    The turn is malformed, and has no calls, in four cases: a block is unclosed or unreadable (as in TRL); the turn
    begins like shape 2 or 3 but cannot be read; its arguments cannot be used (positional, not an object, not JSON); or
    no readable call follows `<|python_tag|>`. Any other text is an answer.

    Thinking is the text before `</think>`. Its blocks count only if nothing follows it, or if it is never closed: then
    the model stopped to get a result (llama.cpp issues 20260 and 24202). The message's content is the text unchanged,
    thinking included; with calls, it is the text around them, stripped.

    Never raises; linear in the length of the text.
    """
    try:
        calls, remaining = _read(text)
    except _UNREADABLE:
        return ParsedTurn(Message("assistant", text), malformed=True)
    return ParsedTurn(Message("assistant", remaining.strip() if calls else text, tuple(calls)), malformed=False)


def _read(text: str) -> tuple[list[ToolCall], str]:
    """The calls of a turn and the text around them. Raises one of `_UNREADABLE` when the turn is malformed."""
    # Before looking for thinking: an argument may contain any tag.
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
    """Split a turn into its thinking, tags included, and the rest. Only the closing tag decides.

    After a template that ends the prompt with `<think>`, the model writes only the closing tag. Thinking that is never
    closed needs no special case: it is text with blocks or without.
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
    # The first unreadable block raises: trying again from every later tag would be quadratic.
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
    # The JSON decoder finds the end: a search for the closing tag could find one inside an argument.
    value, end = _DECODER.raw_decode(text, _after(_SPACE, text, start + len(TOOL_CALL_OPEN)))
    end = _after(_SPACE, text, end)
    if not text.startswith(TOOL_CALL_CLOSE, end):
        raise ValueError("a block continues after its JSON")
    return _call(value), end + len(TOOL_CALL_CLOSE)


def _after(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def _whole_turn(text: str) -> list[ToolCall] | None:
    """The calls of a turn that consists of calls without `<tool_call>` tags; None for any other text."""
    turn = text.strip()
    body = turn.removeprefix(PYTHON_TAG).lstrip()
    calls = _json_calls(body)
    if calls is None:
        calls = _python_calls(body)
    if calls is None and (turn.startswith(PYTHON_TAG) or _OPENS_CALL.match(body)):
        raise ValueError("a call begins, or its tag announces one, but it cannot be read")
    return calls


def _json_calls(text: str) -> list[ToolCall] | None:
    values: list[Any] = []
    position = 0
    try:
        while position < len(text):
            value, position = _DECODER.raw_decode(text, position)
            candidates = value if isinstance(value, list) else [value]
            if not candidates or not all(map(_has_form_of_call, candidates)):
                return None
            values += candidates
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
    """The call that a decoded JSON value describes. Raises one of `_UNREADABLE` when it describes none."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError("not an object with a name")
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    return _checked(value["name"], arguments)


def _checked(name: str, arguments: Any) -> ToolCall:
    if not isinstance(arguments, dict) or not _nests_within(MAX_NESTING, arguments):
        raise ValueError("the arguments are not an object, or nest too deeply")
    # NaN, 1e999 and lone surrogates can be decoded, but no tokenizer or JSON file accepts them.
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
            warnings.simplefilter("ignore")  # about a string like "\d", which the model wrote, not the user
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
    # Tuples, sets, bytes and keys that are not strings (and the None of **x) do not survive JSON.
    if json.loads(json.dumps(arguments)) != arguments:
        raise ValueError("a literal that JSON cannot express")
    return _checked(name, arguments)
