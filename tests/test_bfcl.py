from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mentor_edge.errors import TaskError
from mentor_edge.tasks import bfcl
from mentor_edge.tasks.bfcl import Match, match_calls
from mentor_edge.tasks.types import Suite, Task

EXCERPT = Path(__file__).parent / "data" / "bfcl"
COUNTS = {"simple_python": 400, "multiple": 200, "parallel": 200, "parallel_multiple": 200, "irrelevance": 240}
Calls = list[dict[str, Any]]


def full_data() -> Path | None:
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("MENTOR_EDGE_DATA", shared))
    return root / "bfcl" if (root / "bfcl").is_dir() else None


@pytest.fixture(scope="module", params=["excerpt", "full"])
def suite(request) -> Suite:
    directory = EXCERPT if request.param == "excerpt" else full_data()
    if directory is None:
        pytest.skip("the BFCL files are not here: set MENTOR_EDGE_DATA to a folder that holds bfcl/")
    return bfcl.load(directory)


def match(task: Task, calls: Calls | None) -> Match:
    functions = [schema["function"] for schema in task.tool_schemas]
    assert task.accepted_calls is not None
    return match_calls(task.domain, functions, task.accepted_calls, calls)


def golden(task: Task, *, optional: bool = True) -> Calls:
    """The first accepted value of every parameter; without `optional`, all that may be left out is left out."""
    calls = []
    for accepted in task.accepted_calls or ():
        ((name, values),) = accepted.items()
        schema = task.tools_by_name[name].parameters
        arguments = {}
        for parameter, options in values.items():
            stated = [value for value in options if value != ""]
            may_be_missing = "" in options and parameter not in schema.get("required", ())
            # Two answers accept a parameter that the function does not have.
            if parameter in schema["properties"] and (not may_be_missing or (optional and stated)):
                arguments[parameter] = concrete(stated[0] if stated else "")
        calls.append({"name": name, "arguments": arguments})
    return calls


def concrete(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: next(iter(options)) for key, options in value.items() if options[0] != ""}
    return [concrete(item) for item in value] if isinstance(value, list) else value


def required_argument(calls: Calls, task: Task) -> str | None:
    return next(iter(task.tools_by_name[calls[0]["name"]].parameters.get("required", ())), None)


def rename(calls: Calls, task: Task) -> Calls:
    calls[0]["name"] += "_v2"
    return calls


def drop_required(calls: Calls, task: Task) -> Calls:
    calls[0]["arguments"].pop(required_argument(calls, task))
    return calls


def change_value(calls: Calls, task: Task) -> Calls:
    calls[0]["arguments"][required_argument(calls, task)] = "a value that no answer holds"
    return calls


def add_parameter(calls: Calls, task: Task) -> Calls:
    calls[0]["arguments"]["a_parameter_of_no_function"] = 1
    return calls


def add_call(calls: Calls, task: Task) -> Calls:
    return [*calls, copy.deepcopy(calls[0])]


def drop_call(calls: Calls, task: Task) -> Calls:
    return calls[1:]


CORRUPTIONS: dict[Callable[[Calls, Task], Calls], str] = {
    rename: "wrong_function",
    drop_required: "missing_parameter",
    change_value: "wrong_value",
    add_parameter: "unexpected_parameter",
    add_call: "wrong_count",
    drop_call: "wrong_count",
}


def scored(suite: Suite) -> Iterator[Task]:
    return (task for task in suite.tasks if task.domain != "irrelevance")


# Loading


def test_the_suite_holds_the_five_categories(suite):
    counts = {domain: len(suite.where(domains=[domain]).tasks) for domain in bfcl.CATEGORIES}
    assert tuple(counts) == bfcl.CATEGORIES and sum(counts.values()) == len(suite.tasks)
    assert counts == COUNTS if len(suite.tasks) > 100 else all(counts.values())
    assert {task.split for task in suite.tasks} == {"ood"}
    assert all(task.prompt and task.answer is None for task in suite.tasks)


def test_schemas_are_json_schema(suite):
    def types(schema: dict[str, Any]) -> Iterator[str]:
        yield schema["type"]
        for part in [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]:
            yield from types(part)

    for task in suite.tasks:
        for tool in task.tools:
            jsonschema.Draft202012Validator.check_schema(dict(tool.parameters))
            assert set(types(dict(tool.parameters))) <= {"object", "number", "array", "string", "integer", "boolean"}


def test_dotted_names_survive(suite):
    assert any("." in tool.name for task in suite.tasks for tool in task.tools)
    assert "triangle_properties.get" in next(t for t in suite.tasks if t.id == "multiple_0").tools_by_name


def test_tools_are_not_to_be_run(suite):
    with pytest.raises(RuntimeError, match="no implementation"):
        suite.tasks[0].tools[0].function(base=1, height=2)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("BFCL_v4_multiple.json", None, "cannot read"),
        ("BFCL_v4_multiple.json", "{", "multiple.json:1: not a BFCL row"),
        ("BFCL_v4_multiple.json", '{"question": []}', "multiple.json:1: 'id' is missing"),
        ("BFCL_v4_multiple.json", '{"id": "new", "question": [[]], "function": []}', "'new' is missing"),
        ("BFCL_v4_irrelevance.json", '{"id": 1, "question": [], "function": []}', "not a BFCL row"),
        ("possible_answer/BFCL_v4_parallel.json", '\n{"id": "x"}', "parallel.json:2: 'ground_truth' is missing"),
    ],
)
def test_malformed_files_are_named_with_the_line(tmp_path, name, content, said):
    shutil.copytree(EXCERPT, tmp_path / "bfcl")
    place = tmp_path / "bfcl" / name
    place.unlink() if content is None else place.write_text(content)
    with pytest.raises(TaskError) as raised:
        bfcl.load(tmp_path / "bfcl")
    assert said in raised.value.problem


# Golden answers and corruptions


def test_every_golden_answer_is_accepted_in_any_order(suite):
    for task in scored(suite):
        for calls in (golden(task), golden(task)[::-1], golden(task, optional=False)):
            assert match(task, calls) == Match(True), task.id


@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda corruption: corruption.__name__)
def test_every_corruption_is_refused(suite, corrupt):
    tried = 0
    for task in scored(suite):
        calls = golden(task)
        if corrupt in (drop_required, change_value) and required_argument(calls, task) is None:
            continue
        tried += 1
        found = match(task, corrupt(copy.deepcopy(calls), task))
        assert not found.valid and found.error_type == CORRUPTIONS[corrupt], (task.id, found)
    assert tried >= 0.97 * sum(1 for _ in scored(suite))


def test_irrelevance_wants_no_call_and_readable_text(suite):
    for task in suite.where(domains=["irrelevance"]).tasks:
        assert task.accepted_calls == ()
        assert match(task, []) == Match(True)
        assert match(task, [{"name": task.tools[0].name, "arguments": {}}]) == Match(False, "unwanted_call")
        assert match(task, None) == Match(False, "unreadable")


def test_an_unreadable_turn_is_never_right(suite):
    assert {match(task, None) for task in suite.tasks} == {Match(False, "unreadable")}


# The rules, one by one


def one(type_: str | dict[str, Any], options: list[Any], value: Any) -> bool:
    schema = {"type": type_} if isinstance(type_, str) else type_
    function = {"name": "f", "parameters": {"type": "dict", "properties": {"x": schema}, "required": []}}
    calls = [{"name": "f", "arguments": {"x": value}}]
    return match_calls("simple_python", [function], [{"f": {"x": options}}], calls).valid


@pytest.mark.parametrize(
    ("type_", "options", "value", "right"),
    [
        ("integer", [5], 5, True),
        ("integer", [5], 5.0, False),
        ("integer", [5], "5", False),
        ("float", [5.0], 5, True),
        ("float", [5], 5.0, True),
        ("number", [5], 5.0, True),
        ("integer", [0.5], 0.5, True),
        ("integer", [1], True, False),
        ("boolean", [True], 1, False),
        ("boolean", [True], True, True),
        ("boolean", [False], 0, False),
        ("string", ["New York, NY"], "new york ny", True),
        ("string", ["2024-01-01"], "2024/01/01", True),
        ("string", ["x**2"], "x^2", True),
        ("string", ["York"], "Yorks", False),
        ("string", ["5"], 5, False),
        ("integer", ["count"], "count", True),
        ("string", ["a", ""], "", True),
        ("integer", [5, ""], "", False),
        ("float", [None], None, True),
        ("float", [1.0], None, False),
        ({"type": "array", "items": {"type": "integer"}}, [[1, 2]], [1, 2], True),
        ({"type": "array", "items": {"type": "integer"}}, [[1, 2]], [2, 1], False),
        ({"type": "array", "items": {"type": "integer"}}, [[1, 2]], [1, 2.0], False),
        ({"type": "array", "items": {"type": "float"}}, [[1.0, 2.5]], [1, 2.5], True),
        ({"type": "array", "items": {"type": "string"}}, [["New York"], ["NY"]], ["newyork"], True),
        ({"type": "array", "items": {"type": "string"}}, [["a"]], ["a", "a"], False),
        ({"type": "array", "items": {"type": "string"}}, [["a"]], "a", False),
        ({"type": "array", "items": {"type": "array", "items": {"type": "float"}}}, [[[0.1]]], [[0.1]], True),
        ("dict", [{"a": [1, 2], "b": ["x", ""]}], {"a": 2}, True),
        ("dict", [{"a": [1, 2], "b": ["x", ""]}], {"a": 2, "b": "X"}, True),
        ("dict", [{"a": [1, 2], "b": ["x", ""]}], {"b": "x"}, False),
        ("dict", [{"a": [1, 2], "b": ["x", ""]}], {"a": 3}, False),
        ("dict", [{"a": [1, 2]}], {"a": 1, "c": 1}, False),
        ("dict", [{"a": [True]}], {"a": 1}, False),
        ("dict", [{"a": [["p", "q"]]}], {"a": ["P", "q"]}, True),
        ("dict", [{"a": [1]}], [["a", 1]], False),
        ({"type": "array", "items": {"type": "dict"}}, [[{"a": [1]}, {"a": [2]}]], [{"a": 1}, {"a": 2}], True),
        ({"type": "array", "items": {"type": "dict"}}, [[{"a": [1]}, {"a": [2]}]], [{"a": 2}, {"a": 1}], False),
    ],
)
def test_values(type_, options, value, right):
    assert one(type_, options, value) is right


def test_a_parameter_may_be_left_out_only_where_the_answer_says_so():
    function = {"name": "f", "parameters": {"type": "dict", "properties": {"x": {"type": "integer"}}}}
    for options, error in (([5, ""], None), ([5], "missing_parameter")):
        found = match_calls("simple_python", [function], [{"f": {"x": options}}], [{"name": "f", "arguments": {}}])
        assert found == Match(error is None, error)


NUMBER = {"name": "f", "parameters": {"type": "dict", "properties": {"x": {"type": "integer"}}, "required": ["x"]}}


def numbers(*values: int) -> Calls:
    return [{"name": "f", "arguments": {"x": value}} for value in values]


def test_parallel_calls_are_assigned_with_backtracking():
    truth = [{"f": {"x": [1, 2, 3]}}, {"f": {"x": [1, 2]}}, {"f": {"x": [1]}}]
    assert match_calls("parallel", [NUMBER], truth, numbers(1, 2, 3)) == Match(True)
    assert match_calls("parallel", [NUMBER], truth, numbers(3, 1, 2)) == Match(True)
    assert match_calls("parallel", [NUMBER], truth, numbers(2, 2, 2)) == Match(False, "no_assignment")
    assert match_calls("parallel", [NUMBER], truth, numbers(1, 2, 4)) == Match(False, "wrong_value")


@given(st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=5), st.data())
def test_the_assignment_agrees_with_trying_every_order(accepted, data):
    values = data.draw(st.lists(st.integers(0, 4), min_size=len(accepted), max_size=len(accepted)))
    fits = (all(v in options for v, options in zip(order, accepted, strict=True)) for order in permutations(values))
    truth = [{"f": {"x": options}} for options in accepted]
    assert match_calls("parallel", [NUMBER], truth, numbers(*values)).valid == any(fits)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


ARGUMENTS = st.dictionaries(st.just("x") | st.text(), JSON, max_size=3)


@given(st.lists(st.fixed_dictionaries({"name": st.sampled_from(["f", "g"]), "arguments": ARGUMENTS}), max_size=3))
def test_any_calls_get_a_verdict(calls):
    truth = [{"f": {"x": [{"a": [1, [2]], "b": [""]}, [[1.5], "s"], True, None, ""]}}]
    found = match_calls("simple_python", [NUMBER], truth, calls)
    assert found.valid == (found.error_type is None)
