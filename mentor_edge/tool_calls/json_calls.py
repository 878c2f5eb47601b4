"""Calls written as JSON: which decoded values are calls, and which are answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mentor_edge.messages import ToolCall
from mentor_edge.tool_calls.offered import OfferedTools
from mentor_edge.tool_calls.python_calls import PythonBudget
from mentor_edge.tool_calls.reading import UNREADABLE, Calls, UnreadableCallError, after_separators, checked_call

NAME_KEYS = ("name", "function", "tool_name", "function_name", "tool", "recipient_name", "action")
ARGUMENT_KEYS = ("arguments", "parameters", "args", "input", "params", "kwargs", "tool_input", "action_input")
CERTAIN_KEYS = frozenset({"arguments", "parameters"})
"""With `name`, one of these makes an object a call, whatever the name. The others need the name of an offered tool."""
_FOR_TOOLS = frozenset({"tool_name", "function_name", "tool"})
"""Keys that do the same if the arguments are an object."""
_ACCOMPANYING = frozenset({"id", "type", "index", "call_id", "tool_call_id"})
"""Keys beside the name that do not count as arguments."""
_TELLING = frozenset(NAME_KEYS) | {"tool_calls", "function_call"}
"""An object with several keys and none of these is not a call."""

_DECODER = json.JSONDecoder()
_FIRST_DECODES = 65_536
_DECODES_PER_CHARACTER = 16


class NotJsonError(ValueError):
    """No JSON value begins here."""


class JsonReader:
    """Decodes the values in one text, and gives up before failures can make that quadratic."""

    python: PythonBudget
    """What may still be spent on Python in the same text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.python = PythonBudget()
        self._budget = _FIRST_DECODES + _DECODES_PER_CHARACTER * len(text)

    @property
    def exhausted(self) -> bool:
        """Whether too many values of this text could not be decoded, so that no further one is tried."""
        return self._budget < 0

    def value(self, position: int) -> tuple[Any, int]:
        """The value that begins at `position`, and its end. Raises: NotJsonError."""
        if self.exhausted:
            raise NotJsonError("too many values in this text cannot be decoded")
        try:
            return _DECODER.raw_decode(self.text, position)
        except json.JSONDecodeError as error:
            # An unterminated string is reported where it begins, after it was read to its end.
            end = len(self.text) if "Unterminated" in error.msg else error.pos
            # Making the error counts the lines before it.
            self._budget -= end - position + error.pos // 8
            raise NotJsonError(error.msg) from error
        except UNREADABLE as error:  # nested too deeply, or a number with too many digits
            self._budget -= len(self.text) // 64 + 1024
            raise NotJsonError(str(error)) from error

    def calls(self, position: int, offered: OfferedTools, *, tagged: bool) -> tuple[Calls | None, int]:
        """The calls in the values from `position` on, and the end of the last value.

        Values are separated by white space, commas or semicolons. In tags every value must be a call; elsewhere
        reading ends before the first one that is not, and without any call the result is None.

        Raises: NotJsonError when the first value, or any value in tags, cannot be decoded; another one of `UNREADABLE`
        for a call that cannot be used.
        """
        calls: list[ToolCall] = []
        spellings: list[str] = []
        start = end = position
        while True:
            try:
                value, after = self.value(position)
            except NotJsonError:
                if tagged or not calls:
                    raise
                break
            read = calls_of_value(value, offered, tagged=tagged)
            if read is None:
                end = end if calls else after
                break
            calls += read[0]
            spellings.append(read[1])
            end = after
            position = after_separators(self.text, end)
            if not self.text.startswith(("{", "["), position) or self.text.startswith("[TOOL_CALLS]", position):
                break
        if not calls:
            return None, end
        if self.text.startswith(";", end):
            end += 1
        repeated = " ..." if len(spellings) > 1 else ""
        return Calls(tuple(calls), start, end, " ".join(dict.fromkeys(spellings)) + repeated), end


def calls_of_value(value: Any, offered: OfferedTools, *, tagged: bool) -> tuple[list[ToolCall], str] | None:
    """The calls that a decoded value describes and how they are written; None for any other value.

    Args:
        value: the decoded JSON.
        offered: the offered tools.
        tagged: the value is inside tags that announce calls, so it must be one.

    Raises: one of `UNREADABLE` when the value is a call that cannot be used.
    """
    if isinstance(value, dict):
        return _of_object(value, offered, tagged)
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        read = [_of_object(item, offered, tagged) for item in value]
        found = [one for one in read if one is not None]
        if found and len(found) == len(read):
            spelling = " ".join(dict.fromkeys(one[1] for one in found))
            return [call for one in found for call in one[0]], f"[{spelling}]"
        if found:
            raise UnreadableCallError("a list of calls and other values")
        return None
    if tagged:
        raise UnreadableCallError("neither a call nor a list of calls")
    if isinstance(value, list) and any(isinstance(item, dict) and _of_object(item, offered, False) for item in value):
        raise UnreadableCallError("a list of calls and other values")
    return None


def _of_object(value: Mapping[str, Any], offered: OfferedTools, tagged: bool) -> tuple[list[ToolCall], str] | None:
    if not (tagged or len(value) == 1 or _TELLING & value.keys() or offered.parameters.keys() & value.keys()):
        return None
    for wrapper in ("tool_calls", "function_call", "function"):
        inner = value.get(wrapper)
        if isinstance(inner, dict):
            inner = [inner] if wrapper == "tool_calls" else _with_arguments_beside(inner, value)
        if isinstance(inner, dict) or (wrapper == "tool_calls" and isinstance(inner, list) and inner):
            read = _unwrapped(inner, offered, tagged or (wrapper == "tool_calls" and "name" not in value))
            if read is None:
                return None
            return read[0], f'{{"{wrapper}": {read[1]}}}'
    return _single(value, offered, tagged)


def _with_arguments_beside(inner: Mapping[str, Any], outer: Mapping[str, Any]) -> dict[str, Any]:
    """`{"function": {"name": "f"}, "arguments": {}}`: some models write the arguments beside the wrapper."""
    beside = {key: outer[key] for key in ARGUMENT_KEYS if key in outer}
    if any(key in inner and inner[key] != value for key, value in beside.items()):
        raise UnreadableCallError("two different objects of arguments")
    return {**inner, **beside}


def _unwrapped(inner: Any, offered: OfferedTools, tagged: bool) -> tuple[list[ToolCall], str] | None:
    """The calls inside a wrapper. One more level is read: OpenAI's list of calls has a wrapper in each."""
    if isinstance(inner, list):
        read = [_of_object(item, offered, tagged) if isinstance(item, dict) else None for item in inner]
        found = [one for one in read if one is not None]
        if len(found) < len(read):
            raise UnreadableCallError("a list of calls and other values")
        return [call for one in found for call in one[0]], f"[{' '.join(dict.fromkeys(one[1] for one in found))}]"
    return _single(inner, offered, tagged)


def _single(value: Mapping[str, Any], offered: OfferedTools, tagged: bool) -> tuple[list[ToolCall], str] | None:
    name_key = next((key for key in NAME_KEYS if isinstance(value.get(key), str)), None)
    given = [key for key in ARGUMENT_KEYS if key in value and key != name_key]
    if name_key is None:
        return _named_by_its_key(value, offered, tagged, given)
    name = offered.own_name(value[name_key])
    known = offered.offers(name)
    certain = _is_certain(name_key, name, [value[key] for key in given if key in CERTAIN_KEYS], offered)
    if not (tagged or known or certain):
        if f"{name_key}_input" in given:
            raise UnreadableCallError("LangChain's format with a tool that is not offered")
        return None
    if given and _is_definition(value[given[0]]) and not (known and offered.accepts(name, ("type", "properties"))):
        raise UnreadableCallError("the definition of a tool")
    if not given and value.keys() - {name_key} - _ACCOMPANYING:
        raise UnreadableCallError("arguments beside the name")
    if len(given) > 1 and any(value[key] != value[given[0]] for key in given):
        raise UnreadableCallError("two different objects of arguments")
    arguments = value[given[0]] if given else None
    written = '"..."' if isinstance(arguments, str) else "{...}"
    spelling = f'{{"{name_key}": ..., "{given[0]}": {written}}}' if given else f'{{"{name_key}": ...}}'
    return [checked_call(name, arguments)], spelling


def _is_certain(name_key: str, name: str, arguments: Sequence[Any], offered: OfferedTools) -> bool:
    """Whether an object is a call, also of a tool that was not offered. None of these has a name with spaces."""
    if offered.parameters and any(map(str.isspace, name.strip())):
        return False
    if name_key in _FOR_TOOLS:
        return any(isinstance(one, Mapping) for one in arguments)
    return name_key in ("name", "function") and bool(arguments)


def _named_by_its_key(
    value: Mapping[str, Any], offered: OfferedTools, tagged: bool, given: Sequence[str]
) -> tuple[list[ToolCall], str] | None:
    """`{"f": {"a": 1}}`, as BFCL's prompts ask for. The keys inside must be the tool's parameters."""
    if len(value) == 1:
        ((key, arguments),) = value.items()
        name = offered.own_name(key)
        if isinstance(arguments, Mapping) and (
            (offered.offers(name) and offered.accepts(name, arguments)) or (tagged and key not in ARGUMENT_KEYS)
        ):
            return [checked_call(name, arguments)], "{name: {...}}"
    elif any(_is_call_of(offered, key, arguments) for key, arguments in value.items()):
        if not all(_is_call_of(offered, key, arguments) for key, arguments in value.items()):
            raise UnreadableCallError("calls and other values in one object")
        return [checked_call(name, arguments) for name, arguments in value.items()], "{name: {...}, ...}"
    if tagged or ("name" in value and CERTAIN_KEYS & set(given)):
        raise UnreadableCallError("a call without a name")
    return None


def _is_call_of(offered: OfferedTools, key: str, arguments: Any) -> bool:
    return isinstance(arguments, Mapping) and key in offered.parameters and offered.accepts(key, arguments)


def _is_definition(arguments: Any) -> bool:
    """Whether a model wrote the schema of a tool instead of calling it."""
    return isinstance(arguments, Mapping) and "type" in arguments and isinstance(arguments.get("properties"), Mapping)
