"""Reading one assistant turn: its thinking, then its calls, then a search for calls that were not read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, pairwise, zip_longest
from typing import Any

from mentor_edge.messages import Message, ToolCall
from mentor_edge.tool_calls import thinking
from mentor_edge.tool_calls.attempts import has_attempt
from mentor_edge.tool_calls.offered import OfferedTools
from mentor_edge.tool_calls.prose import prose_calls
from mentor_edge.tool_calls.reading import UNREADABLE, Calls, UnreadableCallError
from mentor_edge.tool_calls.visible import Scanner, whole_call, whole_list

_INVISIBLE = re.compile("[\u00ad\u200b-\u200d\u2060\ufeff]")
_QUOTE = re.compile("&(?:quot|#34|#x22);")


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

    Thinking is what is between its tags; the first opening tag may be part of the prompt. Calls in it are drafts. They
    count in two cases, in which the model stopped to get a result (llama.cpp issues 20260 and 24202): the thinking is
    never closed, or the turn ends with it and has no other call. The message's content is the text unchanged,
    thinking included; with calls, it is the text around them, stripped.

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
    thoughts = Scanner(text, offered).thoughts()
    if not thoughts:
        return _thinking(text, offered) if thinking.OPENS.match(text) else _visible(text, text, offered)
    start, end = thoughts[-1]
    visible = _blanked(text, thoughts)
    first = end if not visible[:end].strip() else 0
    if parts := whole_list(visible[first:], offered):
        return parts, "".join(text[start:end] for start, end in thoughts)
    parts, around = _visible(text[first:], visible[first:], offered)
    if not parts and not text[end:].strip():
        first = start
        parts, around = _thinking(text[start:], offered)
    return parts, text[:first] + around


def _thinking(text: str, offered: OfferedTools) -> tuple[list[Calls], str]:
    """The calls in a part of thinking that counts. It is read like a visible part."""
    tags = [match.span() for match in (thinking.OPENS.match(text), thinking.ENDS.search(text)) if match]
    return _visible(text, _blanked(text, tags), offered)


def _visible(text: str, visible: str, offered: OfferedTools) -> tuple[list[Calls], str]:
    """The calls in the visible part of a turn. In `visible`, line breaks replace what does not count."""
    scanner = Scanner(visible, offered)
    if parts := list(scanner.calls()):
        known = [call for part in parts for call in part.calls]
        if has_attempt("\n".join(_around(visible, parts)), offered, called={call.name for call in known}):
            raise UnreadableCallError("a call that was not read, beside others")
        between = _blanked(visible, [(part.start, part.end) for part in parts])
        parts = sorted([*parts, *prose_calls(between, offered, known)], key=lambda part: part.start)
    elif scanner.found_in_sentence or has_attempt(visible, offered):
        raise UnreadableCallError("a call that was not read")
    else:
        parts = list(prose_calls(visible, offered)) or whole_call(visible, offered)
        plain = _QUOTE.sub('"', _INVISIBLE.sub("", visible))
        if not parts and plain != visible and _visible(plain, plain, offered)[0]:
            raise UnreadableCallError("a call with invisible or escaped characters")
    return parts, "".join(_around(text, parts))


def _blanked(text: str, parts: list[tuple[int, int]]) -> str:
    """The text with line breaks in place of the parts."""
    starts = [0, *(end for _, end in parts)]
    kept = [text[start:end] for start, end in zip(starts, [*(start for start, _ in parts), len(text)], strict=True)]
    filling = [("\n" + " " * (end - start))[: end - start - 1] + "\n" for start, end in parts]
    return "".join(chain.from_iterable(zip_longest(kept, filling, fillvalue="")))


def _around(text: str, parts: list[Calls]) -> list[str]:
    edges = [0, *chain.from_iterable((part.start, part.end) for part in parts), len(text)]
    return [text[start:end] for start, end in list(pairwise(edges))[::2]]
