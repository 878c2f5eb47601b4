"""Checks arguments against a schema that `reading` has read.

jsonschema does the work. Replaced are what it computes inexactly (`multipleOf` in binary fractions), what it matches
with Python's `re` (patterns), and what could take too long: schemas come from other programs.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import jsonschema
from jsonschema.validators import extend
from referencing import Registry

from mentor_edge.tools.schemas.patterns import TooSlow, matches

SECONDS = 1.0
"""Processor time that the check of one call may take: a busy machine must not change verdicts."""

Errors = Iterator[jsonschema.ValidationError]
_deadline = threading.local()


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
        """Why `arguments` do not fit, in one line, or None if they fit."""
        _deadline.at = time.thread_time() + SECONDS
        try:
            error = next(iter(self._validator.iter_errors(dict(arguments))), None)
        except RecursionError:
            return "they are nested too deeply"
        except TooSlow as slow:
            return str(slow)
        if error is None:
            return None
        where = ".".join(str(part) for part in error.absolute_path)
        return f"{where}: {error.message}" if where else error.message


def is_multiple(value: float, of: float) -> bool:
    """Whether `value` is a multiple of `of`, both taken as the decimal numbers that JSON wrote."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return (_exact(value) / _exact(of)).denominator == 1


def _exact(number: float) -> Fraction:
    return Fraction(repr(number)) if isinstance(number, float) else Fraction(number)


def _multiple_of(validator: Any, of: Any, instance: Any, schema: Any) -> Errors:
    if validator.is_type(instance, "number") and not is_multiple(instance, of):
        yield jsonschema.ValidationError(f"{instance!r} is not a multiple of {of}")


def _check_time() -> None:
    if time.thread_time() > _deadline.at:
        raise TooSlow(f"they cannot be compared with the schema within {SECONDS:g} s")


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Errors:
    _check_time()
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


_reference = jsonschema.Draft202012Validator.VALIDATORS["$ref"]


def _limited_reference(validator: Any, reference: str, instance: Any, schema: Any) -> Errors:
    """Only definitions that contain themselves are left as references, and only they can repeat work without limit."""
    _check_time()
    yield from _reference(validator, reference, instance, schema)


_Validator = extend(
    jsonschema.Draft202012Validator,
    {
        "multipleOf": _multiple_of,
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "$ref": _limited_reference,
    },
)
_WithoutPatterns = extend(_Validator, {"pattern": lambda *_: ()})
