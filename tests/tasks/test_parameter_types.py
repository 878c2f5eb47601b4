"""Accepted calls of parameters whose schema allows several types, or names none."""

from __future__ import annotations

from typing import Any

import pytest

from mentor_edge.tasks.accepted_calls import read_accepted_calls
from mentor_edge.tasks.call_matching import match_calls
from mentor_edge.tasks.types import never_executed
from mentor_edge.tools.types import Tool

OPTIONAL = {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}
INTEGER_5 = {"type": "integer", "default": 5}
POINT = {"type": "object", "properties": {"lat": {"type": "number"}, "name": {"type": "string"}}}
TREE = {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}}}


def right(x: Any, accepted: Any, given: Any, **more: Any) -> bool:
    parameters = {"type": "object", "properties": {"x": x}, **more}
    tool = Tool("f", "", parameters, never_executed)
    calls = read_accepted_calls([accepted], {"f": tool})
    call = {"name": "f", "arguments": given}
    return match_calls("d", [tool.to_openai()["function"]], calls, [call]).valid


# schema, the accepted value, values that are right, values that are wrong
CASES = [
    (OPTIONAL, 3, [3], [4, "3", None, 3.5, True]),
    ({"type": ["integer", "null"]}, 3, [3], ["3", None]),
    ({"type": ["number", "string"]}, 3, [3, 3.0], ["3"]),
    ({"type": ["integer", "number"]}, 3, [3, 3.0], ["3", 3.5, True]),
    ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, 3, [3], ["3", 3.0]),
    ({"type": ["number", "string"]}, "Rome, Italy", ["rome italy"], ["Rome", 3]),
    ({"enum": ["C", "F"]}, "C", ["C"], ["F", None]),
    ({"enum": [1, "one"]}, 1, [1], ["1", "one", True]),
    ({"const": "C"}, "C", ["C"], ["F"]),
    ({"oneOf": [{"type": "boolean"}, {"type": "integer"}]}, True, [True], [1, False]),
    ({"oneOf": [{"type": "boolean"}, {"type": "integer"}]}, 1, [1], [True]),
    ({"description": "anything"}, 3, [3, 3.0], ["3", 4]),
    ({}, "a", ["A"], ["b", 1]),
    ({}, {"k": [1]}, [{"k": [1]}], [{"k": [2]}, {}, {"k": [1], "l": 1}]),
    ({"allOf": [{"$ref": "#/$defs/Point"}], "default": None}, {"lat": 1.5}, [{"lat": 1.5}], [{"lat": 2}, "x", []]),
    ({"$ref": "#/$defs/Point"}, {"name": "Ostia"}, [{"name": "ostia"}], [{"name": "Roma"}, {}]),
    ({"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "string"}]}, "here", ["Here"], [{"name": "here"}]),
    ({"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "string"}]}, {"lat": 1}, [{"lat": 1}], ["1", {"lat": 2}]),
    ({"$ref": "#/$defs/Tree"}, {"kids": []}, [{"kids": []}], [{"kids": [{}]}, []]),
    ({"type": "array", "items": {"type": ["integer", "string"]}}, [1, "B"], [[1, "b"]], [["1", "b"], [True, "b"], [1]]),
    ({"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}]}}, [{"lat": 1}, None],
     [[{"lat": 1}, None]], [[{"lat": 1}], [{"lat": 2}, None], [None, {"lat": 1}]]),
    ({"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/Point"}}, {"type": "null"}]}, [{"lat": 1}],
     [[{"lat": 1}]], [None, [], [{"lat": 1}, {"lat": 1}]]),
    ({"type": "array", "items": [{"type": "string"}, {"type": "number"}]}, ["q", 1], [["Q", 1]], [["q", 2], ["q"]]),
]  # a table  # fmt: skip


@pytest.mark.parametrize(("schema", "accepted", "rights", "wrongs"), CASES)
def test_a_value_is_compared_by_the_type_of_the_accepted_one(schema, accepted, rights, wrongs):
    definitions = {"$defs": {"Point": POINT, "Tree": TREE}}
    exact = {"name": "f", "arguments": {"x": accepted}}
    assert all(right(schema, exact, {"x": value}, **definitions) for value in rights)
    assert not any(right(schema, exact, {"x": value}, **definitions) for value in wrongs)
    assert not right(schema, exact, {}, **definitions)


def test_several_values_may_be_accepted_and_a_parameter_left_out():
    accepted = {"f": {"x": [3, "three", None, ""]}}
    schema = {"anyOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]}
    assert all(right(schema, accepted, given) for given in ({"x": 3}, {"x": "Three"}, {"x": None}, {}))
    assert not any(right(schema, accepted, given) for given in ({"x": "3"}, {"x": 4}, {"y": 3}))


@pytest.mark.parametrize(
    ("schema", "required", "same"),
    [
        (OPTIONAL, [], True),
        ({"type": ["integer", "null"]}, [], True),
        ({"default": None}, [], True),
        (OPTIONAL, ["x"], False),
        (OPTIONAL | {"default": 5}, [], False),  # null is not the default
        ({"type": "integer"}, [], False),
    ],
)
def test_null_for_an_optional_parameter_may_be_the_same_as_leaving_it_out(schema, required, same):
    assert right(schema, {"f": {"x": [3, ""]}}, {"x": None}, required=required) == same
    assert not right(schema, {"f": {"x": [3]}}, {"x": None}, required=required)
    if not required:
        assert right(schema, {"f": {}}, {"x": None}) == same
    if schema != {"type": "integer"}:
        null = {"name": "f", "arguments": {"x": None}}
        assert right(schema, null, {"x": None}, required=required)
        assert right(schema, null, {}, required=required) == same
        assert not any(right(schema, null, {"x": value}, required=required) for value in (0, "", "null", False))


LIST = {"type": "array", "items": {"type": "number"}}
FILTER = {"type": "object", "properties": {"a": OPTIONAL, "b": {"type": "string"}, "n": INTEGER_5}}
EXACT_CALLS = [  # schema, accepted arguments, the same, others
    (INTEGER_5, {}, [{}, {"x": 5}], [{"x": 6}, {"x": "5"}, {"x": True}]),
    (INTEGER_5, {"x": 5}, [{}, {"x": 5}], [{"x": 6}]),
    (INTEGER_5, {"x": 6}, [{"x": 6}], [{}, {"x": 5}]),
    ({"enum": ["C", "F"], "default": "C"}, {}, [{}, {"x": "C"}], [{"x": "F"}]),
    (OPTIONAL | {"default": 1}, {}, [{}, {"x": 1}], [{"x": True}, {"x": None}]),
    ({"type": "boolean", "default": False}, {"x": False}, [{}, {"x": False}], [{"x": True}, {"x": 0}]),
    ({"type": "array", "default": []}, {}, [{}, {"x": []}], [{"x": [1]}]),
    ({"type": "array", "default": [1]}, {}, [{}], [{"x": []}]),
    ({"type": "array", "default": 5}, {}, [{}], [{"x": 5}, {"x": []}]),
    (FILTER, {"x": {"a": None}}, [{"x": {}}, {"x": {"a": None, "n": 5}}], [{}, {"x": {"a": 1}}, {"x": {"n": 6}}]),
    (FILTER, {"x": {"b": "q"}}, [{"x": {"b": "q", "a": None}}], [{"x": {"a": None}}, {"x": {"b": "q", "c": None}}]),
    ({"type": "array", "items": FILTER}, {"x": [{"a": None}]}, [{"x": [{}]}, {"x": [{"n": 5}]}], [{"x": [{"n": 6}]}]),
    (LIST, {"x": [1.0, 2.5]}, [{"x": [1, 2.5]}, {"x": [1.0, 2.5]}], [{"x": [1, 2]}, {"x": [True, 2.5]}]),
    ({"anyOf": [LIST, {"type": "null"}]}, {"x": [1.0, 2.0]}, [{"x": [1, 2]}, {"x": [1, 2.0]}], [{"x": [1]}, {}]),
]  # a table  # fmt: skip


@pytest.mark.parametrize(("schema", "accepted", "same", "others"), EXACT_CALLS)
def test_a_call_is_accepted_however_it_is_written(schema, accepted, same, others):
    exact = {"name": "f", "arguments": accepted}
    assert [right(schema, exact, given) for given in same] == [True] * len(same)
    assert not any(right(schema, exact, given) for given in others)


def test_a_required_value_that_equals_its_default_must_be_given():
    assert not right(INTEGER_5, {"name": "f", "arguments": {"x": 5}}, {}, required=["x"])


def test_accepted_values_in_the_shape_of_bfcl_know_no_defaults():
    assert not right(INTEGER_5, {"f": {}}, {"x": 5}) and not right(INTEGER_5, {"f": {"x": [5]}}, {})
    assert not right(LIST, {"f": {"x": [[1.0, 2.0]]}}, {"x": [1, 2]})


OPEN_ARGUMENTS = [
    {"additionalProperties": {"type": "integer"}},
    {"properties": {"x": {}}, "additionalProperties": {"type": "integer"}},
    {"properties": {"x": {}}, "additionalProperties": True},
    {"properties": {"x": {}}, "patternProperties": {"^k[0-9]$": {"type": "integer"}}, "additionalProperties": False},
    {},
]


@pytest.mark.parametrize("schema", OPEN_ARGUMENTS)
def test_parameters_that_the_schema_allows_without_naming_them(schema):
    tool = Tool("f", "", {"type": "object", **schema}, never_executed)
    for accepted in ({"f": {"k1": [3]}}, {"name": "f", "arguments": {"k1": 3}}):
        calls = read_accepted_calls([accepted], {"f": tool})
        verdicts = [
            match_calls("d", [tool.to_openai()["function"]], calls, [{"name": "f", "arguments": given}]).valid
            for given in ({"k1": 3}, {"k1": 4}, {"k1": "3"}, {"k2": 3}, {}, {"k1": 3, "k2": 3})
        ]
        assert verdicts == [True] + [False] * 5


@pytest.mark.parametrize("keyword", ["anyOf", "allOf"])
def test_parameters_of_alternatives_are_known(keyword):
    tree = {"$ref": "#/$defs/Tree"}
    more = {keyword: [{"properties": {"y": {"type": "integer"}}}, tree], "$defs": {"Tree": TREE}}
    exact = {"name": "f", "arguments": {"y": 3}}
    assert right({}, exact, {"y": 3}, **more) and not right({}, exact, {"y": 4}, **more)
    assert right({}, {"f": {"kids": [[]]}}, {"kids": []}, **more)
    with pytest.raises(ValueError, match="f has no parameter 'z' "):
        right({}, {"name": "f", "arguments": {"z": 3}}, {}, **more)


def test_an_exact_call_must_fit_the_schema():
    with pytest.raises(ValueError, match=r"accepted_calls\[0\].arguments: x: 'three' is not valid under any"):
        right(OPTIONAL, {"name": "f", "arguments": {"x": "three"}}, {})
    with pytest.raises(ValueError, match=r"accepted_calls\[0\].f.x.lat: expected a list of accepted values, found 1"):
        right({"anyOf": [POINT, {"type": "null"}]}, {"f": {"x": [{"lat": 1}]}}, {})
