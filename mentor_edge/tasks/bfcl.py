"""Single-turn tasks of the Berkeley Function Calling Leaderboard (BFCL v4, Python) and the matching of calls.

Data: `BFCL_v4_<category>.json` and `possible_answer/BFCL_v4_<category>.json`, verbatim from the bfcl_eval wheel
2026.3.23 (ShishirPatil/gorilla, Apache-2.0). The code is ours; the verdicts are those of its AST checker for Python
(`eval_checker/ast_eval/ast_checker.py`), oddities included, so that figures can be compared with published ones:

- a parameter's value must have the schema's type, and an int will do for a float, but only at the top: inside lists
  the type counts as it is, and inside objects not at all (there 1, 1.0 and True are equal);
- text is compared without case, spaces and `,./-_*^`, as a parameter and one level down, not deeper;
- where "" says that a list may be left out, an empty list passes too, and the types inside a list are not looked at;
- answers of another type than the schema's (a variable's name in place of a list) are compared as they stand.

Three differences are meant:

- parallel calls are assigned to answers with backtracking, so the order of the calls never matters; the checker is
  greedy and refuses the golden calls of parallel_178 in another order;
- on irrelevance, output that cannot be read is wrong; there it counts as "no call", and garbage scores 100 %;
- what makes the checker raise is refused (a list of objects that holds something else, say); so that no int does, ints
  are compared with floats as they are, where the checker makes floats of them first (equal up to 2**53).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from mentor_edge.messages import Message
from mentor_edge.rows import field, read_rows
from mentor_edge.tasks.types import AgentLimits, Suite, Task
from mentor_edge.tools.types import Tool

VERSION = "v4-2026.3.23"
LIMITS = AgentLimits(tool_rounds=0, tokens_per_turn=256, completion_tokens=512)
"""Limits of one conversation: one turn, no call is executed."""
CATEGORIES = ("simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance")

_JSON_SCHEMA_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
# Both vocabularies: tasks hold the converted schemas, and matching must not depend on which of the two it is given.
_PYTHON_TYPES: Mapping[str, type] = {
    "string": str, "any": str, "integer": int, "boolean": bool, "float": float, "number": float,
    "array": list, "tuple": list, "dict": dict, "object": dict,
}  # a table  # fmt: skip
_IGNORED_IN_STRINGS = re.compile(r"[ ,./\-_*^]")


@dataclass(frozen=True, slots=True)
class Match:
    """Whether calls are right, and if not, why in one word: "unreadable", "unwanted_call", "wrong_count",
    "wrong_function", "missing_parameter", "unexpected_parameter", "wrong_value" or "no_assignment"."""

    valid: bool
    error_type: str | None = None


def load(directory: str | Path) -> Suite:
    """Read the five categories as one suite: split "ood", domain = category, schemas in plain JSON Schema.

    `accepted_calls` is BFCL's ground truth, one `{function: {parameter: [accepted values]}}` per call; it is empty for
    irrelevance, where no call is right. The tools cannot be executed: score the calls of the first turn.

    Raises: TaskError when a file is missing or malformed.
    """
    directory = Path(directory)
    tasks: list[Task] = []
    for category in CATEGORIES:
        name = f"BFCL_v4_{category}.json"
        accepted: dict[str, Sequence[Any]] = {}
        if category != "irrelevance":
            accepted = dict(read_rows(directory / "possible_answer" / name, _answer, what="BFCL answers"))
        parse = partial(_task, category=category, accepted=accepted)
        tasks += read_rows(directory / name, parse, what="BFCL tasks")
    return Suite("bfcl", VERSION, tuple(tasks), LIMITS)


def match_calls(
    category: str,
    functions: Sequence[Mapping[str, Any]],
    ground_truth: Sequence[Mapping[str, Any]],
    calls: Sequence[Mapping[str, Any]] | None,
) -> Match:
    """Compare the calls of one turn with the accepted ones.

    `functions` are the schemas offered (`name`, `parameters`; BFCL's type names or JSON Schema's, the verdict is the
    same), `calls` are `{"name": text, "arguments": object}`. None means that the turn could not be read, which is never
    right; neither is a turn with a call of another form. The order of the calls does not matter. Never raises because
    of `calls`.
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
            # The answer that names the same function explains best what is wrong with this call.
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
    arguments, schema = call["arguments"], schemas[name]
    properties = schema.get("properties", {})
    if any(parameter not in arguments for parameter in schema.get("required", ())):
        return "missing_parameter"
    if any(parameter not in properties or parameter not in values for parameter in arguments):
        return "unexpected_parameter"
    if any(not _accepted(value, values[name], properties[name]) for name, value in arguments.items()):
        return "wrong_value"
    # "" among the accepted values means that the parameter may be left out.
    if any(parameter not in arguments and "" not in options for parameter, options in values.items()):
        return "missing_parameter"
    return None


def _python_type(schema: Any) -> type | None:
    """What values of the schema's type are in Python; None where it names none that BFCL knows."""
    return _PYTHON_TYPES.get(schema.get("type", "")) if isinstance(schema, Mapping) else None


def _accepted(value: Any, options: Sequence[Any], schema: Mapping[str, Any]) -> bool:
    """Whether `value` is one of the accepted values of a parameter; "" among them says that it may be left out."""
    wanted = _python_type(schema)
    answered = next((type(option) for option in options if option != ""), wanted)
    given = float if wanted is float and type(value) is int else type(value)
    if given not in (wanted, answered):
        return False
    if answered is wanted:
        if wanted is str:
            return _plain(value) in map(_plain, options)
        if wanted is dict:
            return any(_same_object(value, option) for option in options)
        if wanted is list:
            return _accepted_list(value, options, _python_type(schema.get("items")))
    return value in options


def _accepted_list(value: list[Any], options: Sequence[Any], wanted: type | None) -> bool:
    # The checker takes "" for a list that any types fit and that has no items.
    fits = (wanted is None or isinstance(option, str) or _types_fit(value, option, wanted) for option in options)
    if not any(fits):
        return False
    if wanted is dict:
        return any(len(value) == len(option) and all(map(_same_object, value, option)) for option in options)
    return list(map(_plain, value)) in [list(map(_plain, option)) for option in options]


def _types_fit(value: list[Any], option: list[Any], wanted: type) -> bool:
    answered = next((type(item) for item in option if item != ""), wanted)
    return all(type(item) in (wanted, answered) for item in value)


def _same_object(value: Any, option: Any) -> bool:
    """Whether `value` is an object that `option` describes by the accepted values of its keys."""
    return (
        isinstance(value, dict)
        and isinstance(option, dict)
        and all(key in option and _plain(item) in map(_plain, option[key]) for key, item in value.items())
        and all(key in value or "" in items for key, items in option.items())
    )


def _plain(value: Any) -> Any:
    """Text as it is compared: without case, spaces and some punctuation, one kind of quotes. The rest as it is."""
    return _IGNORED_IN_STRINGS.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value


def _one_to_one(fits: Sequence[Sequence[int]]) -> bool:
    """Whether every call can get an answer of its own: bipartite matching by augmenting paths (Kuhn)."""
    holder: dict[int, int] = {}

    def place(call: int, tried: set[int]) -> bool:
        for answer in fits[call]:
            if answer not in tried:
                tried.add(answer)
                if answer not in holder or place(holder[answer], tried):
                    holder[answer] = call
                    return True
        return False

    return all(place(call, set()) for call in range(len(fits)))


def _answer(row: Any) -> tuple[str, list[Any]]:
    return field(row, "id", str), field(row, "ground_truth", list)


def _task(row: Any, category: str, accepted: Mapping[str, Sequence[Any]]) -> Task:
    """Raises: ValueError for what is no BFCL task, or has no answer."""
    identity = field(row, "id", str)
    if category != "irrelevance" and identity not in accepted:
        raise ValueError(f"id: {identity!r} has no answer in possible_answer/")
    try:
        prompt = tuple(Message(message["role"], message["content"]) for message in row["question"][0])
        tools = tuple(
            Tool(function["name"], function["description"], _json_schema(function["parameters"]), never_executed)
            for function in row["function"]
        )
        truth = tuple(dict(call) for call in accepted.get(identity, ()))
    except KeyError as error:
        raise ValueError(f"{error.args[0]!r} is missing") from error
    except (AttributeError, IndexError, TypeError) as error:
        raise ValueError(f"not a BFCL row ({error})") from error
    return Task(identity, prompt, tools, "ood", category, accepted_calls=truth)


def _json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """`schema` with BFCL's type names turned into JSON Schema's, at every depth."""
    converted = dict(schema)
    converted["type"] = _JSON_SCHEMA_TYPES.get(schema["type"], schema["type"])
    if "properties" in schema:  # names of parameters, one of which may be "type"
        converted["properties"] = {name: _json_schema(part) for name, part in schema["properties"].items()}
    if "items" in schema:
        converted["items"] = _json_schema(schema["items"])
    return converted


def never_executed(**arguments: Any) -> NoReturn:
    raise RuntimeError("this task is scored on the calls themselves; its tools have no implementation")
