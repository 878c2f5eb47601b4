"""By which type a parameter's value is compared, when the schema does not simply name one.

Python's `Optional` is `anyOf` with null, a union is `anyOf` or a list of types, an enumeration may name no type at all.
Then the accepted value decides: it is compared as the schema says about values of its own type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mentor_edge.tools.schemas.patterns import matches
from mentor_edge.tools.schemas.time_limit import TooSlow

_DEPTH_LIMIT = 32
"""Definitions that only refer to one another; a longer chain counts as untyped."""


def has_single_type(schema: Any) -> bool:
    """Whether a schema names its one type, as all of BFCL's do."""
    return isinstance(schema, Mapping) and isinstance(schema.get("type"), str)


def mixed_items(schema: Any) -> Mapping[str, Any] | None:
    """The schema of a list's items if it says something about them, but names no single type."""
    items = schema.get("items") if isinstance(schema, Mapping) else None
    return items if isinstance(items, Mapping) and items and not has_single_type(items) else None


def schema_of(value: Any, schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of `schema` that says how values like `value` are compared; it names a single type.

    `root` is the schema of all arguments, to which references point.
    """
    if has_single_type(schema):
        return schema
    parts = list(_parts(schema, root, 0))
    for kind in reversed(_types_of(value)):  # where numbers are allowed, 3.0 is 3
        for part in parts:
            if part.get("type") == kind:
                return part
    return {"type": _types_of(value)[-1]}


def parameters_of(schema: Any, root: Mapping[str, Any]) -> dict[str, Any]:
    """The schemas of all parameters by name, also of those that only one alternative of the arguments has."""
    properties: dict[str, Any] = {}
    for part in _alternatives(schema, root, 0):
        properties = {**part.get("properties", {}), **properties}
    return properties


def parameter_schema(name: str, schema: Any, root: Mapping[str, Any]) -> Any:
    """The schema of the parameter `name`, or None if the tool does not have it.

    Parameters without a name of their own are those of `patternProperties` and `additionalProperties`. A schema that
    does not list its parameters allows all; one that lists them must say so, since most authors mean "no others".
    """
    properties = parameters_of(schema, root)
    if name in properties:
        return properties[name]
    parts = list(_alternatives(schema, root, 0))
    for part in parts:
        for pattern, inner in part.get("patternProperties", {}).items():
            if _fits(pattern, name):
                return inner if isinstance(inner, Mapping) else {}
    for part in parts:
        if (more := part.get("additionalProperties", False)) is not False:
            return more if isinstance(more, Mapping) else {}
    listed = any(part.keys() & {"properties", "additionalProperties", "patternProperties"} for part in parts)
    return None if listed else {}


def may_be_null(schema: Any, root: Mapping[str, Any]) -> bool:
    """Whether null for an optional parameter leaves it out: null is allowed, and no other value is the default.

    BFCL's schemas, which name one type, allow no null.
    """
    if not isinstance(schema, Mapping) or has_single_type(schema) or schema.get("default") is not None:
        return False
    parts = list(_parts(schema, root, 0))
    return any(part.get("type") == "null" for part in parts) or (not parts and "default" in schema)


def is_comparable_default(default: Any, schema: Any, root: Mapping[str, Any]) -> bool:
    """Whether a default is of the type that its schema names, and neither an object nor a list with items."""
    plain = default == [] or not isinstance(default, Mapping | list)
    return plain and schema_of(default, schema, root)["type"] in _types_of(default)


def _fits(pattern: str, name: str) -> bool:
    try:
        return matches(pattern, name)
    except TooSlow:
        return False


def _alternatives(schema: Any, root: Mapping[str, Any], depth: int) -> Iterator[Mapping[str, Any]]:
    """A schema of arguments and all that it consists of, the outermost first."""
    if not isinstance(schema, Mapping) or depth > _DEPTH_LIMIT:
        return
    yield schema
    inner = [part for keyword in ("allOf", "anyOf", "oneOf") for part in schema.get(keyword, ())]
    if isinstance(reference := schema.get("$ref"), str) and reference != "#":
        inner.append(_definition(reference, root))
    for part in inner:
        yield from _alternatives(part, root, depth + 1)


def _definition(reference: str, root: Mapping[str, Any]) -> Any:
    return root if reference == "#" else root.get("$defs", {}).get(reference.removeprefix("#/$defs/"))


def _types_of(value: Any) -> tuple[str, ...]:
    """JSON Schema's types of a value, the most exact one first."""
    match value:
        case None:
            return ("null",)
        case bool():
            return ("boolean",)
        case int():
            return ("integer", "number")
        case float():
            return ("number",)
        case str():
            return ("string",)
    return ("object",) if isinstance(value, Mapping) else ("array",)


def _parts(schema: Any, root: Mapping[str, Any], depth: int) -> Iterator[Mapping[str, Any]]:
    """Alternatives of a schema that name a single type each."""
    if not isinstance(schema, Mapping) or depth > _DEPTH_LIMIT:
        return
    kind = schema.get("type")
    if isinstance(kind, str):
        yield schema
    elif isinstance(kind, list):
        yield from ({**schema, "type": name} for name in kind)
    elif isinstance(reference := schema.get("$ref"), str):
        yield from _parts(_definition(reference, root), root, depth + 1)
    elif "enum" in schema or "const" in schema:
        for value in schema.get("enum", [schema.get("const")]):
            yield {"type": _types_of(value)[0]}
    else:
        for keyword in ("anyOf", "oneOf", "allOf"):
            for part in schema.get(keyword, ()):
                yield from _parts(part, root, depth + 1)
