"""Checks arguments against a schema that `reading` has read.

jsonschema does the work. Replaced are what it computes inexactly (`multipleOf` in binary fractions), what it matches
with Python's `re` (patterns), and what could take too long: schemas come from other programs. Every keyword asks for
the time that is left, and reports one error at most, because the first one refuses the call.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import jsonschema
from jsonschema.validators import extend
from referencing import Registry

from mentor_edge.readable import one_line
from mentor_edge.tools.schemas.patterns import matches
from mentor_edge.tools.schemas.time_limit import TooSlow, limited, seconds_left

MESSAGE_LIMIT = 500
"""Characters of an error. It quotes arguments and schemas, whose length has no useful limit."""

_DEPTH_LIMIT = 200
"""Keywords in keywords. Python allows about three times as many before its stack is full."""

_UNEVALUATED_LIMIT = 256
"""Values of an object or list beside `unevaluatedProperties` or `unevaluatedItems`, which take quadratic time."""

Errors = Iterator[jsonschema.ValidationError]
Keyword = Callable[[Any, Any, Any, Any], Errors | None]


class _Depth(threading.local):
    value = 0


_depth = _Depth()


class ArgumentChecker:
    """Checks arguments against the schema `parameters`.

    Args:
        parameters: what `read_schema` returned.
        patterns: whether to check patterns; pydantic checks those of Python functions itself.
    """

    def __init__(self, parameters: Mapping[str, Any], *, patterns: bool = True) -> None:
        kind = _Validator if patterns else _WithoutPatterns
        self._validator = kind(dict(parameters), registry=Registry())

    def problem(self, arguments: Mapping[str, Any]) -> str | None:
        """Why `arguments` do not fit, in one line of at most `MESSAGE_LIMIT` characters, or None if they fit."""
        _depth.value = 0
        try:
            with limited():
                error = next(iter(self._validator.iter_errors(dict(arguments))), None)
        except RecursionError:
            return "they are nested too deeply"
        except TooSlow as slow:
            return str(slow)
        except ValueError:  # Python writes no integer of more than 4300 digits
            return "they contain a number that is too long"
        if error is None:
            return None
        where = ".".join(str(part) for part in error.absolute_path)
        return one_line(f"{where}: {error.message}" if where else error.message, MESSAGE_LIMIT)


def is_multiple(value: float, of: float) -> bool:
    """Whether `value` is a multiple of `of`, both taken as the decimal numbers that JSON wrote."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return (_exact(value) / _exact(of)).denominator == 1


def _exact(number: float) -> Fraction:
    return Fraction(repr(number)) if isinstance(number, float) else Fraction(number)


# Keywords -------------------------------------------------------------------------------------------------------------


def _multiple_of(validator: Any, of: Any, instance: Any, schema: Any) -> Errors:
    if validator.is_type(instance, "number") and not is_multiple(instance, of):
        yield jsonschema.ValidationError(f"{instance!r} is not a multiple of {of}")


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Errors:
    if isinstance(instance, str) and not matches(pattern, instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any) -> Errors:
    if isinstance(instance, dict):
        for pattern, inner in patterns.items():
            for key, value in instance.items():
                if matches(pattern, key):
                    yield from validator.descend(value, inner, path=key, schema_path=pattern)


def _additional_properties(validator: Any, rest: Any, instance: Any, schema: Any) -> Errors:
    if not isinstance(instance, dict):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for key, value in instance.items():
        if key not in known and not any(matches(pattern, key) for pattern in patterns):
            if rest is False:
                message = f"Additional properties are not allowed ({key!r} was unexpected)"
                yield jsonschema.ValidationError(message)
            else:
                yield from validator.descend(value, rest, path=key)


def _unique_items(validator: Any, unique: bool, instance: Any, schema: Any) -> Errors:
    seen: set[str] = set()  # of texts, whose hashes nobody can choose
    for item in instance if unique and isinstance(instance, list) else ():
        seconds_left()
        text = json.dumps(_comparable(item), sort_keys=True)
        if text in seen:
            yield jsonschema.ValidationError(f"{instance!r} has non-unique elements")
        seen.add(text)


def _comparable(value: Any) -> Any:
    """`value` with 1 for 1.0, which are equal in JSON Schema."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _comparable(item) for key, item in value.items()}
    return [_comparable(item) for item in value] if isinstance(value, list) else value


def _few_unevaluated(check: Keyword) -> Keyword:
    def limited_check(validator: Any, rest: Any, instance: Any, schema: Any) -> Errors:
        if isinstance(instance, dict | list) and len(instance) > _UNEVALUATED_LIMIT:
            raise TooSlow(f"they contain more than {_UNEVALUATED_LIMIT} values where unevaluated ones are refused")
        yield from check(validator, rest, instance, schema) or ()

    return limited_check


def _bounded(check: Keyword) -> Keyword:
    """A keyword that stops when the time is up or the values are nested too deeply, and reports the first error."""

    def bounded_check(validator: Any, value: Any, instance: Any, schema: Any) -> Errors:
        seconds_left()
        _depth.value += 1
        try:
            if _depth.value > _DEPTH_LIMIT:
                raise RecursionError
            for error in check(validator, value, instance, schema) or ():
                error.message = one_line(error.message, MESSAGE_LIMIT)
                error.args = ()  # they have the whole message, and `anyOf` keeps the errors of all its schemas
                yield error
                return
        finally:
            _depth.value -= 1

    return bounded_check


_JSONSCHEMA = jsonschema.Draft202012Validator.VALIDATORS
_KEYWORDS: Mapping[str, Keyword] = {
    **_JSONSCHEMA,
    "multipleOf": _multiple_of,
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
    "unevaluatedProperties": _few_unevaluated(_JSONSCHEMA["unevaluatedProperties"]),
    "unevaluatedItems": _few_unevaluated(_JSONSCHEMA["unevaluatedItems"]),
}
_Validator = extend(jsonschema.Draft202012Validator, {name: _bounded(check) for name, check in _KEYWORDS.items()})
_WithoutPatterns = extend(_Validator, {"pattern": lambda *_: ()})
