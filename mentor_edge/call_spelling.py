"""A template's own spelling of tool calls: what it writes for a turn with calls, and what the parser says about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mentor_edge.chat import ChatTemplate
from mentor_edge.errors import StudentError
from mentor_edge.messages import Message, ToolCall
from mentor_edge.tool_calls import ParsedTurn, parse_turn

_NAMES = ("first_tool", "second_tool")
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "A tool.",
            "parameters": {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]},
        },
    }
    for name in _NAMES
]
_QUESTION = Message("user", "A question.")


def own_spellings(template: ChatTemplate) -> frozenset[str]:
    """How the template writes one call, and two calls in a turn (see `ParsedTurn.spellings`).

    Args:
        template: the student's template.

    Returns:
        Nothing if the template writes no calls, or in a way that the parser does not read.
    """
    calls = tuple(ToolCall(name, {"key": "value"}) for name in _NAMES)
    found: set[str] = set()
    for count in (1, 2):
        try:
            written = written_turn(template, [_QUESTION], _TOOLS, Message("assistant", "", calls[:count]))
            turn = parse_turn(written, _TOOLS)
        except StudentError:  # Llama's template refuses two calls
            continue
        if turn.message.tool_calls == calls[:count]:
            found.update(turn.spellings)
    return frozenset(found)


def in_own_spelling(turn: ParsedTurn, own: frozenset[str]) -> bool | None:
    """Whether every call of a turn is in the template's own spelling.

    Args:
        turn: the turn.
        own: the result of `own_spellings`.

    Returns:
        False for a malformed turn, too; None for a turn without calls, or if the own spelling is not known.
    """
    if not own or not (turn.malformed or turn.message.tool_calls):
        return None
    return not turn.malformed and own.issuperset(turn.spellings)


def written_turn(
    template: ChatTemplate, prompt: Sequence[Message], tools: Sequence[dict[str, Any]], turn: Message, end: str = ""
) -> str:
    """The text that a model would have to write for a turn, without its end.

    Args:
        template: the student's template.
        prompt: the messages before the turn.
        tools: OpenAI function schemas.
        turn: the turn.
        end: where the turn of a template ends that cannot be taught. Default: its end-of-turn token.

    Raises: StudentError when the template refuses the conversation.
    """
    try:
        written = template.first_turn(prompt, tools, turn)
    except StudentError:
        return _guessed_turn(template, prompt, tools, turn, end or template.eos_token)
    ends = sorted(filter(None, (template.eos_token, *template.more_ends)), key=len, reverse=True)
    return next((written.removesuffix(each) for each in ends if written.endswith(each)), written).strip()


def _guessed_turn(
    template: ChatTemplate, prompt: Sequence[Message], tools: Sequence[dict[str, Any]], turn: Message, end: str
) -> str:
    """The turn of a template that cannot be taught, to parse and to show it."""
    before = template.render(prompt, tools, add_generation_prompt=True)
    whole = template.render([*prompt, turn], tools)
    start = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
    if start < len(before):
        # The prompt ends in something that this turn does not have, such as <think>: begin at a whole token.
        opened = whole.rfind("<", 0, start)
        start = opened if opened > whole.rfind(">", 0, start) else start
    position = whole.rfind(end, start) if end else -1
    return whole[start : position if position >= 0 else None].strip()
