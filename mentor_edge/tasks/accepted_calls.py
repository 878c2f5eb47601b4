"""Accepted calls as users write them, turned into BFCL's shape and checked: what can never be called is a mistake.

    {"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}          exactly these arguments
    {"get_weather": {"city": ["Paris", "Paris, France"], "days": [3, ""]}}      BFCL: the accepted values per parameter

In BFCL's shape "" says that a parameter may be left out. An object among the accepted values holds the accepted values
of each of its keys, one level deep: {"search": {"filter": [{"year": [2024], "month": ["May", ""]}]}}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mentor_edge.errors import did_you_mean
from mentor_edge.rows import shown
from mentor_edge.tools.types import Tool

AcceptedCall = Mapping[str, Mapping[str, Sequence[Any]]]
"""`{function: {parameter: [accepted values]}}`, what `bfcl.match_calls` compares with."""

_COMPARABLE = ("string", "integer", "number", "boolean", "array", "object")


def read_accepted_calls(calls: Sequence[Mapping[str, Any]], tools: Mapping[str, Tool]) -> tuple[AcceptedCall, ...]:
    """`calls` of either shape, as BFCL has them.

    Raises: ValueError for a call that no model could make (a tool that is not offered, a parameter that it does not
    have, or a required one that is missing) and for values that cannot be compared.
    """
    return tuple(
        _exact(call, tools, f"accepted_calls[{i}]")
        if isinstance(call.get("name"), str)
        else _by_values(call, tools, f"accepted_calls[{i}]")
        for i, call in enumerate(calls)
    )


def _exact(call: Mapping[str, Any], tools: Mapping[str, Tool], where: str) -> AcceptedCall:
    name, arguments = call["name"], call["arguments"]
    tool = _offered(name, tools, where)
    if problem := tool.argument_error(arguments):
        raise ValueError(f"{where}.arguments: {problem}")
    properties = tool.parameters.get("properties", {})
    values = {
        key: [_described(value, properties.get(key), f"{where}.arguments.{key}")] for key, value in arguments.items()
    }
    return _by_values({name: values}, tools, where)


def _described(value: Any, schema: Any, where: str) -> Any:
    """An exact value as `bfcl.match_calls` reads accepted ones: objects by the accepted values of their keys."""
    if value == "" or (isinstance(value, Mapping) and "" in value.values()):
        raise ValueError(f'{where}: "" cannot be asked for; among accepted values it says that one may be left out')
    if isinstance(value, Mapping):
        return {key: [item] for key, item in value.items()}
    if isinstance(value, list) and _types(schema)[1] == "object":
        return [_described(item, None, where) for item in value]
    return value


def _by_values(call: AcceptedCall, tools: Mapping[str, Tool], where: str) -> AcceptedCall:
    ((name, values),) = call.items()
    schema = _offered(name, tools, where).parameters
    properties = schema.get("properties", {})
    if missing := [key for key in schema.get("required", ()) if key not in values]:
        raise ValueError(f"{where}: {name} requires {missing[0]!r}")
    for key, options in values.items():
        if key in properties:
            _check_comparable(options, properties[key], f"{where}.{name}.{key}")
        elif "" not in options:  # BFCL's own answers hold parameters that do not exist and may be left out
            raise ValueError(f"{where}: {name} has no parameter {key!r}{did_you_mean(key, properties)}")
    return {name: dict(values)}


def _offered(name: str, tools: Mapping[str, Tool], where: str) -> Tool:
    if name not in tools:
        raise ValueError(f"{where}: no tool {name!r} is offered{did_you_mean(name, tools)}")
    return tools[name]


def _types(schema: Any) -> tuple[Any, Any]:
    """The types that a parameter's schema names for its values and for the items of its lists; None for no name."""
    items = schema.get("items") if isinstance(schema, Mapping) else None
    named = [part.get("type") if isinstance(part, Mapping) else None for part in (schema, items)]
    return named[0], named[1]


def _check_comparable(options: Sequence[Any], schema: Any, where: str) -> None:
    kind, item_kind = _types(schema)
    if kind not in _COMPARABLE or (item_kind is not None and item_kind not in _COMPARABLE):
        raise ValueError(f"{where}: calls are compared by the type of a parameter, and its schema names no single one")
    described: list[Any] = []
    for option in options:
        if kind == "array" and not isinstance(option, list | str):
            raise ValueError(f"{where}: expected a list among the accepted values, found {shown(option)}")
        if kind == "object":
            described.append(option)
        elif kind == "array" and item_kind == "object" and isinstance(option, list):
            described += option
    for option in described:
        for key, values in option.items() if isinstance(option, Mapping) else ():
            if not isinstance(values, list):
                raise ValueError(f"{where}.{key}: expected a list of accepted values, found {shown(values)}")
