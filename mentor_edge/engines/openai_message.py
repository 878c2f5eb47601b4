"""Reading the turn in an assistant message of OpenAI's format, as servers really send it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mentor_edge.messages import Message, ToolCall
from mentor_edge.tool_calls import TOOL_CALL_CLOSE, TOOL_CALL_OPEN, ParsedTurn, parse_turn
from mentor_edge.tool_calls.json_calls import ARGUMENT_KEYS
from mentor_edge.tool_calls.thinking import CLOSES, OPENS

_CALLS = frozenset(
    {"toolcall", "toolcalls", "functioncall", "functioncalls", "tooluse", "tooluses", "invalidtoolcalls"}
)
"""Keys that hold calls, and types of parts that are calls, in lower case and without punctuation."""
_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "reasoning_details", "reasoning_text", "thinking_blocks")
_THOUGHT_PARTS = frozenset({"thinking", "reasoning", "reasoningtext", "thought"})
_BESIDE_ARGUMENTS = frozenset(
    [
        "name", "function", "id", "type", "index", "call_id", "tool_call_id", "description", "strict", "status",
        "signature", "thought_signature", "extra_content", "provider_specific_fields", "cache_control", "caller",
        "metadata",
    ]
)  # a table  # fmt: skip
"""Keys of a call that servers send, and that never hold its arguments."""
_MAX_NESTING = 8
"""Levels of lists and objects in which text is looked for."""


def read_turn(message: Mapping[str, Any], tools: Iterable[Any] = ()) -> ParsedTurn:
    """Read the turn in an assistant message.

    If the server found calls, they are spelled as models write them and parsed again, so that one set of rules decides
    for every runtime which arguments can be read. They may be a list or a single object, in `tool_calls`, in the older
    `function_call`, under a similar key, or among the parts of the content. Their arguments may be JSON text or an
    object, under `arguments` or another common key. A call whose arguments cannot be found makes the turn malformed.
    An empty placeholder for a call does not count.

    If it found none, the content is parsed. Reasoning counts as it does in a text: only if the content is empty, since
    some servers leave calls in `reasoning_content`. Never raises for a message that is an object.

    Args:
        message: the assistant's message.
        tools: the OpenAI function schemas that were sent.
    """
    offered = tuple(tools)
    parts = _parts(message.get("content"))
    content = "".join(_text(part) for part in parts if not _is_thought(part))
    places = [*_calls_of(message), [call for part in parts for call in _call_of(part)]]
    if found := [called for calls in places if (called := [call for call in calls if not _is_empty(call)])]:
        return _read_calls(found, content, offered)
    turn = parse_turn(content, offered)
    if turn.malformed or turn.message.tool_calls or _has_answer(content):
        return turn
    for thought in (*(message.get(key) for key in _THOUGHTS), list(filter(_is_thought, parts))):
        reasoning = _without_end(_text(thought, any_key=True))
        if reasoning.strip():
            drafted = parse_turn(f"<think>{reasoning}</think>", offered)
            if drafted.malformed or drafted.message.tool_calls:
                return drafted
    return ParsedTurn(Message("assistant", content), malformed=False)


def _read_calls(found: list[list[Any]], content: str, tools: tuple[Any, ...]) -> ParsedTurn:
    """The turn with the calls of each place. Some servers send the same calls in two places."""
    spelled = ["".join(map(_spelled, calls)) for calls in found]
    places: list[tuple[ToolCall, ...]] = []
    for text in spelled:
        turn = parse_turn(text, tools)
        if turn.malformed:
            return ParsedTurn(Message("assistant", content + "".join(spelled)), malformed=True)
        if turn.message.tool_calls not in places:
            places.append(turn.message.tool_calls)
    return ParsedTurn(Message("assistant", content, tuple(call for calls in places for call in calls)), malformed=False)


def _calls_of(fields: Mapping[str, Any]) -> Iterator[list[Any]]:
    """What an object says was called, key by key."""
    for key, value in fields.items():
        if value and _plain(key) in _CALLS:
            yield value if isinstance(value, list) else [value]


def _is_empty(call: Any) -> bool:
    """Whether an object of a call contains no name and no arguments. Some servers send one with every answer."""
    if isinstance(call, Mapping):
        return all(
            _is_empty(value) for key, value in call.items() if key != "index" and (key, value) != ("type", "function")
        )
    return call in (None, "", "{}", "null", [])


def _call_of(part: Any) -> list[Any]:
    """The calls in a part of the content."""
    if not isinstance(part, Mapping):
        return []
    if held := [call for calls in _calls_of(part) for call in calls]:
        return held
    named = isinstance(part.get("name"), str) and "text" not in part and any(key in part for key in ARGUMENT_KEYS)
    return [part] if named or _plain(part.get("type")) in _CALLS | {"function"} else []


def _spelled(call: Any) -> str:
    return TOOL_CALL_OPEN + json.dumps(_function(call)) + TOOL_CALL_CLOSE


def _function(call: Any) -> Any:
    """A call as an object with a name and arguments. None if they cannot be found: it is malformed."""
    if not isinstance(call, Mapping):
        return None
    function = call.get("function", call)  # some servers leave the wrapper out
    if not isinstance(function, Mapping):
        return None
    written = {**call, **function}
    named = {"name": written.get("name")}
    given = {key: written[key] for key in ARGUMENT_KEYS if written.get(key) not in (None, "", {})}
    if given or any(written.get(key) == {} for key in ARGUMENT_KEYS):
        return named | given
    others = [key for key, value in written.items() if key not in _BESIDE_ARGUMENTS and value not in (None, "", {}, [])]
    return None if others else named


def _parts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [content]


def _plain(word: Any) -> str:
    return "".join(filter(str.isalnum, word)).lower() if isinstance(word, str) else ""


def _is_thought(part: Any) -> bool:
    return isinstance(part, Mapping) and _plain(part.get("type")) in _THOUGHT_PARTS


def _text(value: Any, depth: int = 0, *, any_key: bool = False) -> str:
    """The text in a part, or in a list of parts. `any_key`: if none of the usual keys has text, any other may."""
    if isinstance(value, str):
        return without_surrogates(value)
    if depth > _MAX_NESTING:
        return ""
    if isinstance(value, list):
        return "".join(_text(part, depth + 1, any_key=any_key) for part in value)
    if isinstance(value, Mapping):
        keys = ("text", "content", "thinking", "reasoning", "summary", "value", *(value if any_key else ()))
        texts = (_text(value.get(key), depth + 1, any_key=any_key) for key in keys if key not in ("type", "id"))
        return next(filter(None, texts), "")
    return ""


def _has_answer(content: str) -> bool:
    """Whether anything but thinking is in the content."""
    ends = [match.end() for match in CLOSES.finditer(content)]
    return bool(content[ends[-1] :].strip()) if ends else bool(content.strip()) and not OPENS.match(content)


def _without_end(reasoning: str) -> str:
    """Reasoning without the closing tags at its end, which some servers leave there."""
    end = len(reasoning)
    for match in reversed(list(CLOSES.finditer(reasoning))):
        if reasoning[match.end() : end].strip():
            break
        end = match.start()
    return reasoning[:end]


def without_surrogates(text: str) -> str:
    """The text without lone surrogates, which JSON can express and no request can carry."""
    return text.encode(errors="replace").decode()
