"""Constraints of one schema that no value can fulfil together, as people and programs write them by mistake.

What its author wanted is clear from the rest, so the others count, and a note says which one does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator

_IN_SLASHES = re.compile(r"/(?P<pattern>\^.*|.*(?<!\\)\$)/(?P<flags>[dgimsuvy]*)", re.DOTALL)
_BOUNDS = (
    ("minimum", "maximum"),
    ("minLength", "maxLength"),
    ("minItems", "maxItems"),
    ("minProperties", "maxProperties"),
)
_OTHER_PROPERTIES = {"patternProperties", "allOf", "anyOf", "oneOf", "$ref"}
_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")


def resolve(read: dict[str, Any], *, is_root: bool) -> Iterator[str]:
    """Change the keywords of one schema so that values can fulfil them. Yields a note for each change.

    The root stays an object.
    """
    if not is_root:
        yield from _type_of_choices(read)
    yield from _bounds(read)
    yield from _required(read)


def without_slashes(pattern: str) -> str:
    """A pattern that was written as in JavaScript's code, `/^a/i`. As it is, nothing could match it: a `/` would have
    to be before the start of the text, or after its end. Other patterns stay as they are."""
    written = _IN_SLASHES.fullmatch(pattern)
    if written is None:
        return pattern
    return f"(?i){written['pattern']}" if "i" in written["flags"] else written["pattern"]


def _type_of_choices(read: dict[str, Any]) -> Iterator[str]:
    """`{"type": "integer", "enum": ["1", "2"]}`: Gemini's API takes only text in an `enum`."""
    choices = read["enum"] if "enum" in read else [read["const"]] if "const" in read else []
    stated = read.get("type", [])
    types = [stated] if isinstance(stated, str) else stated
    values = [choice for choice in choices if choice is not None] or choices
    if types and values and not any(_has_type(value, kind) for value in values for kind in types):
        own = list(dict.fromkeys(next(kind for kind in _TYPES if _has_type(choice, kind)) for choice in choices))
        read["type"] = own[0] if len(own) == 1 else own
        yield f"no value of its {'enum' if 'enum' in read else 'const'} is of type {stated!r}; the values count"


def _has_type(value: Any, kind: str) -> bool:
    return bool(Draft202012Validator.TYPE_CHECKER.is_type(value, kind))


def _bounds(read: dict[str, Any]) -> Iterator[str]:
    for lowest, highest in _BOUNDS:
        if lowest in read and highest in read and read[lowest] > read[highest]:
            yield f"{lowest} {read.pop(lowest)} is above {highest} {read.pop(highest)}, and neither is checked"


def _required(read: dict[str, Any]) -> Iterator[str]:
    if read.get("additionalProperties") is not False or read.keys() & _OTHER_PROPERTIES:
        return
    for name in [name for name in read.get("required", ()) if name not in read.get("properties", {})]:
        read["required"] = [other for other in read["required"] if other != name]
        yield f"{name!r} is required, but does not exist; it is not required"
