"""Reading the turn in an assistant message of OpenAI's format, as servers really send it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mentor_edge.messages import Message
from mentor_edge.tool_calls import TOOL_CALL_CLOSE, TOOL_CALL_OPEN, ParsedTurn, parse_turn


def read_turn(message: Mapping[str, Any], tools: Iterable[Any] = ()) -> ParsedTurn:
    """Read the turn in an assistant message.

    If the server found calls, they are spelled as models write them and parsed again, so that one set of rules decides
    for every runtime which arguments can be read. They may be a list or a single object, in `tool_calls` or in the
    older `function_call`, with their arguments as JSON text or as an object.

    If it found none, the content is parsed. Reasoning counts as it does in a text: only if the content is empty, since
    some servers leave calls in `reasoning_content`. Never raises for a message that is an object.

    Args:
        message: the assistant's message.
        tools: the OpenAI function schemas that were sent.
    """
    content = _text(message.get("content"))
    if functions := _functions(message):
        spelled = "".join(TOOL_CALL_OPEN + json.dumps(function) + TOOL_CALL_CLOSE for function in functions)
        turn = parse_turn(spelled, tools)
        if turn.malformed:
            return ParsedTurn(Message("assistant", content + spelled), malformed=True)
        return ParsedTurn(Message("assistant", content, turn.message.tool_calls), malformed=False)
    if content.strip():
        return parse_turn(content, tools)
    reasoning = _text(message.get("reasoning_content") or message.get("reasoning"))
    turn = parse_turn(f"<think>{reasoning}</think>", tools) if reasoning.strip() else parse_turn("")
    return turn if turn.malformed or turn.message.tool_calls else ParsedTurn(Message("assistant", content), False)


def _functions(message: Mapping[str, Any]) -> list[Any]:
    """What the server says was called: objects with a name and arguments, or whatever else it sent."""
    calls = message.get("tool_calls") or message.get("function_call")
    if not calls:
        return []
    return [_function(call) for call in (calls if isinstance(calls, list) else [calls])]


def _function(call: Any) -> Any:
    if not isinstance(call, Mapping):
        return None
    function = call.get("function", call)  # some servers leave the wrapper out
    if not isinstance(function, Mapping):
        return function
    return {"name": function.get("name"), "arguments": function.get("arguments")}


def _text(content: Any) -> str:
    if isinstance(content, list):  # some servers send parts
        parts = [part.get("text", "") if isinstance(part, Mapping) else part for part in content]
        content = "".join(part for part in parts if isinstance(part, str))
    return without_surrogates(content) if isinstance(content, str) else ""


def without_surrogates(text: str) -> str:
    """The text without lone surrogates, which JSON can express and no request can carry."""
    return text.encode(errors="replace").decode()
