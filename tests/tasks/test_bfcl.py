from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.bfcl_corruptions import (
    EXCERPT,
    REFUSED,
    Calls,
    corruptions,
    data_directory,
    golden_answers,
    native_functions,
    readings,
)
from mentor_edge.errors import TaskError
from mentor_edge.tasks import bfcl
from mentor_edge.tasks.call_matching import Match, match_calls
from mentor_edge.tasks.types import Suite, Task

COUNTS = {"simple_python": 400, "multiple": 200, "parallel": 200, "parallel_multiple": 200, "irrelevance": 240}


@pytest.fixture(scope="module", params=["excerpt", pytest.param("full", marks=pytest.mark.slow)])
def directory(request):
    return data_directory(request.param)


@pytest.fixture(scope="module")
def suite(directory) -> Suite:
    return bfcl.load(directory)


def match(task: Task, calls: Calls | None) -> Match:
    functions = [schema["function"] for schema in task.tool_schemas]
    assert task.accepted_calls is not None
    return match_calls(task.domain, functions, task.accepted_calls, calls)


def scored(suite: Suite) -> Iterator[Task]:
    return (task for task in suite.tasks if task.domain != "irrelevance")


# Loading


def test_the_suite_contains_the_five_categories(suite):
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


def test_names_of_functions_are_unchanged_dots_included(directory, suite):
    native = native_functions(directory)
    names = {task.id: [schema["function"]["name"] for schema in task.tool_schemas] for task in suite.tasks}
    assert names == {task_id: [function["name"] for function in native[task_id]] for task_id in names}
    assert "triangle_properties.get" in names["multiple_0"]


def test_tools_cannot_be_executed(suite):
    with pytest.raises(RuntimeError, match="no implementation"):
        suite.tasks[0].tools[0].function(base=1, height=2)


def function_row(parameters: str) -> str:
    return (
        f'{{"id": "1", "question": [[]], "function": [{{"name": "f", "description": "", "parameters": {parameters}}}]}}'
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("BFCL_v4_multiple.json", None, "cannot read"),
        ("BFCL_v4_simple_python.json", None, "has no file BFCL_v4_simple_python.json"),
        ("BFCL_v4_multiple.json", "{", "multiple.json:1: not JSON"),
        (
            "BFCL_v4_multiple.json",
            '{"question": []}',
            "multiple.json:1: id: missing; question: the list is empty; function: missing",
        ),
        ("BFCL_v4_multiple.json", '{"id": "new", "question": [[]], "function": []}', "1: id: 'new' has no answer"),
        ("BFCL_v4_irrelevance.json", '{"id": 1, "question": [], "function": []}', "id: expected text, found 1"),
        ("BFCL_v4_irrelevance.json", '{"id": "1", "question": [], "function": []}', "1: question: the list is empty"),
        ("BFCL_v4_irrelevance.json", '{"id": "1", "question": [[]]}', "1: function: missing"),
        ("BFCL_v4_irrelevance.json", function_row("[]"), "function[0].parameters: expected an object, found []"),
        (
            "BFCL_v4_irrelevance.json",
            function_row("{}"),
            "function[0].parameters: expected a schema with a type, found {}",
        ),
        (
            "BFCL_v4_irrelevance.json",
            function_row('{"type": "dict", "properties": {"x": {"type": "array", "items": 1}}}'),
            "function[0].parameters.properties.x.items: expected a schema with a type, found 1",
        ),
        (
            "BFCL_v4_irrelevance.json",
            function_row('{"type": "dict", "properties": []}'),
            "function[0].parameters.properties: expected an object, found []",
        ),
        ("possible_answer/BFCL_v4_parallel.json", '\n{"id": "x"}', "parallel.json:2: ground_truth: missing"),
    ],
)
def test_malformed_files_are_named_with_the_line(tmp_path, name, content, message):
    shutil.copytree(EXCERPT, tmp_path / "bfcl")
    path = tmp_path / "bfcl" / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(TaskError) as raised:
        bfcl.load(tmp_path / "bfcl")
    assert message in raised.value.problem


# Golden answers and corruptions


def test_every_golden_answer_is_accepted_in_any_order(suite):
    for task in scored(suite):
        for calls in golden_answers(task):
            assert match(task, calls) == match(task, calls[::-1]) == Match(True), task.id


def test_every_corruption_is_refused_for_its_reason(suite):
    refused: Counter[str] = Counter()
    for task in scored(suite):
        for kind, calls in corruptions(task):
            if kind in REFUSED:
                verdict = match(task, calls)
                assert not verdict.valid and REFUSED[kind] in (None, verdict.error_type), (task.id, kind, verdict)
                refused[kind] += 1
    assert refused.keys() == REFUSED.keys()


def test_schemas_with_bfcl_types_lead_to_the_same_verdicts_as_converted_ones(directory, suite):
    native = native_functions(directory)
    for task in scored(suite):
        some_corruptions = [calls for _, calls in corruptions(task)][::7]
        for calls in [*golden_answers(task), *some_corruptions]:
            verdict = match_calls(task.domain, native[task.id], task.accepted_calls, calls)
            assert verdict == match(task, calls), (task.id, calls)


def test_irrelevance_requires_readable_text_without_a_call(suite):
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


INTEGERS, FLOATS, TEXTS, OBJECTS = (
    {"type": "array", "items": {"type": item}} for item in ("integer", "float", "string", "dict")
)


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
        ("any", ["my_data"], "My data", True),
        ("float", ["sales"], "sales", True),
        ("float", ["sales"], "Sales", False),
        ("string", ["it's"], 'it"s', True),
        ("string", ["", True], True, True),
        ("string", ["", True], " ", False),
        ("float", [1.0], 10**400, False),
        (INTEGERS, [[1, 2]], [1, 2], True),
        (INTEGERS, [[1, 2]], [2, 1], False),
        (INTEGERS, [[1, 2]], [1, 2.0], False),
        (INTEGERS, [[1, 2]], [True, 2], False),
        (INTEGERS, [[1, 2], ""], [True, 2.0], True),
        (INTEGERS, [[1, 2], ""], [], True),
        (INTEGERS, [[1, 2]], [], False),
        (INTEGERS, [[1, 2], ""], "", False),
        (INTEGERS, [["x"]], ["X"], True),
        (INTEGERS, ["rows"], "rows", True),
        (INTEGERS, ["rows"], [1], False),
        (FLOATS, [[1.0, 2.5]], [1, 2.5], False),
        (FLOATS, [[1, 2]], [1.0, 2], True),
        ({"type": "tuple", "items": {"type": "float"}}, [[1.5, 2.0]], [1.5, 2.0], True),
        ({"type": "tuple", "items": {"type": "float"}}, [[1.5, 2.0]], [1.5, 2], False),
        (TEXTS, [["New York"], ["NY"]], ["newyork"], True),
        (TEXTS, [["a"]], ["a", "a"], False),
        (TEXTS, [["a"]], "a", False),
        ({"type": "array", "items": FLOATS}, [[[0.1]]], [[0.1]], True),
        ({"type": "array", "items": TEXTS}, [[["a"]]], [["A"]], False),
        ("dict", [{"a": [1, 2], "b": ["x", ""]}], {"a": 2}, True),
        ("dict", [{"a": [1, 2], "b": ["x", ""]}], {"a": 2, "b": "X"}, True),
        ("dict", [{"a": [1, 2], "b": ["x", ""]}], {"b": "x"}, False),
        ("dict", [{"a": [1, 2], "b": ["x", ""]}], {"a": 3}, False),
        ("dict", [{"a": [1, 2]}], {"a": 1, "c": 1}, False),
        ("dict", [{"a": [True]}], {"a": 1.0}, True),
        ("dict", [{"a": [["p", "q"]]}], {"a": ["p", "q"]}, True),
        ("dict", [{"a": [["p", "q"]]}], {"a": ["P", "q"]}, False),
        ("dict", [{"a": [1]}], [["a", 1]], False),
        ("dict", [""], {}, False),
        (OBJECTS, [[{"a": [1]}, {"a": [2]}]], [{"a": 1}, {"a": 2}], True),
        (OBJECTS, [[{"a": [1]}, {"a": [2]}]], [{"a": 2}, {"a": 1}], False),
        (OBJECTS, [[{"a": [1]}]], [{"a": 1}, {"a": 1}], False),
        (OBJECTS, [[{"a": [1]}], ""], ["a"], False),
        (OBJECTS, [[{"a": [1]}], ""], [], True),
        ({"type": "array"}, [[1, "a", {"b": 2}]], [1, "A", {"b": 2}], True),
        ({"type": "array", "items": True}, [[1, "a"]], [2, "a"], False),
        ({}, [1, ""], 1, True),
        ("null", [1, ""], 2, False),
    ],
)
def test_values(type_, options, value, right):
    assert one(type_, options, value) is right


def test_a_parameter_may_be_left_out_only_if_the_answer_allows_it():
    function = {"name": "f", "parameters": {"type": "dict", "properties": {"x": {"type": "integer"}}}}
    for options, error in (([5, ""], None), ([5], "missing_parameter")):
        verdict = match_calls("simple_python", [function], [{"f": {"x": options}}], [{"name": "f", "arguments": {}}])
        assert verdict == Match(error is None, error)


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

LEAVES = st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(min_size=1)
ANSWERED_OBJECTS = st.dictionaries(st.text(), st.lists(LEAVES | st.just(""), min_size=1, max_size=2), max_size=2)
ACCEPTED = {  # schemas with the accepted values of their types
    "integer": ({"type": "integer"}, st.integers()),
    "float": ({"type": "float"}, st.floats(allow_nan=False)),
    "string": ({"type": "string"}, st.text(min_size=1)),
    "boolean": ({"type": "boolean"}, st.booleans()),
    "object": ({"type": "dict"}, ANSWERED_OBJECTS),
    "integers": (INTEGERS, st.lists(st.integers(), max_size=3)),
    "texts": (TEXTS, st.lists(st.text(), max_size=3)),
    "objects": (OBJECTS, st.lists(ANSWERED_OBJECTS, max_size=2)),
}

ARGUMENTS = st.dictionaries(st.just("x") | st.text(), JSON, max_size=3)
CALL = st.fixed_dictionaries({"name": st.sampled_from(["f", "g"]), "arguments": ARGUMENTS})
NEARLY_A_CALL = st.fixed_dictionaries({}, optional={"name": st.just("f") | JSON, "arguments": ARGUMENTS | JSON})


@given(st.lists(CALL | NEARLY_A_CALL | JSON, max_size=3) | JSON, st.sampled_from(sorted(ACCEPTED)), st.data())
def test_any_calls_get_a_verdict_and_in_irrelevance_only_no_call_is_right(calls, kind, data):
    schema, values = ACCEPTED[kind]
    function = {"name": "f", "parameters": {"type": "object", "properties": {"x": schema}, "required": []}}
    truth = [{"f": {"x": data.draw(st.lists(values | st.just(""), min_size=1, max_size=3))}}]
    verdict = match_calls("simple_python", [function], truth, calls)
    assert verdict.valid == (verdict.error_type is None)
    assert match_calls("irrelevance", [function], [], calls).valid == (calls == [])


@given(st.sampled_from(sorted(ACCEPTED)), st.data())
def test_what_the_ground_truth_accepts_is_right(kind, data):
    schema, values = ACCEPTED[kind]
    options = data.draw(st.lists(values, min_size=1, max_size=3))
    for value in (value for option in options for value in readings(option)):
        assert one(schema, options, value) and one(schema, ["", *options], value)


@pytest.mark.parametrize("calls", [None, "", "f", {}, {"name": "f", "arguments": {}}, 0])
@pytest.mark.parametrize("category", ["simple_python", "irrelevance"])
def test_output_that_is_not_a_list_of_calls_is_unreadable(category, calls):
    assert match_calls(category, [NUMBER], [{"f": {"x": [1]}}], calls) == Match(False, "unreadable")


@pytest.mark.parametrize(
    "call",
    [
        None, "f", [], {}, {"name": "f"}, {"arguments": {}},
        {"name": None, "arguments": {}}, {"name": ["f"], "arguments": {}},
        {"name": "f", "arguments": None}, {"name": "f", "arguments": '{"x": 1}'}, {"name": "f", "arguments": [1]},
    ],
)  # a table  # fmt: skip
@pytest.mark.parametrize("category", ["simple_python", "irrelevance"])
def test_a_call_of_another_form_is_unreadable(category, call):
    assert match_calls(category, [NUMBER], [{"f": {"x": [1]}}], [call]) == Match(False, "unreadable")
