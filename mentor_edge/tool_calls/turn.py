"""Reading one assistant turn: its thinking, then its calls, then a search for calls that were not read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, pairwise, zip_longest
from typing import Any

from mentor_edge.messages import Message, ToolCall
from mentor_edge.tool_calls import thinking
from mentor_edge.tool_calls.attempts import has_attempt, has_json_attempt, prose_calls
from mentor_edge.tool_calls.offered import OfferedTools
from mentor_edge.tool_calls.python_calls import STARTS_CALL
from mentor_edge.tool_calls.reading import UNREADABLE, Calls, UnreadableCallError
from mentor_edge.tool_calls.tagged import LEFT_OVER
from mentor_edge.tool_calls.visible import Scanner, whole_call, whole_list


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """One assistant turn."""

    message: Message
    malformed: bool
    """The turn contains a tool call that cannot be read; the message then has no calls."""
    spellings: tuple[str, ...] = ()
    """How the calls are written, such as `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`."""


def parse_turn(text: str, tools: Iterable[Any] = ()) -> ParsedTurn:
    """Parse the text of one assistant turn (without its end-of-turn token).

    Calls in tags, in fences and in plain text are read in every spelling that docs/tool_calls.md lists. The turn is
    malformed, and has no calls, when a call in it cannot be read: its tag is not closed, its arguments are not an
    object, it is part of a sentence. Any other text is an answer.

    Thinking is the text up to the last closing tag of thinking. Calls in it are drafts, and count only if nothing
    follows it, or if it is never closed: then the model stopped to get a result (llama.cpp issues 20260 and 24202). The
    message's content is the text unchanged, thinking included; with calls, it is the text around them, stripped.

    Never raises; linear in the length of the text. Nothing in the text is run.

    Args:
        text: the turn as the model wrote it.
        tools: the OpenAI function schemas of the tools that were offered, or their names. They decide whether `f(a=1)`
            in a sentence is a call; schemas also give the types of arguments that are written without quotes. Without
            tools only the form decides.

    Returns:
        The message, and how its calls are written.
    """
    offered = OfferedTools.of(tools)
    try:
        parts, around = _read(text, offered)
    except UNREADABLE:
        return ParsedTurn(Message("assistant", text), malformed=True)
    calls: tuple[ToolCall, ...] = tuple(chain.from_iterable(part.calls for part in parts))
    message = Message("assistant", around.strip() if calls else text, calls)
    return ParsedTurn(message, False, tuple(dict.fromkeys(part.spelling for part in parts)))


def _read(text: str, offered: OfferedTools) -> tuple[list[Calls], str]:
    """The calls of a turn, and the text around them. Raises one of `UNREADABLE` when the turn is malformed."""
    # Before looking for thinking: an argument may contain any tag.
    if parts := whole_list(text, offered) or whole_call(text, offered):
        return parts, ""
    ends = Scanner(text, offered).ends_of_thinking()
    thought, visible = text[: ends[-1]], text[ends[-1] :]
    if not visible.strip():
        before = thought[: ends[-2]] if len(ends) > 1 else ""
        parts, around = _structured(thought[len(before) :], offered)
        return parts, before + around
    if len(ends) == 1 and thinking.OPENS.match(text):
        return _structured(text, offered)
    if parts := whole_list(visible, offered):
        return parts, thought
    parts, around = _visible(visible, offered)
    return parts, thought + around


def _structured(text: str, offered: OfferedTools) -> tuple[list[Calls], str]:
    """Calls in tags, fences and JSON. Nothing is looked for in the text around them but the remains of tags."""
    parts = list(Scanner(text, offered).calls())
    around = _around(text, parts)
    if any(LEFT_OVER.search(piece) for piece in around):
        raise UnreadableCallError("a tag of a call that was not read")
    return parts, "".join(around)


def _visible(text: str, offered: OfferedTools) -> tuple[list[Calls], str]:
    scanner = Scanner(text, offered)
    if parts := list(scanner.calls()):
        if any(has_json_attempt(piece, offered) for piece in _around(text, parts)):
            raise UnreadableCallError("a call that was not read, beside others")
        parts = sorted([*parts, *_further(text, parts, offered)], key=lambda part: part.start)
        return parts, "".join(_around(text, parts))
    if scanner.found_in_sentence or has_attempt(text, offered):
        raise UnreadableCallError("a call that was not read")
    parts = list(prose_calls(text, offered)) or whole_call(text, offered)
    return parts, "".join(_around(text, parts))


def _further(text: str, parts: list[Calls], offered: OfferedTools) -> list[Calls]:
    """The calls in Python's form beside `parts`. A sentence about the calls is not one, nor is a call written again.

    Raises: one of `UNREADABLE` for an attempt to call another tool that cannot be read.
    """
    # Line breaks in place of the calls keep the positions.
    filling = ["\n" * (part.end - part.start) for part in parts]
    between = "".join(chain.from_iterable(zip_longest(_around(text, parts), filling, fillvalue="")))
    known = [call for part in parts for call in part.calls]
    further: list[Calls] = []
    try:
        for part in prose_calls(between, offered):
            if not all(call in known for call in part.calls):
                further.append(part)
    except UNREADABLE:
        called = {call.name for call in known}
        mentioned = {offered.own_name(start[0][:-1]) for start in STARTS_CALL.finditer(between)}
        if mentioned & set(offered.names) - called:
            raise
    return further


def _around(text: str, parts: list[Calls]) -> list[str]:
    edges = [0, *chain.from_iterable((part.start, part.end) for part in parts), len(text)]
    return [text[start:end] for start, end in list(pairwise(edges))[::2]]
