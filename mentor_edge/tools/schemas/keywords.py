"""Which values the keywords of JSON Schema may have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

ANNOTATIONS = frozenset(
    {"title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly", "$comment",
     "format", "contentMediaType", "contentEncoding"}
)  # a table  # fmt: skip
"""Keywords that describe, and constrain nothing."""
COUNTS = frozenset(
    {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains"}
)
BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def is_json(value: Any) -> bool:
    """Whether JSON can express `value`. Python reads NaN and infinities, and others do not."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def is_valid(keyword: str, value: Any) -> bool:
    """Whether `value` can be the value of a constraint."""
    if keyword in COUNTS:
        return is_number(value) and value >= 0 and value == int(value)
    if keyword in BOUNDS:
        return is_number(value) and (value > 0 or keyword != "multipleOf")
    match keyword:
        case "enum":
            return isinstance(value, list) and bool(value) and is_json(value)
        case "uniqueItems" | "deprecated" | "readOnly" | "writeOnly":
            return isinstance(value, bool)
        case "examples":
            return isinstance(value, list) and is_json(value)
        case "const" | "default" | "example":
            return is_json(value)
        case "dependentRequired":
            return isinstance(value, Mapping) and all(map(is_list_of_names, value.values()))
    return keyword in ANNOTATIONS and isinstance(value, str)
