"""Matching the calls of one turn with the accepted ones, as the Berkeley Function Calling Leaderboard (BFCL) does.

The code is ours. The verdicts are those of BFCL's AST checker for Python (`eval_checker/ast_eval/ast_checker.py` in the
bfcl_eval wheel 2026.3.23), oddities included, so that figures are comparable with published ones.
`tests/contracts/test_bfcl_checker.py` compares the two. The oddities:

- A parameter's value must have the schema's type, and an int passes for a float, but only at the top level. Inside
  lists the type must match exactly; inside objects it is not checked at all (there 1, 1.0 and True are equal).
- Text is compared without case, spaces and `,./-_*^`, as a parameter and one level down, not deeper.
- If "" allows a list to be left out, an empty list passes too, and the types inside a list are not checked.
- Accepted values of another type than the schema's (a variable's name in place of a list) are compared unchanged.

BFCL's schemas name one type for every parameter. Where a schema allows several, or names none, each accepted value is
compared by its own type, and null may be the same as leaving a parameter out: see `mentor_edge.tasks.parameter_types`.

Three differences are deliberate:

- Parallel calls are assigned to accepted calls with backtracking, so the order of the calls never matters. The checker
  is greedy and refuses the golden calls of parallel_178 in another order.
- In the irrelevance category, output that cannot be read is wrong. The checker counts it as "no call", so garbage
  scores 100 % there.
- Calls that make the checker raise are refused (for example, a list of objects that contains something else). Ints are
  compared with floats exactly, so that no int raises; the checker converts them to floats first, which gives the same
  verdicts up to 2**53.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mentor_edge.tasks.parameter_types import has_single_type, may_be_null, mixed_items, parameter_schema, schema_of
from mentor_edge.tools.schemas.time_limit import limited

# Both vocabularies: tasks contain the converted schemas, and the verdict must not depend on which of the two is given.
_PYTHON_TYPES: Mapping[str, type] = {
    "string": str, "any": str, "integer": int, "boolean": bool, "float": float, "number": float,
    "array": list, "tuple": list, "dict": dict, "object": dict,
}  # a table  # fmt: skip
_IGNORED_IN_STRINGS = re.compile(r"[ ,./\-_*^]")


@dataclass(frozen=True, slots=True)
class Match:
    """The verdict on the calls of one turn."""

    valid: bool
    """Whether the calls are right."""
    error_type: str | None = None
    """What is wrong, in one word: "unreadable", "unwanted_call", "wrong_count", "wrong_function", "missing_parameter",
    "unexpected_parameter", "wrong_value" or "no_assignment"."""


@limited()
def match_calls(
    category: str,
    functions: Sequence[Mapping[str, Any]],
    ground_truth: Sequence[Mapping[str, Any]],
    calls: Sequence[Mapping[str, Any]] | None,
) -> Match:
    """Compare the calls of one turn with the accepted ones.

    `functions` are the schemas offered (`name`, `parameters`), with BFCL's or JSON Schema's type names; the verdict is
    the same. `ground_truth` contains one `{function: {parameter: [accepted values]}}` per call. Each of `calls` is
    `{"name": text, "arguments": object}`. None means that the turn could not be read, which is never right; nor is a
    turn with a call of another form. The order of the calls does not matter. Never raises because of `calls`.
    """
    if not isinstance(calls, list | tuple) or not all(map(_is_call, calls)):
        return Match(False, "unreadable")
    if category == "irrelevance":
        return Match(False, "unwanted_call") if calls else Match(True)
    if len(calls) != len(ground_truth):
        return Match(False, "wrong_count")
    schemas = {function["name"]: function["parameters"] for function in functions}
    fits: list[list[int]] = []
    for call in calls:
        errors = [_call_error(call, accepted, schemas) for accepted in ground_truth]
        fits.append([index for index, error in enumerate(errors) if error is None])
        if not fits[-1]:
            # The accepted call of the same function explains best what is wrong with this one.
            return Match(False, next((error for error in errors if error != "wrong_function"), "wrong_function"))
    return Match(True) if _one_to_one(fits) else Match(False, "no_assignment")


def _is_call(call: Any) -> bool:
    return (
        isinstance(call, Mapping) and isinstance(call.get("name"), str) and isinstance(call.get("arguments"), Mapping)
    )


def _call_error(
    call: Mapping[str, Any], accepted: Mapping[str, Mapping[str, Any]], schemas: Mapping[str, Mapping[str, Any]]
) -> str | None:
    name, values = next(iter(accepted.items()))
    if call["name"] != name or name not in schemas:
        return "wrong_function"
    schema = schemas[name]
    required = schema.get("required", ())
    if any(parameter not in call["arguments"] for parameter in required):
        return "missing_parameter"
    properties = {key: parameter_schema(key, schema, schema) for key in (*values, *call["arguments"])}
    # Null for an optional parameter leaves it out; so does "" among the accepted values.
    omissible = {key for key, part in properties.items() if key not in required and may_be_null(part, schema)}
    arguments = {key: value for key, value in call["arguments"].items() if value is not None or key not in omissible}
    if any(properties[parameter] is None or parameter not in values for parameter in arguments):
        return "unexpected_parameter"
    if any(not _accepted(value, values[name], properties[name], schema) for name, value in arguments.items()):
        return "wrong_value"
    for parameter, options in values.items():
        if parameter not in arguments and "" not in options and not (None in options and parameter in omissible):
            return "missing_parameter"
    return None


def _python_type(schema: Any) -> type | None:
    """The Python type of the schema's values, or None if the schema names no type that BFCL knows."""
    return _PYTHON_TYPES.get(schema.get("type", "")) if isinstance(schema, Mapping) else None


def _accepted(value: Any, options: Sequence[Any], schema: Any, root: Mapping[str, Any]) -> bool:
    """Whether `value` is an accepted value of a parameter. "" in `options` means that it may be left out."""
    if not has_single_type(schema):
        stated = [option for option in options if option != ""] or [""]
        return any(_accepted(value, [option], schema_of(option, schema, root), root) for option in stated)
    schema_type = _python_type(schema)
    accepted_type = next((type(option) for option in options if option != ""), schema_type)
    value_type = float if schema_type is float and type(value) is int else type(value)
    if value_type not in (schema_type, accepted_type):
        return False
    if accepted_type is schema_type:
        if schema_type is str:
            return _plain(value) in map(_plain, options)
        if schema_type is dict:
            return any(_same_object(value, option) for option in options)
        if schema_type is list and (items := mixed_items(schema)) is not None:
            return any(_same_items(value, option, items, root) for option in options if isinstance(option, list))
        if schema_type is list:
            return _accepted_list(value, options, _python_type(schema.get("items")))
    return value in options


def _accepted_list(value: list[Any], options: Sequence[Any], item_type: type | None) -> bool:
    # The checker treats "" as an empty list whose items may have any type.
    fits = (item_type is None or isinstance(option, str) or _types_fit(value, option, item_type) for option in options)
    if not any(fits):
        return False
    if item_type is dict:
        return any(len(value) == len(option) and all(map(_same_object, value, option)) for option in options)
    return list(map(_plain, value)) in [list(map(_plain, option)) for option in options]


def _same_items(value: list[Any], option: list[Any], schema: Any, root: Mapping[str, Any]) -> bool:
    pairs = zip(value, option, strict=False)
    return len(value) == len(option) and all(_accepted(item, [accepted], schema, root) for item, accepted in pairs)


def _types_fit(value: list[Any], option: list[Any], schema_type: type) -> bool:
    accepted_type = next((type(item) for item in option if item != ""), schema_type)
    return all(type(item) in (schema_type, accepted_type) for item in value)


def _same_object(value: Any, option: Any) -> bool:
    """Whether `value` is an object that fits `option`, which lists the accepted values of each key."""
    return (
        isinstance(value, dict)
        and isinstance(option, dict)
        and all(key in option and _plain(item) in map(_plain, option[key]) for key, item in value.items())
        and all(key in value or "" in items for key, items in option.items())
    )


def _plain(value: Any) -> Any:
    """Text without case, spaces and some punctuation, and with one kind of quotes. Other values unchanged."""
    return _IGNORED_IN_STRINGS.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value


def _one_to_one(fits: Sequence[Sequence[int]]) -> bool:
    """Whether each call can be paired with a different accepted call: bipartite matching by augmenting paths (Kuhn).

    `fits[call]` lists the indexes of the accepted calls that fit.
    """
    call_of: dict[int, int] = {}

    def assign(call: int, tried: set[int]) -> bool:
        for accepted in fits[call]:
            if accepted not in tried:
                tried.add(accepted)
                if accepted not in call_of or assign(call_of[accepted], tried):
                    call_of[accepted] = call
                    return True
        return False

    return all(assign(call, set()) for call in range(len(fits)))
