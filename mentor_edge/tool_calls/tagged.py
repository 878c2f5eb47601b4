"""Calls inside tags that announce them. Any tag may contain any spelling of a call: models mix them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from mentor_edge.messages import ToolCall
from mentor_edge.tool_calls import brace_calls, xml_calls
from mentor_edge.tool_calls.json_calls import JsonReader
from mentor_edge.tool_calls.offered import OfferedTools
from mentor_edge.tool_calls.python_calls import STARTS_CALL, STARTS_LIST, read_python
from mentor_edge.tool_calls.reading import Calls, UnreadableCallError, after_separators, after_space, checked_call

TOOL_CALL_OPEN = "<tool_call>"
TOOL_CALL_CLOSE = "</tool_call>"
PYTHON_TAG = "<|python_tag|>"
"""Llama 3.1 may write this before a call. It is never part of an answer."""

_MAX_TAGS_IN_TAGS = 3


class _Tag(NamedTuple):
    closing: tuple[str, ...]
    must_close: bool


def _element(name: str, must_close: bool = True) -> tuple[str, _Tag]:
    return f"<{name}>", _Tag((f"</{name}>",), must_close)


_TAGS: Mapping[str, _Tag] = {
    **dict(
        map(
            _element,
            (
                "tool_call", "tool_calls", "toolcall", "function_call", "function_calls", "tools", "tool_use",
                "seed:tool_call", "minimax:tool_call", "longcat_tool_call", "tool_code", "｜dsml｜function_calls",
            ),
        )
    ),
    "<functioncall>": _Tag(("</functioncall>",), must_close=False),
    "[tool_calls]": _Tag(("[/tool_calls]",), must_close=False),
    PYTHON_TAG: _Tag((), must_close=False),
    "<|tool_call|>": _Tag(("<|/tool_call|>", "</|tool_call|>", "<|end_tool_call|>", "<tool_call|>"), must_close=False),
    "<|tool_call>": _Tag(("<tool_call|>",), must_close=False),
    "<|tool_call_start|>": _Tag(("<|tool_call_end|>",), must_close=False),
    "<|tool_calls_section_begin|>": _Tag(("<|tool_calls_section_end|>",), must_close=False),
    "<|tool_call_begin|>": _Tag(("<|tool_call_end|>",), must_close=False),
    "<｜tool▁calls▁begin｜>": _Tag(("<｜tool▁calls▁end｜>",), must_close=False),
    "<｜tool▁call▁begin｜>": _Tag(("<｜tool▁call▁end｜>",), must_close=False),
    "<start_function_call>": _Tag(("<end_function_call>",), must_close=False),
    "<|start_action|>": _Tag(("<|end_action|>",), must_close=False),
    "<|action_start|><|plugin|>": _Tag(("<|action_end|>",), must_close=False),
    "<|tools_prefix|>": _Tag(("<|tools_suffix|>",), must_close=False),
    "functools": _Tag((), must_close=False),
}  # a table  # fmt: skip
"""By opening tag in lower case. A tag that must close is an XML element; the others may end with the turn."""

_CLOSING = sorted({closing for tag in _TAGS.values() for closing in tag.closing})
_NEEDS_JSON = {"<tools>": r"(?=\s{0,64}[\[{])", "functools": r"(?=\s{0,8}\[\s{0,8}\{)"}
"""These are common words elsewhere: they announce a call only before JSON."""

OPENING = "|".join(
    rf"{'(?<![a-z0-9_])' if tag == 'functools' else ''}{re.escape(tag)}{_NEEDS_JSON.get(tag, '')}" for tag in _TAGS
)
"""A pattern without groups, in lower case."""
LEFT_OVER = re.compile(
    "|".join(
        re.escape(mark)
        for mark in [*_CLOSING, *_TAGS]
        if mark not in _NEEDS_JSON and mark != "</tools>"  # XML of other subjects has this element, too
    )
    + r"|<[|｜/]{0,2}[a-z_▁:-]{0,32}(?:tool|function|api)[_▁ -]?(?:call|use|invo)[a-z_▁ -]{0,32}[|｜/]?>"
    + r"|<function=|<invoke\s+name=|\[args\](?=\s{0,8}\{)|\bto=functions\.|✿FUNCTION✿|</?[|｜]dsml[|｜]",
    re.IGNORECASE,
)
"""Tags that announce a call, read or not: what is left of one after reading is a call that was not read."""

_OPENING = re.compile(OPENING, re.IGNORECASE)
_FENCE = re.compile(r"\s{0,64}```[a-z_]{0,32}\s{0,64}", re.IGNORECASE)
_NAME_FIRST = re.compile(
    r"(?:function\s{0,8}<｜tool▁sep｜>)?([\w.:/-]{1,256})"
    r"(?:\[CALL_ID\][\w-]{1,64})?(\[ARGS\]|<｜tool▁sep｜>|<\|tool_call_argument_begin\|>|\s)?\s{0,8}(?:```json)?\s{0,8}(?=\{)"
)


def read_tagged(text: str, opening: re.Match[str], reader: JsonReader, offered: OfferedTools, depth: int = 1) -> Calls:
    """The calls in the tag that matched `OPENING`. Raises: one of `UNREADABLE`."""
    tag = _TAGS[opening[0].lower()]
    calls: list[ToolCall] = []
    spellings: list[str] = []
    position = end = opening.end()
    while True:
        position = after_separators(text, position)
        if closing := next((mark for mark in tag.closing if _starts(text, mark, position)), None):
            end = position + len(closing)
            break
        if calls and not tag.must_close and not _continues(text, position, opening[0], tag):
            break
        part = _content(text, position, reader, offered, depth)
        calls += part.calls
        spellings.append(part.spelling)
        position = end = part.end
    if not calls:
        raise UnreadableCallError("no call between the tags")
    content = " ".join(dict.fromkeys(spellings)) + (" ..." if len(spellings) > 1 else "")
    # The spelling leaves out a closing tag that may be missing: for some models it is the end-of-turn token.
    return Calls(tuple(calls), opening.start(), end, f"{opening[0]}{content}{closing if tag.must_close else ''}")


def _starts(text: str, mark: str, position: int) -> bool:
    return text[position : position + len(mark)].lower() == mark


def _continues(text: str, position: int, opening: str, tag: _Tag) -> bool:
    """Whether another call follows in the same tag, one that may end with the turn."""
    if text.startswith(("{", "[{"), position):
        return True
    inner = _OPENING.match(text, position) if tag.closing else None
    return inner is not None and inner[0] != opening


def _content(text: str, position: int, reader: JsonReader, offered: OfferedTools, depth: int) -> Calls:
    """One call, or what one JSON text describes. Raises: one of `UNREADABLE`."""
    if depth < _MAX_TAGS_IN_TAGS and (inner := _OPENING.match(text, position)):
        return read_tagged(text, inner, reader, offered, depth + 1)
    if fence := _FENCE.match(text, position):
        read = read_content(text, fence.end(), reader, offered)
        end = after_space(text, read.end)
        if not text.startswith("```", end):
            raise UnreadableCallError("a fence is not closed")
        return Calls(read.calls, position, end + 3, f"```{read.spelling}```")
    return read_content(text, position, reader, offered)


def read_content(text: str, position: int, reader: JsonReader, offered: OfferedTools) -> Calls:
    """The call that begins at `position`, in any spelling, or all calls of a JSON text. Raises: one of `UNREADABLE`."""
    if text.startswith("{", position):  # by far the most frequent spelling
        return _json(position, reader, offered)
    if function := xml_calls.OPENING.match(text, position):
        return xml_calls.read_function(text, function, offered)
    if brace := brace_calls.OPENING.match(text, position):
        return brace_calls.read_brace_call(text, brace, offered)
    if STARTS_LIST.match(text, position) or STARTS_CALL.match(text, position):
        return read_python(text, position, offered, reader.python)
    if named := _NAME_FIRST.match(text, position):
        return _name_first(text, named, reader, offered)
    if glm := xml_calls.read_glm(text, position, offered):
        return glm
    return _json(position, reader, offered)


def _json(position: int, reader: JsonReader, offered: OfferedTools) -> Calls:
    read, _ = reader.calls(position, offered, tagged=True)
    assert read is not None  # in tags, what is not a call raises
    return read


def _name_first(text: str, named: re.Match[str], reader: JsonReader, offered: OfferedTools) -> Calls:
    arguments, end = reader.value(named.end())
    mark = (named[2] or "").strip()
    if "```json" in named[0]:
        fence = after_space(text, end)
        if not text.startswith("```", fence):
            raise UnreadableCallError("a fence is not closed")
        end, mark = fence + 3, f"{mark}```json"
    return Calls((checked_call(offered.own_name(named[1]), arguments),), named.start(), end, f"name{mark}{{...}}")
