"""Schemas that nobody vouches for: no check takes longer than its limit, and nothing is run or fetched.

Each attack is tried in one child process with a limit on its memory, through the public surface: `Tool(...)`, its
`argument_error`, and what an endpoint would be sent.
"""

from __future__ import annotations

import functools
import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mentor_edge.errors import MentorEdgeError, TaskError
from mentor_edge.tasks import jsonl
from mentor_edge.tools.schemas import patterns, time_limit
from mentor_edge.tools.types import Tool

SECONDS = 1.0  # of processor time that an attack may take when a check may take a thirtieth of that
MEMORY_BYTES = 1024**3
DRAFT_7 = "http://json-schema.org/draft-07/schema#"
Attack = Callable[[], tuple[Any, dict[str, Any]]]


def of(x: Any, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": x}, **more}


def nested(times: int, wrap: Callable[[Any], Any], inside: Any) -> Any:
    return functools.reduce(lambda value, _: wrap(value), range(times), inside)


def chain(length: int, link: Callable[[Mapping[str, str]], Any]) -> dict[str, Any]:
    """Definitions that refer to one another; each one is made of a reference to the one before."""
    definitions: dict[str, Any] = {"D0": {"type": "object"}}
    for number in range(1, length):
        definitions[f"D{number}"] = link({"$ref": f"#/$defs/D{number - 1}"})
    return of({"$ref": f"#/$defs/D{length - 1}"}, **{"$defs": definitions})


def with_itself(definition: Any) -> dict[str, Any]:
    return of({"$ref": "#/$defs/A"}, **{"$defs": {"A": definition}})


SELF = {"$ref": "#/$defs/A"}
BOMB = "^(a+)+$"
HUGE = 10**100_000
DEEP = nested(5_000, lambda value: [value], 1)
MANY_KEYS = {f"k{number}": number for number in range(100_000)}
MANY_OBJECTS = [{"a": number} for number in range(100_000)]
DENSE = {
    f"D{i}": {"properties": {f"q{j}": {"$ref": f"#/$defs/D{(i * 7 + j * 13) % 990}"} for j in range(9)}}
    for i in range(990)
}

ATTACKS: Mapping[str, Attack] = {
    # Patterns
    "nested repetitions": lambda: (of({"pattern": BOMB}), {"x": "a" * 28 + "!"}),
    "nested repetitions, long text": lambda: (of({"pattern": BOMB}), {"x": "a" * 10**6 + "!"}),
    "alternatives that overlap": lambda: (of({"pattern": "^(a|a)*$"}), {"x": "a" * 100_000 + "!"}),
    "back-references": lambda: (of({"pattern": r"^(a*)*\1*\1*b$"}), {"x": "a" * 5_000}),
    "look-ahead": lambda: (of({"pattern": "(?=(a+)+b)(?=(a+)+c)"}), {"x": "a" * 5_000}),
    "counted repetitions": lambda: (of({"pattern": "(((a{1,20}){1,20}){1,20}){1,2}b"}), {"x": "a" * 10**5}),
    "groups in groups": lambda: (of({"pattern": "(" * 1300 + "a" + ")*" * 1300}), {"x": "a" * 99}),
    "letters without case": lambda: (
        of({"pattern": r"(?i)^[\u0000-\u{10ffff}]{999}[^\u0000-\uffff]"}), {"x": "é" * 9999},
    ),
    "names of properties": lambda: ({"propertyNames": {"pattern": "^(a|aa)+$"}}, {"a" * 200 + "!": 1}),
    "names by thousands of patterns": lambda: (
        {"patternProperties": {f"^(a+)+{i}$": True for i in range(9_000)}}, {"a" * 28 + "!": 1}
    ),
    "names by some slow patterns": lambda: (
        {"additionalProperties": False, "patternProperties": {f"^((a|aa)+)+{i}$": True for i in range(200)}},
        {"a" * 99 + f"!{i}": 1 for i in range(50)},
    ),
    "thousands of patterns for one value": lambda: (
        of({"allOf": [{"pattern": f"[a-z]{{1,900}}{i}"} for i in range(3_500)]}), {"x": "a" * 99}
    ),
    "another dialect inside": lambda: (of({"$schema": DRAFT_7, "pattern": BOMB}), {"x": "a" * 40 + "!"}),
    "another dialect, hidden": lambda: (
        of({"$ref": "#/x-hidden"}, **{"x-hidden": {"$schema": DRAFT_7, "pattern": BOMB}}), {"x": "a" * 40 + "!"}
    ),
    # Definitions that multiply
    "allOf": lambda: (chain(21, lambda d: {"allOf": [d, d]}), {"x": {}}),
    "anyOf": lambda: (chain(30, lambda d: {"anyOf": [{"not": d}, d]}), {"x": {}}),
    "oneOf": lambda: (chain(30, lambda d: {"oneOf": [d, {"not": d}]}), {"x": {}}),
    "not": lambda: (chain(30, lambda d: {"not": d, "allOf": [d]}), {"x": {}}),
    "if, then, else": lambda: (chain(30, lambda d: {"if": d, "then": d, "else": d}), {"x": {}}),
    "beside the reference": lambda: (chain(300, lambda d: {**d, "allOf": [d]}), {"x": {}}),
    "dependentSchemas": lambda: (chain(30, lambda d: {"dependentSchemas": {"a": d, "b": d}}), {"x": {"a": 1, "b": 1}}),
    "dependencies": lambda: (chain(30, lambda d: {"dependencies": {"a": d, "b": d}}), {"x": {"a": 1, "b": 1}}),
    "properties": lambda: (
        chain(30, lambda d: {"properties": {"a": d, "b": d}}), {"x": nested(30, lambda v: {"a": v, "b": v}, 1)}
    ),
    "unevaluatedProperties": lambda: (
        of(nested(22, lambda s: {"allOf": [s], "unevaluatedProperties": False}, {})), {"x": {"a": 1}}
    ),
    "unevaluatedProperties by reference": lambda: (
        chain(30, lambda d: {"allOf": [d], "unevaluatedProperties": {"type": "integer"}}), {"x": {"a": 1}}
    ),
    "thousands of definitions in a row": lambda: (chain(900, lambda d: {"allOf": [d]}), {"x": 1}),
    "thousands of lists in a row": lambda: (chain(900, lambda d: {"items": d}), {"x": DEEP}),
    "every definition refers to every other": lambda: (of({"$ref": "#/$defs/D0"}, **{"$defs": DENSE}), {"x": {}}),
    "a value of a million, referred to often": lambda: (
        of({"items": [{"$ref": "#/$defs/E"}] * 3_000}, **{"$defs": {"E": {"enum": [f"v{i}" for i in range(9_999)]}}}),
        {"x": 1},
    ),
    "the same Python object again and again": lambda: (of(nested(40, lambda s: {"allOf": [s, s]}, {})), {"x": 1}),
    "the same constant again and again": lambda: (of({"const": nested(40, lambda v: [v, v], 1)}), {"x": 1}),
    # Definitions that contain themselves
    "itself, without end": lambda: ({"$ref": "#"}, {}),
    "itself, through its identifier": lambda: (of({"$id": "http://a/b", "allOf": [{"$ref": "http://a/b"}]}), {"x": 1}),
    "itself, dynamically": lambda: (
        {"$dynamicAnchor": "n", "properties": {"x": {"$dynamicRef": "#n"}}}, {"x": {"x": 1}},
    ),
    "itself, fifty times": lambda: (
        with_itself({"items": {"allOf": [SELF] * 50}}), {"x": nested(60, lambda v: [v], 1)},
    ),
    "itself, at each of two levels": lambda: (
        with_itself({"items": {"anyOf": [SELF, {"type": "array", "items": SELF}]}}), {"x": nested(60, lambda v: [v], 1)}
    ),
    "itself, with deep arguments": lambda: (
        with_itself({"properties": {"n": SELF}}), {"x": nested(900, lambda v: {"n": v}, 1)},
    ),
    # Size
    "a million values": lambda: (of({"enum": list(range(10**6))}), {"x": "no"}),
    "a constant of a million": lambda: (of({"const": [0] * 10**6}), {"x": [0] * 999_999 + [1]}),
    "a description of 3 MB": lambda: (of({"description": "x" * 3 * 10**6}), {"x": 1}),
    "3 MB of properties": lambda: ({"properties": {f"p{i}" * 60: {} for i in range(9_000)}}, {"x": 1}),
    "a name of 1 MB": lambda: ({"properties": {"n" * 10**6: {}}}, {"x": 1}),
    "a million required names": lambda: ({"required": [f"r{i}" for i in range(10**6)]}, {"x": 1}),
    "schemas nested 5,000 deep": lambda: (of(nested(5_000, lambda s: {"items": s}, {})), {"x": DEEP}),
    "a default nested 5,000 deep": lambda: (of({"default": DEEP}), {"x": 1}),
    "a pointer of 500 KB": lambda: (of({"$ref": "#" + "/properties/x" * 40_000}), {"x": 1}),
    "a thousand identifiers": lambda: (
        {"properties": {f"p{i}": {"$id": f"u:{i}", "$ref": "#/$defs/a", "$defs": {"a": {}}} for i in range(900)}},
        {"p1": 1},
    ),
    "a thousand anchors": lambda: (
        {"properties": {f"p{i}": {"$ref": f"#a{i}"} for i in range(900)},
         "$defs": {f"d{i}": {"$anchor": f"a{i}"} for i in range(900)}},
        {"p1": 1},
    ),
    # Arguments that take long to compare
    "100,000 objects, all different": lambda: (of({"uniqueItems": True}), {"x": MANY_OBJECTS}),
    "lists, all different": lambda: (of({"uniqueItems": True}), {"x": [[1] * 999 + [{"a": i}] for i in range(3_000)]}),
    "100,000 unevaluated properties": lambda: (
        of({"anyOf": [{"additionalProperties": True}], "unevaluatedProperties": False}), {"x": MANY_KEYS}
    ),
    "100,000 unevaluated items": lambda: (
        of({"anyOf": [{"contains": {"type": "integer"}}], "unevaluatedItems": False}), {"x": list(MANY_KEYS.values())}
    ),
    "long text, refused 3,900 times": lambda: (
        of({"anyOf": [{"type": "integer", "minimum": i} for i in range(3_900)]}), {"x": "a" * 10**6}
    ),
    "many names, refused 3,900 times": lambda: (
        of({"anyOf": [{"additionalProperties": False} for _ in range(3_900)]}), {"x": MANY_KEYS}
    ),
    "items by alternatives": lambda: (
        of({"items": {"anyOf": [{"required": [f"k{i}"]} for i in range(3_000)]}}), {"x": [{}] * 20_000}
    ),
    "contains in contains": lambda: (
        of({"contains": {"allOf": [{"contains": {"type": "null"}}] * 30}}), {"x": [[1] * 300] * 300}
    ),
    # Numbers
    "multiples of almost nothing": lambda: (of({"multipleOf": 1e-300}), {"x": 1e300}),
    "multiples of 100,000 digits": lambda: (of({"multipleOf": HUGE + 1}), {"x": HUGE}),
    "a bound of 100,000 digits": lambda: (of({"minimum": HUGE}), {"x": 5}),
    "a value of 100,000 digits": lambda: (of({"enum": [HUGE]}), {"x": 5}),
    "an argument of 100,000 digits": lambda: (of({"type": "string"}), {"x": HUGE}),
    "a length of 10^18": lambda: (of({"minLength": 10**18, "maxItems": 1e308}), {"x": "a"}),
    "a constant that is not a number": lambda: (of({"const": float("nan")}), {"x": 1}),
    "an infinite default": lambda: (of({"default": float("inf"), "maximum": float("inf")}), {"x": 1}),
    # Other documents
    "a reference to a URL": lambda: (of({"$ref": "http://127.0.0.1:9/x.json"}), {"x": 1}),
    "a reference to a file": lambda: (of({"$ref": "file:///etc/passwd"}), {"x": 1}),
    "a file through the identifier": lambda: (
        {"$id": "file:///etc/", "properties": {"x": {"$ref": "passwd"}}}, {"x": 1},
    ),
    "a meta-schema elsewhere": lambda: ({"$schema": "http://127.0.0.1:9/x.json", "properties": {"x": {}}}, {"x": 1}),
    "formats": lambda: (
        of({"allOf": [{"format": f} for f in ("regex", "idn-hostname", "uri")]}), {"x": "(a+)+" * 9_999},
    ),
    # Names
    "names with control characters": lambda: ({"properties": {"a\nb": {}, "\x1b[31m": {}}}, {"a\nb": 1}),
    "names that turn the text": lambda: ({"properties": {"\u202egnp.exe": {}}}, {"x": 1}),
    "half a surrogate pair": lambda: ({"properties": {"\ud800": {"description": "\udfff"}}}, {"x": 1}),
    "names of another language's objects": lambda: (
        {"properties": {"__proto__": {}, "__class__": {}, "": {}}}, {"": 1},
    ),
    "names that are not text": lambda: ({"type": "object", 1: 2}, {"x": 1}),
}  # a table  # fmt: skip


def attempt(attack: Attack) -> str:
    """What became of an attack; an empty text if it was contained. Runs in the child."""
    schema, arguments = attack()
    started = time.process_time()
    try:
        tool = Tool("t", "", schema, print)
    except MentorEdgeError as error:
        took = time.process_time() - started
        return f"refused after {took:.1f} s" if took > SECONDS else "" if len(str(error)) < 1_000 else "a long message"
    accepted = time.process_time()
    problem = tool.argument_error(arguments)
    checked = time.process_time()
    if max(accepted - started, checked - accepted) > SECONDS:
        return f"accepted in {accepted - started:.1f} s, checked in {checked - accepted:.1f} s"
    size = len(json.dumps(tool.to_openai(), allow_nan=False).encode())
    text = problem or ""
    if size > 400_000 or len(text) > 600 or not text.isprintable():
        return f"a schema of {size} bytes, a message of {len(text)} characters"
    return ""


def main(names: list[str]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.simplefilter("ignore")
    time_limit.SECONDS = patterns.SECONDS = SECONDS / 30  # or the table would take a minute
    failed = {}
    for name in names:
        try:
            failed[name] = attempt(ATTACKS[name])
        except BaseException as error:  # also what a library in Rust raises
            failed[name] = f"{type(error).__name__}: {error}"[:200]
    print(json.dumps({name: what for name, what in failed.items() if what}))


def test_no_schema_takes_time_or_memory_or_raises():
    child = subprocess.run(
        [sys.executable, __file__, *ATTACKS], capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[1]
    )
    assert child.returncode == 0, child.stderr[-2_000:]
    assert json.loads(child.stdout) == {}


@pytest.mark.parametrize("name", ["allOf", "a description of 3 MB", "names with control characters", "not"])
def test_the_rows_of_a_file_are_accepted_or_refused_alike(tmp_path, name):
    schema, arguments = ATTACKS[name]()
    call = {"name": "t", "arguments": arguments}
    row = {"id": "1", "messages": [{"role": "user", "content": "?"}], "accepted_calls": [call]}
    row["tools"] = [{"type": "function", "function": {"name": "t", "parameters": schema}}]
    (tmp_path / "tasks.jsonl").write_text(json.dumps(row))
    with pytest.raises(TaskError, match="are not a JSON Schema of arguments"):
        jsonl.load(tmp_path / "tasks.jsonl")


def test_accepted_calls_are_read_within_the_limit_of_one_check(tmp_path, monkeypatch):
    monkeypatch.setattr(time_limit, "SECONDS", SECONDS / 2)
    named = {f"^((a|aa)+)+{i}$": {"type": "object"} for i in range(200)}
    values = {"a" * 99 + f"!{i}": [{}] for i in range(50)}
    row = {"id": "1", "messages": [{"role": "user", "content": "?"}], "accepted_calls": [{"t": values}]}
    parameters = {"type": "object", "patternProperties": named, "additionalProperties": True}
    row["tools"] = [{"type": "function", "function": {"name": "t", "parameters": parameters}}]
    (tmp_path / "tasks.jsonl").write_text(json.dumps(row))
    started = time.process_time()
    jsonl.load(tmp_path / "tasks.jsonl")
    assert time.process_time() - started < 5 * SECONDS  # minutes without a limit; a loaded machine also takes its share


@pytest.mark.parametrize("name", ["", "a\x1b[2J", "a\nb", "x" * 129, "\u202egnp", "\ud800"])
def test_no_tool_has_a_name_that_a_terminal_would_obey(name):
    with pytest.raises(MentorEdgeError, match="of a tool is not usable") as refused:
        Tool(name, "", {"type": "object"}, print)
    assert str(refused.value).replace("\n", "").isprintable()


if __name__ == "__main__":
    main(sys.argv[1:])
