"""Accepted calls as users write them, converted to BFCL's shape. Calls that no model could make are refused.

    {"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}          these arguments
    {"get_weather": {"city": ["Paris", "Paris, France"], "days": [3, ""]}}      BFCL: the accepted values per parameter

In BFCL's shape, "" means that a parameter may be left out. An object among the accepted values lists the accepted
values of each of its keys, one level deep: {"search": {"filter": [{"year": [2024], "month": ["May", ""]}]}}.

The first shape means a call, however it is written: an optional value that equals its default may be given or left out,
as a parameter and in an object, and 1.0 in a list may be 1. The second accepts only what it lists, as BFCL does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mentor_edge.errors import did_you_mean
from mentor_edge.rows import shown
from mentor_edge.tasks.parameter_types import (
    is_comparable_default,
    may_be_null,
    mixed_items,
    parameter_schema,
    parameters_of,
    schema_of,
)
from mentor_edge.tools.schemas.time_limit import limited
from mentor_edge.tools.types import Tool

AcceptedCall = Mapping[str, Mapping[str, Sequence[Any]]]
"""`{function: {parameter: [accepted values]}}`, the ground truth of `call_matching.match_calls`."""


@limited()
def read_accepted_calls(calls: Sequence[Mapping[str, Any]], tools: Mapping[str, Tool]) -> tuple[AcceptedCall, ...]:
    """Convert `calls` of either shape to BFCL's. `tools` are the tools offered, by name.

    Raises: ValueError for a call that no model could make (a tool that is not offered, a parameter that it does not
    have, or a missing required one) and for values that cannot be compared.
    """
    return tuple(
        _exact(call, tools, f"accepted_calls[{i}]")
        if isinstance(call.get("name"), str)
        else _by_values(call, tools, f"accepted_calls[{i}]")
        for i, call in enumerate(calls)
    )


def _exact(call: Mapping[str, Any], tools: Mapping[str, Tool], path: str) -> AcceptedCall:
    name, arguments = call["name"], call["arguments"]
    tool = _offered(name, tools, path)
    if problem := tool.argument_error(arguments):
        raise ValueError(f"{path}.arguments: {problem}")
    root = tool.parameters
    values: dict[str, list[Any]] = {}
    for key, value in arguments.items():
        part = parameter_schema(key, root, root)
        options = [value, *_with_integers(value)]
        values[key] = [_as_option(option, part, root, f"{path}.arguments.{key}") for option in options]
    return _by_values({name: _with_defaults(values, arguments, root, root)}, tools, path)


def _with_integers(value: Any) -> Iterator[list[Any]]:
    """The list `value` with 1 for 1.0, if it contains such numbers: `match_calls` compares types inside lists."""
    if isinstance(value, list) and any(isinstance(item, float) and item.is_integer() for item in value):
        yield [int(item) if isinstance(item, float) and item.is_integer() else item for item in value]


def _with_defaults(
    values: dict[str, list[Any]], given: Mapping[str, Any], schema: Any, root: Mapping[str, Any]
) -> dict[str, list[Any]]:
    """`values` in which optional ones that equal their default may be left out, and those left out may be given."""
    for key, part in parameters_of(schema, root).items():
        default = part.get("default") if isinstance(part, Mapping) else None
        known = may_be_null(part, root) if default is None else is_comparable_default(default, part, root)
        if not known or key in schema.get("required", ()):
            continue
        if key not in given:
            values[key] = [default, ""]
        elif given[key] == default and isinstance(given[key], bool) == isinstance(default, bool):
            values[key].append("")
    return values


def _as_option(value: Any, schema: Any, root: Mapping[str, Any], path: str) -> Any:
    """An exact value as `match_calls` reads accepted ones: objects list the accepted values of their keys."""
    if value == "" or (isinstance(value, Mapping) and "" in value.values()):
        raise ValueError(f'{path}: "" cannot be required; among accepted values it means "may be left out"')
    if isinstance(value, Mapping):
        return _with_defaults({key: [item] for key, item in value.items()}, value, schema_of(value, schema, root), root)
    if isinstance(value, list) and (items := _listed_objects(value, schema, root)) is not None:
        return [_as_option(item, items, root, path) for item in value]
    return value


def _listed_objects(value: list[Any], schema: Any, root: Mapping[str, Any]) -> Any:
    """The schema of a list's items, if `match_calls` compares objects among them key by key."""
    own = schema_of(value, schema, root)
    items = own.get("items")
    if mixed_items(own) is not None:
        return items
    return items if isinstance(items, Mapping) and items.get("type") == "object" else None


def _by_values(call: AcceptedCall, tools: Mapping[str, Tool], path: str) -> AcceptedCall:
    ((name, values),) = call.items()
    schema = _offered(name, tools, path).parameters
    if missing := [key for key in schema.get("required", ()) if key not in values]:
        raise ValueError(f"{path}: {name} requires {missing[0]!r}")
    for key, options in values.items():
        if (part := parameter_schema(key, schema, schema)) is not None:
            _check_comparable(options, part, schema, f"{path}.{name}.{key}")
        elif "" not in options:  # some of BFCL's answers name parameters that do not exist and may be left out
            raise ValueError(
                f"{path}: {name} has no parameter {key!r}{did_you_mean(key, parameters_of(schema, schema))}"
            )
    return {name: dict(values)}


def _offered(name: str, tools: Mapping[str, Tool], path: str) -> Tool:
    if name not in tools:
        raise ValueError(f"{path}: tool {name!r} is not offered{did_you_mean(name, tools)}")
    return tools[name]


def _check_comparable(options: Sequence[Any], schema: Any, root: Mapping[str, Any], path: str) -> None:
    objects: list[Any] = []
    for option in options:
        kind = schema_of(option, schema, root)["type"]
        if kind == "array" and not isinstance(option, list | str):
            raise ValueError(f"{path}: expected a list among the accepted values, found {shown(option)}")
        if kind == "object":
            objects.append(option)
        elif kind == "array" and isinstance(option, list) and _listed_objects(option, schema, root) is not None:
            objects += option
    for option in objects:
        for key, values in option.items() if isinstance(option, Mapping) else ():
            if not isinstance(values, list):
                raise ValueError(f"{path}.{key}: expected a list of accepted values, found {shown(values)}")
