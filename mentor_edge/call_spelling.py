"""A template's own spelling of tool calls: what the parser says about a call that the template itself writes."""

from __future__ import annotations

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
            turn = parse_turn(_written(template, calls[:count]), _TOOLS)
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


def _written(template: ChatTemplate, calls: tuple[ToolCall, ...]) -> str:
    """What the template writes for a turn with these calls, between the prompt and the end of the turn."""
    prompt = template.render([_QUESTION], _TOOLS, add_generation_prompt=True)
    whole = template.render([_QUESTION, Message("assistant", "", calls)], _TOOLS)
    start = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
    if start < len(prompt):
        # The prompt ends in something that the turn does not have, such as <think>: begin at a whole tag.
        opened = whole.rfind("<", 0, start)
        start = opened if opened > whole.rfind(">", 0, start) else start
    end = whole.rfind(template.eos_token, start) if template.eos_token else -1
    return whole[start : end if end >= 0 else None]
