"""Single-turn tasks of the Berkeley Function Calling Leaderboard (BFCL v4, Python) and the matching of calls.

Data: `BFCL_v4_<category>.json` and `possible_answer/BFCL_v4_<category>.json`, verbatim from the bfcl_eval wheel
2026.3.23 (ShishirPatil/gorilla, Apache-2.0). The rules are those of its AST checker; the code is ours. Where we differ:

- parallel calls are assigned to answers with backtracking, so the order of the calls never matters;
- an int is accepted for a float inside lists and objects too, and True never for 1 anywhere;
- an empty list is not taken for a parameter that may be left out;
- single quotes are not turned into double quotes before strings are compared;
- on irrelevance, output that cannot be read is wrong (there it counts as "no call").
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from mentor_edge.errors import TaskError
from mentor_edge.messages import Message
from mentor_edge.tasks.types import Suite, Task
from mentor_edge.tools.types import Tool

VERSION = "v4-2026.3.23"
CATEGORIES = ("simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance")

_JSON_SCHEMA_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
_IGNORED_IN_STRINGS = re.compile(r"[ ,./\-_*^]")
_Comparison = Callable[[Any, Any, Mapping[str, Any]], bool]


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
        accepted: dict[str, tuple[Mapping[str, Any], ...]] = {}
        if category != "irrelevance":
            answers = directory / "possible_answer" / name
            for where, row in _rows(answers):
                with _malformed(where):
                    accepted[row["id"]] = tuple(dict(call) for call in row["ground_truth"])
        for where, row in _rows(directory / name):
            with _malformed(where):
                truth = () if category == "irrelevance" else accepted[row["id"]]
                tasks.append(_task(row, category, truth))
    return Suite("bfcl", VERSION, tuple(tasks))


def match_calls(
    category: str,
    functions: Sequence[Mapping[str, Any]],
    ground_truth: Sequence[Mapping[str, Any]],
    calls: Sequence[Mapping[str, Any]] | None,
) -> Match:
    """Compare the calls of one turn with the accepted ones.

    `functions` are the schemas offered (`name`, `parameters`; BFCL's type names or JSON Schema's), `calls` are
    `{"name": ..., "arguments": {...}}`; None means that the turn could not be read, which is never right.
    The order of the calls does not matter. Never raises because of `calls`.
    """
    if calls is None:
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


def _accepted(value: Any, options: Sequence[Any], schema: Mapping[str, Any]) -> bool:
    return any(_same(value, option, schema) for option in options)


def _same(value: Any, option: Any, schema: Mapping[str, Any]) -> bool:
    """Whether `value` is what one accepted value says. Objects hold a list of accepted values per key, one level deep;
    whatever is below that is compared as it stands."""
    if isinstance(option, dict):
        if not isinstance(value, dict) or not value.keys() <= option.keys():
            return False
        properties = schema.get("properties", {})
        return all(
            any(_same_plain(value[key], item, properties.get(key, {})) for item in items)
            if key in value
            else "" in items
            for key, items in option.items()
        )
    if isinstance(option, list):
        return _same_items(value, option, schema, _same)
    return _same_plain(value, option, schema)


def _same_plain(value: Any, option: Any, schema: Mapping[str, Any]) -> bool:
    if isinstance(option, str):
        if option == "" and schema.get("type", "string") not in ("string", "any"):
            return False  # it says that the parameter may be left out, not that text may stand for a number
        return isinstance(value, str) and _bare(value) == _bare(option)
    if isinstance(option, list):
        return _same_items(value, option, schema, _same_plain)
    if isinstance(value, float) and type(option) is int and schema.get("type") not in ("float", "number"):
        return False  # a float where an int is wanted; an int where a float is wanted is fine
    return isinstance(value, bool) == isinstance(option, bool) and bool(value == option)


def _same_items(value: Any, option: list[Any], schema: Mapping[str, Any], same: _Comparison) -> bool:
    items = schema.get("items", {})
    return (
        isinstance(value, list)
        and len(value) == len(option)
        and all(same(given, wanted, items) for given, wanted in zip(value, option, strict=True))
    )


def _bare(text: str) -> str:
    return _IGNORED_IN_STRINGS.sub("", text).lower()


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


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(
            f"cannot read {path}: {error}", "give the folder that holds the BFCL_v4_*.json files"
        ) from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            with _malformed(where):
                row = json.loads(line)
            yield where, row


@contextmanager
def _malformed(where: str) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise TaskError(f"{where}: {error.args[0]!r} is missing") from error
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise TaskError(f"{where}: not a BFCL row ({error})") from error


def _task(row: Mapping[str, Any], category: str, accepted: tuple[Mapping[str, Any], ...]) -> Task:
    prompt = tuple(Message(message["role"], message["content"]) for message in row["question"][0])
    tools = tuple(
        Tool(function["name"], function["description"], _json_schema(function["parameters"]), _never_executed)
        for function in row["function"]
    )
    return Task(row["id"], prompt, tools, "ood", category, accepted_calls=accepted)


def _json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """`schema` with BFCL's type names turned into JSON Schema's, at every depth."""
    converted = dict(schema)
    converted["type"] = _JSON_SCHEMA_TYPES.get(schema["type"], schema["type"])
    if "properties" in schema:  # names of parameters, one of which may be "type"
        converted["properties"] = {name: _json_schema(part) for name, part in schema["properties"].items()}
    if "items" in schema:
        converted["items"] = _json_schema(schema["items"])
    return converted


def _never_executed(**arguments: Any) -> NoReturn:
    raise RuntimeError("this task is scored on the calls themselves; its tools have no implementation")
