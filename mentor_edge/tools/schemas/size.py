"""How large a schema may be, and how often its definitions may multiply. Schemas come from other programs and files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mentor_edge.readable import has_surrogates
from mentor_edge.rows import shown
from mentor_edge.tools.schemas.references import IN_PLACE, SchemaError, children

SIZE_LIMIT = 250_000
"""Characters of text and of names in a schema, and as many values."""

DEPTH_LIMIT = 100
"""How deeply the values of a schema may be nested, and how many schemas may refer to one another in a row."""

WORK_LIMIT = 10_000
"""How many schemas one value may be compared with."""

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What no name may contain: control characters, those that turn the direction of text, halves of surrogate pairs."""

_DIGITS_LIMIT = 4_300
"""Python does not write longer numbers."""


def size_problem(schema: Any) -> str | None:
    """Why `schema` is too large or cannot be written: the end of a sentence about it. None: it is neither."""
    size = 0
    waiting = [(schema, 1)]
    while waiting:
        value, depth = waiting.pop()
        size += 1
        inner: list[Any] = []
        if isinstance(value, str):
            size += len(value)
            if has_surrogates(value):
                return f"it contains half of a surrogate pair: {shown(value)}"
        elif isinstance(value, Mapping):
            if not all(isinstance(name, str) for name in value):
                return "it contains a name that is not text"
            inner = [*value.values(), *value]
        elif isinstance(value, list):
            inner = value
        elif isinstance(value, int) and value.bit_length() > 3.3 * _DIGITS_LIMIT:
            return f"it contains a number of more than {_DIGITS_LIMIT} digits"
        if size + len(inner) > SIZE_LIMIT:
            return f"it has more than {SIZE_LIMIT} characters and values"
        if inner and depth > DEPTH_LIMIT:
            return "it is nested too deeply"
        waiting += [(part, depth + 1) for part in inner]
    return None


def check_work(schema: Mapping[str, Any]) -> None:
    """Count the schemas that one value is compared with, definitions included.

    Raises: SchemaError when they are too many.
    """
    definitions: Mapping[str, Any] = schema.get("$defs", {})
    known: dict[int, int] = {}

    def work(part: Any, depth: int) -> int:
        if not isinstance(part, Mapping):
            return 1
        if id(part) not in known:
            if depth > DEPTH_LIMIT:
                raise SchemaError("it is nested too deeply")
            same_value = [child for keyword, child in children(part) if keyword in IN_PLACE]
            if isinstance(reference := part.get("$ref"), str):
                name = reference.removeprefix("#/$defs/")
                same_value.append(schema if reference == "#" else definitions.get(name, {}))
            count = 1 + sum(work(child, depth + 1) for child in same_value)
            if "unevaluatedProperties" in part or "unevaluatedItems" in part:  # compared again to find what is left
                count *= 3
            if count > WORK_LIMIT:
                raise SchemaError(
                    f"its parts multiply: one value would be compared with more than {WORK_LIMIT} schemas"
                )
            known[id(part)] = count
        return known[id(part)]

    waiting: list[Mapping[str, Any]] = [schema, *(part for part in definitions.values() if isinstance(part, Mapping))]
    while waiting:
        part = waiting.pop()
        work(part, 0)
        waiting += [child for _, child in children(part)]
