"""Checks JSON Schemas of tool arguments that come from files and servers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012


def schema_problem(schema: Mapping[str, Any]) -> str | None:
    """Why arguments cannot be checked against `schema`, in one line, or None if they can.

    Nothing is fetched: a reference to another document counts as unresolvable.
    """
    if schema.get("type") != "object":
        return f"its type is {schema.get('type')!r}, not 'object'"
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.Draft202012Validator(schema, registry=Registry()).is_valid({})
        resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
        for reference in _references(schema):
            resolver.lookup(reference)
    except jsonschema.SchemaError as error:
        path = ".".join(str(part) for part in error.absolute_path)
        return f"{path}: {error.message}" if path else error.message
    except Unresolvable as error:
        return f"the reference {error.ref!r} cannot be resolved"
    except RecursionError:
        return "it refers to itself without end"
    return None


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key == "$ref" and isinstance(value, str):
                yield value
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)
