"""Schemas of tool arguments from elsewhere: how they are read, and how arguments are checked against them."""

from __future__ import annotations

import json
import time
import warnings
from decimal import Decimal
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mentor_edge.errors import MentorEdgeWarning, ToolDefinitionError
from mentor_edge.tools.schemas import patterns, time_limit
from mentor_edge.tools.schemas.checking import is_multiple
from mentor_edge.tools.schemas.reading import read_schema
from mentor_edge.tools.schemas.references import SchemaError
from mentor_edge.tools.types import Tool

D3, D4, D6, D7 = (f"http://json-schema.org/draft-0{n}/schema#" for n in (3, 4, 6, 7))
D19, D20 = (f"https://json-schema.org/draft/{name}/schema" for name in ("2019-09", "2020-12"))
ANY: dict[str, Any] = {}
INTEGER = {"type": "integer"}


def of(x: Any, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": x}, **more}


def read(schema: Any) -> Any:
    reading = read_schema(schema)
    assert reading.notes == ()
    jsonschema.Draft202012Validator.check_schema(reading.parameters)
    again = read_schema(reading.parameters)
    assert again.parameters is reading.parameters and again.notes == ()
    return reading.parameters


def read_x(x: Any, **more: Any) -> Any:
    return read(of(x, **more))["properties"]["x"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        of({"description": "d", "type": "string", "x-mine": {"$ref": 1}, "default": None}, required=["x"]),
        of({"anyOf": [INTEGER, {"type": "null"}], "default": None}, additionalProperties=False),
        of({"enum": ["a", 1, None], "examples": [None]}),
        of({"const": None, "title": "$ref"}),
        {"type": "object", "properties": {"$ref": {"type": "string"}, "type": INTEGER, "required": ANY}},
        of({"type": "array", "items": False, "prefixItems": [INTEGER, True], "uniqueItems": True, "minItems": 1}),
        of({"if": {"minimum": 1}, "then": {"multipleOf": 0.5}, "else": False, "not": {"const": 7}}),
        of({"format": "no such format", "type": ["string", "null"]}),
        of({"type": "integer", "enum": [1, "auto"]}),
        of({"type": ["integer", "null"], "enum": [None]}),
        of({"not": {"type": "integer", "enum": ["1"]}, "pattern": "/usr/"}),
        of({"pattern": r"/cost\$/"}, required=["y"]),
        of(INTEGER, required=["y"], additionalProperties=False, patternProperties={"y": ANY}),
        {"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    ],
)  # a table  # fmt: skip
def test_a_plain_schema_stays_as_it_is(schema):
    assert read(schema) is schema


@pytest.mark.parametrize(
    ("x", "as_read"),
    [
        ({"type": "int"}, INTEGER),
        ({"type": "STRING"}, {"type": "string"}),
        ({"type": "dict"}, {"type": "object"}),
        ({"type": "list", "items": {"type": "float"}}, {"type": "array", "items": {"type": "number"}}),
        ({"type": "any", "description": "d"}, {"description": "d"}),
        ({"type": ["int", "None"]}, {"type": ["integer", "null"]}),
        ({"type": None, "enum": None, "description": None, "items": None}, ANY),
        ("string", {"type": "string"}),
        (None, ANY),
        (True, ANY),
        (False, {"not": {}}),
        ({"type": "integer", "nullable": True}, {"type": ["integer", "null"]}),
        ({"type": "string", "enum": ["a"], "nullable": True}, {"type": ["string", "null"], "enum": ["a", None]}),
        ({"anyOf": [INTEGER], "nullable": True}, {"anyOf": [INTEGER, {"type": "null"}]}),
        ({"nullable": False, "type": "integer"}, INTEGER),
        ({"minimum": 0, "exclusiveMinimum": True}, {"exclusiveMinimum": 0}),
        ({"maximum": 9, "exclusiveMaximum": False}, {"maximum": 9}),
        ({"type": "integer", "required": False}, INTEGER),
        ({"required": "a", "properties": {"a": ANY}}, {"required": ["a"], "properties": {"a": ANY}}),
        ({"items": [INTEGER, "str"]}, {"prefixItems": [INTEGER, {"type": "string"}]}),
        ({"items": [INTEGER], "additionalItems": False}, {"prefixItems": [INTEGER], "items": False}),
        ({"items": INTEGER, "additionalItems": False}, {"items": INTEGER}),
        ({"dependencies": {"a": ["b"], "c": {"required": ["d"]}}},
         {"dependentRequired": {"a": ["b"]}, "dependentSchemas": {"c": {"required": ["d"]}}}),
        ({"discriminator": {"propertyName": "t"}, "oneOf": [INTEGER]}, {"oneOf": [INTEGER]}),
        ({"divisibleBy": 3}, {"multipleOf": 3}),
        ({"anyOf": [], "allOf": None}, ANY),
    ],
)  # a table  # fmt: skip
def test_what_has_one_meaning_is_read_as_that(x, as_read):
    assert read_x(x) == as_read


@pytest.mark.parametrize("schema", [{}, None, True, {"$schema": D7}, {"type": None}, {"$id": "http://x.y/z.json"}])
def test_a_schema_that_says_nothing_is_one_of_an_object(schema):
    assert read(schema) == {"type": "object", "properties": {}}


def test_the_type_of_the_root_may_be_missing_or_allow_null():
    assert read({"properties": {"x": INTEGER}}) == of(INTEGER)
    assert read({"type": ["object", "null"], "properties": {"x": INTEGER}}) == of(INTEGER)
    assert read({"type": "dict"}) == {"type": "object"}
    assert read({"anyOf": [of(INTEGER)]}) == {"type": "object", "anyOf": [of(INTEGER)]}


def test_required_may_be_written_at_the_property():
    schema = {"type": "object", "properties": {"a": {"required": True}, "b": ANY}, "required": ["b", "b"]}
    assert read(schema)["required"] == ["b", "a"]


@pytest.mark.parametrize("dialect", [D3, D4, D6, D7, D19, D20, D7.replace("http:", "https:")[:-1], "my own", 7])
def test_the_declared_dialect_is_not_shown_to_the_model(dialect):
    assert read({"$schema": dialect, **of(INTEGER)}) == of(INTEGER)


# References


@pytest.mark.parametrize(
    ("x", "more"),
    [
        ({"$ref": "#/$defs/I"}, {"$defs": {"I": INTEGER}}),
        ({"$ref": "#/definitions/I"}, {"definitions": {"I": INTEGER}, "$schema": D7}),
        ({"$ref": "#/definitions/a b~1c"}, {"definitions": {"a b/c": INTEGER}}),
        ({"$ref": "#/$defs/A"}, {"$defs": {"A": {"$ref": "#/$defs/I"}, "I": INTEGER}}),
        ({"$ref": "#i"}, {"$defs": {"I": {"$anchor": "i", **INTEGER}}}),
        ({"$ref": "#i"}, {"definitions": {"I": {"$id": "#i", **INTEGER}}, "$schema": D7}),
        ({"$ref": "#i"}, {"definitions": {"I": {"id": "#i", **INTEGER}}, "$schema": D4}),
        ({"$ref": "http://x.y/z.json#/$defs/I"}, {"$defs": {"I": INTEGER}, "$id": "http://x.y/z.json"}),
        ({"$ref": "#/$defs/I"}, {"$defs": {"I": INTEGER}, "$id": 7}),
        ({"$ref": "#/$defs/I", "type": "integer"}, {"$defs": {"I": INTEGER}}),
        ({"$ref": "#/definitions/I", "minimum": 1}, {"definitions": {"I": INTEGER}, "$schema": D7}),
        ({"$dynamicRef": "#/$defs/I"}, {"$defs": {"I": INTEGER}}),
        ({"$ref": "#/components/schemas/I"}, {"components": {"schemas": {"I": INTEGER}}}),
        ({"$ref": "#/properties/x/definitions/I", "definitions": {"I": INTEGER}}, {}),
    ],
)  # a table  # fmt: skip
def test_references_are_replaced_by_what_they_point_to(x, more):
    assert read(of(x, **more)) == of(INTEGER)


@pytest.mark.parametrize(
    ("x", "as_read"),
    [
        ({"$ref": "#/$defs/I", "description": "d", "default": 1}, {**INTEGER, "description": "d", "default": 1}),
        ({"description": "d", "allOf": [{"$ref": "#/$defs/I"}]}, {"description": "d", "allOf": [INTEGER]}),
        ({"$ref": "#/$defs/I", "minimum": 1}, {**INTEGER, "allOf": [{"minimum": 1}]}),
        ({"$ref": "#/$defs/I", "nullable": True}, {"type": ["integer", "null"]}),
        ({"$ref": "#/$defs/T", "description": "d"}, {"description": "d"}),
        ({"type": "array", "items": {"$ref": "#/$defs/I"}}, {"type": "array", "items": INTEGER}),
        ({"$ref": "#/properties/y/items"}, {"type": "string"}),
    ],
)  # a table  # fmt: skip
def test_what_stands_beside_a_reference_counts(x, as_read):
    y = {"type": "array", "items": {"type": "string"}}
    schema = {"type": "object", "properties": {"x": x, "y": y}, "$defs": {"I": INTEGER, "T": True}}
    assert read(schema)["properties"]["x"] == as_read


def test_the_root_may_be_a_reference():
    assert read({"$ref": "#/definitions/Arguments", "definitions": {"Arguments": of(INTEGER)}, "$schema": D7}) == of(
        INTEGER
    )


def test_only_definitions_that_contain_themselves_stay():
    node = {"type": "object", "properties": {"next": {"$ref": "#/definitions/Node"}, "n": {"$ref": "#/definitions/I"}}}
    schema = of({"$ref": "#/definitions/Node"}, definitions={"Node": node, "I": INTEGER, "unused": INTEGER})
    assert read(schema) == {
        "$defs": {"Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}, "n": INTEGER}}},
        **of({"$ref": "#/$defs/Node"}),
    }
    checked = Tool("t", "", schema, print)
    assert checked.argument_error({"x": {"next": {"next": {"n": 1}}}}) is None
    assert (
        checked.argument_error({"x": {"next": {"next": {"n": "1"}}}}) == "x.next.next.n: '1' is not of type 'integer'"
    )
    whole = {"type": "object", "properties": {"parent": {"$ref": "#"}}, "additionalProperties": False}
    assert read(whole) is whole
    deep: dict[str, Any] = {}
    for _ in range(900):
        deep = {"next": deep}
    assert checked.argument_error({"x": deep}) in (None, "they are nested too deeply")


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ("int", 'expected a JSON Schema of an object, found "int"'),
        (False, "found false"),
        ({"type": "array"}, "its type is 'array', not 'object'"),
        (of({"$ref": "http://0.0.0.0/x.json"}), "the reference 'http://0.0.0.0/x.json' cannot be resolved"),
        (of({"$ref": "other.json"}), "the reference 'other.json' cannot be resolved"),
        (of({"$ref": "#/$defs/I"}), "the reference '#/$defs/I' cannot be resolved"),
        (of({"$ref": "#/required"}, required=["x"]), "does not point to a schema"),
        ({"$ref": "#"}, "it refers to itself without end"),
        (of({"$ref": "#/$defs/A"}, **{"$defs": {"A": {"anyOf": [{"$ref": "#/$defs/B"}]}, "B": {"$ref": "#/$defs/A"}}}),
         "it refers to itself without end"),
    ],
)  # a table  # fmt: skip
def test_a_schema_whose_arguments_cannot_be_known_is_refused(schema, problem):
    with pytest.raises(SchemaError, match=r".*" + problem.replace("$", r"\$")):
        read_schema(schema)
    with pytest.raises(ToolDefinitionError, match="tool 't': its parameters are not a JSON Schema of arguments: "):
        Tool("t", "", schema, print)


# What is loosened


@pytest.mark.parametrize(
    ("x", "as_read", "note"),
    [
        ({"type": "nonsense"}, ANY, '"nonsense" is not a type; any value is accepted'),
        ({"type": [INTEGER, "string"]}, ANY, '{"type": "integer"} is not a type; any value is accepted'),
        ({"enum": []}, ANY, "enum is [], and is not checked"),
        ({"minLength": "3"}, ANY, 'minLength is "3", and is not checked'),
        ({"description": ["d"]}, ANY, 'description is ["d"], and is not checked'),
        ({"multipleOf": 0}, ANY, "multipleOf is 0, and is not checked"),
        ({"required": [1]}, ANY, "required is [1], and is not checked"),
        ({"anyOf": {"type": "integer"}}, ANY, "anyOf is not a list, and is not checked"),
        ({"properties": ["a"]}, ANY, "properties is not an object, and is not checked"),
        ({"pattern": 7}, ANY, "pattern is 7, and is not checked"),
        (7, ANY, "expected a schema, found 7; any value is accepted"),
        ({"pattern": "(?R)"}, {"pattern": "(?R)"}, "the pattern '(?R)' is not checked: '(?R)' is not supported"),
        ({"patternProperties": {"[": INTEGER}}, {"patternProperties": {"[": INTEGER}},
         "the pattern '[' is not checked: a [ is not closed"),
    ],
)  # a table  # fmt: skip
def test_a_keyword_that_cannot_be_read_is_left_out_with_a_warning(x, as_read, note):
    with pytest.warns(MentorEdgeWarning) as caught:
        tool = Tool("t", "", of(x), print)
    assert [str(warning.message) for warning in caught] == [f"tool 't': parameter 'x': {note}"]
    assert caught[0].filename == __file__
    assert tool.parameters["properties"]["x"] == as_read
    assert tool.argument_error({"x": {"k": 1}}) is None


CONTRADICTIONS = [
    ({"type": "integer", "enum": ["1", "2"]}, {"type": "string", "enum": ["1", "2"]}, "2",
     "no value of its enum is of type 'integer'; the values count"),
    ({"type": ["boolean", "null"], "enum": ["yes", None]}, {"type": ["string", "null"], "enum": ["yes", None]}, None,
     "no value of its enum is of type ['boolean', 'null']; the values count"),
    ({"type": "string", "const": 3}, {"type": "integer", "const": 3}, 3,
     "no value of its const is of type 'string'; the values count"),
    ({"minimum": 5, "maximum": 1}, ANY, 3, "minimum 5 is above maximum 1, and neither is checked"),
    (of(ANY, additionalProperties=False, required=["x", "b"]), of(ANY, additionalProperties=False, required=["x"]),
     {"x": 1}, "'b' is required, but does not exist; it is not required"),
    ({"pattern": "/^[a-z]+$/i"}, {"pattern": "(?i)^[a-z]+$"}, "Ab",
     "the pattern '/^[a-z]+$/i' is read as '(?i)^[a-z]+$'"),
    ({"pattern": "/[a-z]$/"}, {"pattern": "[a-z]$"}, "1b", "the pattern '/[a-z]$/' is read as '[a-z]$'"),
]  # a table  # fmt: skip


@pytest.mark.parametrize(("x", "as_read", "good", "note"), CONTRADICTIONS)
def test_constraints_that_no_value_can_fulfil_are_loosened_with_a_note(x, as_read, good, note):
    reading = read_schema(of(x))
    assert reading.notes == (f"parameter 'x': {note}",)
    assert read(reading.parameters)["properties"]["x"] == as_read
    assert Tool("t", "", reading.parameters, print).argument_error({"x": good}) is None


# Checking


@pytest.mark.parametrize(
    ("x", "good", "bad"),
    [
        ({"type": "string", "pattern": r"^\p{L}+$"}, ["Ané"], ["a1"]),
        ({"type": "object", "patternProperties": {r"^\p{Lu}": INTEGER}, "additionalProperties": False},
         [{"É": 1}], [{"É": "1"}, {"é": 1}]),
        ({"patternProperties": {"^a": True}, "properties": {"b": True}, "additionalProperties": INTEGER},
         [{"a": "", "b": "", "c": 1}], [{"c": ""}]),
        ({"minimum": 0, "exclusiveMinimum": True}, [1], [0]),
        ({"items": [{"type": "string"}, INTEGER], "additionalItems": False}, [["a", 1], ["a"]], [[1], ["a", 1, 2]]),
        ({"type": "integer", "nullable": True}, [1, 1.0, None], ["1", 1.5]),
        ({"type": "number", "multipleOf": 0.01}, [19.99, 4.35, 0.07, 1, 1e15], [19.995, 0.001]),
        ({"multipleOf": 0.1}, [0.3, 0.7, 1.1, 2], [0.35]),
        ({"multipleOf": 1e-9}, [1e-9, 0.123456789, 3], [1.5e-9]),
        ({"multipleOf": 3}, [10**30 * 3, 3.0, 0, -9], [10**30, 3.5]),
        ({"multipleOf": 1e-300}, [1e300], []),
        (False, [], [1, None]),
    ],
)  # a table  # fmt: skip
def test_arguments_are_checked_as_the_schema_says(x, good, bad):
    tool = Tool("t", "", of(x), print)
    assert [tool.argument_error({"x": value}) for value in good] == [None] * len(good)
    assert all(tool.argument_error({"x": value}) for value in bad)


@given(st.decimals(-(10**6), 10**6, places=4), st.sampled_from(["0.01", "0.1", "0.0001", "0.25", "7"]))
def test_multiples_are_exact_decimals(value, of_text):
    assert is_multiple(float(value), float(of_text)) == (Decimal(repr(float(value))) % Decimal(of_text) == 0)


def test_a_check_that_takes_too_long_refuses_the_call(monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 0.1)
    monkeypatch.setattr(time_limit, "SECONDS", 0.1)
    slow = Tool("t", "", of({"pattern": "^(a|a)*$"}), print)
    assert "cannot be compared with the pattern" in str(slow.argument_error({"x": "a" * 5000 + "?"}))
    branch = {"properties": {"n": {"$ref": "#/$defs/N"}}}
    doubling = of({"$ref": "#/$defs/N"}, **{"$defs": {"N": {"allOf": [branch, {**branch, "minProperties": 0}]}}})
    deep: dict[str, Any] = {}
    for _ in range(40):
        deep = {"n": deep}
    start = time.process_time()
    assert "cannot be compared with the schema within 0.1 s" in str(
        Tool("t", "", doubling, print).argument_error({"x": deep})
    )
    assert time.process_time() - start < 2


def test_definitions_that_multiply_stay_definitions():
    definitions: dict[str, Any] = {"D0": INTEGER}
    for n in range(1, 40):
        definitions[f"D{n}"] = {"properties": {"a": {"$ref": f"#/$defs/D{n - 1}"}, "b": {"$ref": f"#/$defs/D{n - 1}"}}}
    parameters = read(of({"$ref": "#/$defs/D39"}, **{"$defs": definitions}))
    assert len(json.dumps(parameters)) < 20_000
    chain = {f"D{n}": {"items": {"$ref": f"#/$defs/D{n + 1}"}} for n in range(2_000)}
    start = time.process_time()
    with pytest.raises(SchemaError, match="it refers to more than 1000 definitions"):
        read_schema(of({"$ref": "#/$defs/D0"}, **{"$defs": chain}))
    assert time.process_time() - start < 2
    with pytest.raises(SchemaError, match="it contains more than 10000 schemas"):
        read_schema(of({"anyOf": [{"const": n} for n in range(10_001)]}))


KEYWORDS = [
    "type", "properties", "required", "items", "additionalItems", "$ref", "$defs", "definitions", "enum", "const",
    "anyOf", "allOf", "not", "minimum", "exclusiveMinimum", "multipleOf", "pattern", "patternProperties", "nullable",
    "$id", "id", "$schema", "description", "default", "additionalProperties", "minLength", "dependencies", "format",
]  # a table  # fmt: skip
LEAVES = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        1,
        1.5,
        "",
        "object",
        "string",
        "any",
        "#",
        "#/$defs/a",
        "#/properties/a",
        "a",
        D4,
        D7,
        "[",
        "^a",
    ]
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*KEYWORDS, "a", "b"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(SCHEMAS, st.dictionaries(st.sampled_from("ab"), SCHEMAS, max_size=2))
def test_any_schema_is_read_as_a_valid_one_or_refused(schema, arguments):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tool = Tool("t", "", schema, print)
    except ToolDefinitionError:
        return
    lenient = read_schema(json.loads(json.dumps(tool.parameters).replace('"["', '"x"')))
    jsonschema.Draft202012Validator.check_schema(lenient.parameters)
    assert read_schema(tool.parameters).parameters == tool.parameters
    problem = tool.argument_error(arguments)
    assert problem is None or problem
