"""BFCL in tests: its data, and golden answers and systematic corruptions of them, made from the ground truth.

Every corruption has a kind. Corruptions of the kinds in `REFUSED` are never right. BFCL's own checker decides which of
the others are right (another case, other punctuation, another order).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.paths import DATA, SHARED
from mentor_edge.tasks import bfcl
from mentor_edge.tasks.types import Task

Calls = list[dict[str, Any]]
Edit = tuple[str, Any]  # the kind of change, and the changed value

EXCERPT = DATA / "bfcl"
NO_ANSWER = "a text that no answer contains"
MARKS = " ,./-_*^" + "'\":!\t"  # comparing ignores the first eight

# Kinds that are always refused, with the reason. None if it depends on the other calls.
REFUSED = {
    "renamed function": "wrong_function",
    "call of another function": None,
    "dropped call": "wrong_count",
    "extra call": "wrong_count",
    "duplicated call": "wrong_count",
    "dropped required parameter": "missing_parameter",
    "unknown parameter": "unexpected_parameter",
    "renamed parameter": None,
    "wrong value": "wrong_value",
    "nested wrong value": "wrong_value",
    "rounded value": None,
    "nested rounded value": None,
}


def data_directory(name: str) -> Path:
    """The "excerpt" in tests/data, or the "full" data; without them the test is skipped."""
    if name == "excerpt":
        return EXCERPT
    path = SHARED / "bfcl"
    if not path.is_dir():
        pytest.skip("the BFCL files are missing: set MENTOR_EDGE_DATA to a folder that contains bfcl/")
    return path


def native_functions(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """The functions of every task, by task id, as BFCL writes them, with its own type names."""
    files = [(directory / f"BFCL_v4_{category}.json").read_text(encoding="utf-8") for category in bfcl.CATEGORIES]
    rows = [json.loads(line) for text in files for line in text.splitlines() if line.strip()]
    return {row["id"]: row["function"] for row in rows}


# Golden answers


def golden(task: Task, *, optional: bool = True) -> Calls:
    """Calls with the first accepted value of every parameter, or only of required ones without `optional`."""
    calls = []
    for accepted in task.accepted_calls or ():
        ((name, values),) = accepted.items()
        schema = task.tools_by_name[name].parameters
        arguments = {}
        for parameter, options in values.items():
            stated = [reading for option in options if option != "" for reading in readings(option)]
            may_be_missing = "" in options and parameter not in schema.get("required", ())
            # Two of BFCL's answers accept a parameter that the function does not have.
            if parameter in schema["properties"] and (not may_be_missing or (optional and stated)):
                arguments[parameter] = stated[0] if stated else ""
        calls.append({"name": name, "arguments": arguments})
    return calls


def golden_answers(task: Task) -> Iterator[Calls]:
    """Calls with and without optional parameters, then with every other accepted value, one at a time."""
    full = golden(task)
    yield full
    yield golden(task, optional=False)
    for i, accepted in enumerate(task.accepted_calls or ()):
        (values,) = accepted.values()
        for parameter in full[i]["arguments"]:
            stated = [reading for option in values[parameter] if option != "" for reading in readings(option)]
            yield from (with_argument(full, i, parameter, reading) for reading in stated[1:])


def readings(option: Any) -> list[Any]:
    """The values that match one accepted value.

    An object lists the accepted values of each key, where "" means that the key may be left out. The first reading
    takes the first of each; the others differ from it in one key.
    """
    if isinstance(option, dict):
        first = {key: items[0] for key, items in option.items() if items[0] != ""}
        others = [first | {key: item} for key, items in option.items() for item in items[1:] if item != ""]
        return [first, *others]
    if isinstance(option, list) and option and isinstance(option[0], dict):
        first_of_each = [readings(item)[0] for item in option]
        return [first_of_each] + [
            replaced(first_of_each, i, reading) for i, item in enumerate(option) for reading in readings(item)[1:]
        ]
    return [option]


# Corruptions


def corruptions(task: Task) -> Iterator[tuple[str, Calls]]:
    """(kind, calls) for every change to the full golden answer, one at a time."""
    calls = golden(task)
    yield from _changed_calls(calls, task)
    for i, call in enumerate(calls):
        for kind, changed in _changed_call(call, task):
            yield kind, replaced(calls, i, changed)
        for parameter, value in call["arguments"].items():
            for kind, changed in edits(value):
                yield kind, with_argument(calls, i, parameter, changed)


def _changed_calls(calls: Calls, task: Task) -> Iterator[tuple[str, Calls]]:
    yield "dropped call", []
    yield "reordered calls", calls[::-1]
    yield "reordered calls", calls[1:] + calls[:1]
    yield "extra call", [*calls, {"name": "a_function_of_no_task", "arguments": {}}]
    yield from (("extra call", [{"name": tool.name, "arguments": {}}, *calls]) for tool in task.tools)
    for i, call in enumerate(calls):
        yield "dropped call", calls[:i] + calls[i + 1 :]
        yield "duplicated call", [*calls, call]
        if len(calls) > 1:
            yield "call in place of another", replaced(calls, i, calls[i - 1])
            yield "arguments of another call", replaced(calls, i, call | {"arguments": calls[i - 1]["arguments"]})


def _changed_call(call: dict[str, Any], task: Task) -> Iterator[tuple[str, dict[str, Any]]]:
    name, arguments = call["name"], call["arguments"]
    names = {f"{name}_v2", name.swapcase(), name.replace(".", "_"), f"module.{name}", name[1:], ""} - {name}
    yield from (("renamed function", call | {"name": new}) for new in sorted(names))
    others = {tool.name for tool in task.tools} - {name}
    yield from (("call of another function", call | {"name": other}) for other in sorted(others))
    required = task.tools_by_name[name].parameters.get("required", ())
    for parameter, value in arguments.items():
        left = {key: kept for key, kept in arguments.items() if key != parameter}
        kind = "required" if parameter in required else "optional"
        yield f"dropped {kind} parameter", call | {"arguments": left}
        yield "renamed parameter", call | {"arguments": left | {f"{parameter}_v2": value}}
    yield "unknown parameter", call | {"arguments": arguments | {"a_parameter_of_no_function": 1}}


def edits(value: Any) -> Iterator[Edit]:
    """Every change to one value, and to the values inside it, at every depth."""
    for other in (None, [value], {"value": value}, "", [], NO_ANSWER, json.dumps(value)):
        if other != value:
            yield "another type", other
    if isinstance(value, str):
        yield from _text_edits(value)
    elif isinstance(value, bool | int | float):
        yield from _number_edits(value)
    elif isinstance(value, list):
        yield "wrong value", [*value, NO_ANSWER]
        yield from (("reordered list", other) for other in (value[::-1], value[1:] + value[:1]) if other != value)
        yield from (("shorter list", other) for other in (value[1:], value[:-1]) if value)
        yield from (("longer list", [*value, item]) for item in value[-1:])
        for i, item in enumerate(value):
            yield from ((_nested(kind), replaced(value, i, other)) for kind, other in edits(item))
    elif isinstance(value, dict):
        yield "wrong value", value | {NO_ANSWER: 1}
        yield "another type", list(value.items())
        for key, item in value.items():
            yield "dropped key", {other: kept for other, kept in value.items() if other != key}
            yield from ((_nested(kind), value | {key: other}) for kind, other in edits(item))


def _nested(kind: str) -> str:
    return f"nested {kind.removeprefix('nested ')}"


def _text_edits(value: str) -> Iterator[Edit]:
    yield "wrong value", f"{value} {NO_ANSWER}"
    cases = {value.upper(), value.lower(), value.swapcase(), value.title()}
    yield from (("case", other) for other in sorted(cases - {value}))
    marks = {f"{value}{mark}" for mark in MARKS} | {value.replace(mark, "") for mark in MARKS}
    marks |= {value.replace("'", '"'), value.replace(" ", "_"), value.replace("-", "/")}
    yield from (("punctuation", other) for other in sorted(marks - {value}))


def _number_edits(value: bool | int | float) -> Iterator[Edit]:
    yield "wrong value", 987654321 if type(value) is int else 9876543.25 if isinstance(value, float) else NO_ANSWER
    yield from (("changed value", other) for other in (value + 1, -value, value * 1.001) if other != value)
    if isinstance(value, float):
        rounded = {round(value), round(value, 1), round(value, 2), float(f"{value:.2g}")}
        yield from (("rounded value", other) for other in sorted(rounded - {value}))
    elif round(value, -1) != value:
        yield "rounded value", round(value, -1)
    same = (int(value), float(value), bool(value)) if value in (0, 1) else (int(value), float(value))
    yield from (("number type", other) for other in same if other == value and type(other) is not type(value))
    yield "number type", not value


def replaced(items: list[Any], index: int, item: Any) -> list[Any]:
    return [*items[:index], item, *items[index + 1 :]]


def with_argument(calls: Calls, index: int, parameter: str, value: Any) -> Calls:
    call = calls[index]
    return replaced(calls, index, call | {"arguments": call["arguments"] | {parameter: value}})
