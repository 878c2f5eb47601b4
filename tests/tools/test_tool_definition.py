"""Functions as tools: schemas, conversion of arguments and results, and what is refused."""

from __future__ import annotations

import datetime
import enum
import functools
import hashlib
import json
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pydantic
import pytest

from helpers.tool_types import Level, Pair, Point, Unit
from mentor_edge.errors import ToolDefinitionError
from mentor_edge.messages import ToolCall
from mentor_edge.tasks.registry import load_suite
from mentor_edge.tools.calculator import CALCULATOR
from mentor_edge.tools.definition import tool
from mentor_edge.tools.execution.executor import ToolExecutor
from mentor_edge.tools.types import Tool


class Tree(pydantic.BaseModel):
    children: list[Tree] = []


@pytest.fixture(scope="module")
def executor():
    with ToolExecutor() as shared:
        yield shared


def answer(executor: ToolExecutor, of: Tool, **arguments: Any) -> str:
    return executor.run(ToolCall(of.name, arguments), {of.name: of}).content


def properties(of: Tool) -> dict[str, Any]:
    return of.to_openai()["function"]["parameters"]["properties"]


def test_the_schemas_that_models_were_trained_on_stay_byte_for_byte():
    text = json.dumps([one.to_openai() for one in CALCULATOR])
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "5ad6940cb188819679a612a71e3bb89612e37ec30731f8b6d7a16aa191ff8ef8"
    )
    assert load_suite("nano").sha256 == "7240d94e13629ffebdcfde8095c5bb80f4ff327482c20cb8f101211b0eb2cae7"


def test_a_function_becomes_a_tool():
    @tool
    def search(query: str, top_n: int = 5, tags: list[str] | None = None) -> list[str]:
        """Find documents.

        The second paragraph is for programmers.
        """
        return []

    assert (search.name, search.description) == ("search", "Find documents.")
    schema = search.to_openai()["function"]["parameters"]
    assert schema["required"] == ["query"] and schema["additionalProperties"] is False
    assert schema["properties"]["top_n"] == {"default": 5, "type": "integer"}
    assert search.argument_error({"query": "x", "tags": ["a"]}) is None
    assert search.argument_error({"query": "x", "tags": [1]}) is not None
    assert "'query' is a required property" in str(search.argument_error({}))


def test_every_kind_of_type_has_its_schema():
    @tool
    def f(
        unit: Unit,
        way: Literal["up", "down"],
        sizes: dict[str, list[float]],
        day: datetime.date,
        limit: Annotated[int, pydantic.Field(description="how many", ge=1)] = 3,
        level: Level = Level.HIGH,
        title: str | None = None,
    ) -> None:
        """Anything."""

    assert properties(f) == {
        "unit": {"enum": ["m", "ft"], "type": "string"},
        "way": {"enum": ["up", "down"], "type": "string"},
        "sizes": {"additionalProperties": {"items": {"type": "number"}, "type": "array"}, "type": "object"},
        "day": {"format": "date", "type": "string"},
        "limit": {"default": 3, "description": "how many", "minimum": 1, "type": "integer"},
        "level": {"default": 2, "enum": [1, 2], "type": "integer"},
        "title": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
    }


def test_nested_models_are_inlined_and_recursive_ones_are_not():
    @tool
    def go(to: Point, back: Point | None = None) -> None:
        """Travel."""

    @tool
    def grow(tree: Tree) -> int:
        """Count."""
        return 1 + sum(grow.function(child) for child in tree.children)

    assert "$defs" not in go.parameters and "$ref" not in json.dumps(go.to_openai())
    assert list(properties(go)["to"]["properties"]) == ["title", "unit", "day"]
    assert properties(go)["back"]["anyOf"][0] == properties(go)["to"]
    assert "$defs" in grow.parameters
    assert grow.argument_error({"tree": {"children": [{"children": []}]}}) is None
    assert grow.argument_error({"tree": {"children": [{"children": 1}]}}) is not None


def test_arguments_arrive_as_the_annotated_types(executor):
    @tool
    def kinds(
        point: Point, points: list[Point], unit: Unit, level: Level, day: datetime.date, pair: Pair, n: int, x: float
    ) -> list[str]:
        """Name the types."""
        return [type(value).__name__ for value in (point, points[0], unit, level, day, pair, n, x)]

    given = {
        "point": {"title": "a"},
        "points": [{"title": "b", "unit": "ft"}],
        "unit": "m",
        "level": 2,
        "day": "2026-01-31",
        "pair": {"left": 1, "right": 2},
        "n": 4.0,
        "x": 5,
    }
    assert json.loads(answer(executor, kinds, **given)) == [
        "Point",
        "Point",
        "Unit",
        "Level",
        "date",
        "Pair",
        "int",
        "int",
    ]
    assert json.loads(answer(executor, kinds, **{**given, "day": "2026-02-31"})) == {
        "error": "invalid arguments: day: Input should be a valid date or datetime, day value is outside expected range"
    }


def test_defaults_come_from_the_function_and_large_whole_numbers_keep_their_digits(executor):
    @tool
    def f(x: float, unit: Unit = Unit.FOOT) -> list[Any]:
        """Anything."""
        return [x, unit is Unit.FOOT]

    assert answer(executor, f, x=10**20 + 1) == "[100000000000000000001, true]"


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (Point(title="é", day=datetime.date(2026, 1, 31)), '{"title": "é", "unit": "m", "day": "2026-01-31"}'),
        ([Pair(1, 2.5)], '[{"left": 1, "right": 2.5}]'),
        ({"unit": Unit.FOOT}, '{"unit": "ft"}'),
        (Level.HIGH, "2"),
        (datetime.date(2026, 1, 31), '"2026-01-31"'),
        (enum.StrEnum("Way", "UP").UP, "up"),
    ],
)
def test_results_of_rich_types_are_json(executor, value, printed):
    assert answer(executor, Tool("t", "", {"type": "object"}, lambda: value)) == printed


def no_docstring(x: int) -> int:
    return x


def no_type(x, y: int = 0):  # type: ignore[no-untyped-def]
    """Does nothing."""


def many(*x: int) -> int:
    """Takes many."""
    return 0


def keywords(**x: int) -> int:
    """Takes many."""
    return 0


def positional(x: int, /) -> int:
    """Takes one."""
    return 0


class Handle:
    """A type that JSON cannot express."""


def odd_type(x: Handle) -> int:
    """Takes a handle."""
    return 0


def takes_a_function(x: Callable[[], int]) -> int:
    """Takes a function."""
    return 0


def unresolved(x: Nowhere) -> int:  # type: ignore[name-defined]  # noqa: F821
    """Takes an unknown type."""
    return 0


def odd_default(x: Any = Handle()) -> int:  # noqa: B008
    """Takes anything."""
    return 0


def not_optional(x: list[str] = None) -> int:  # type: ignore[assignment]  # noqa: RUF013
    """Takes a list."""
    return 0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_docstring, "has no docstring"),
        (no_type, "parameter 'x' has no type annotation"),
        (many, "parameter 'x' cannot be passed by name"),
        (keywords, "parameter 'x' cannot be passed by name"),
        (positional, "parameter 'x' cannot be passed by name"),
        (odd_type, "parameter 'x' has a type without JSON Schema"),
        (takes_a_function, "parameter 'x' has a type without JSON Schema"),
        (unresolved, "parameter 'x' has a type that cannot be resolved: name 'Nowhere'"),
        (odd_default, "parameter 'x' cannot be expressed in JSON"),
        (not_optional, "the default None of parameter 'x' does not fit its annotation"),
    ],
)
def test_an_incomplete_definition_is_refused(function, message):
    with pytest.raises(ToolDefinitionError, match=re.escape(message)) as raised:
        tool(function)
    assert repr(function.__name__) in raised.value.problem and raised.value.hint


def bad_pattern(x: Annotated[str, pydantic.Field(pattern="(?=a)")]) -> str:
    """Takes text."""
    return x


def test_a_pattern_that_pydantic_cannot_compile_is_refused():
    with pytest.raises(ToolDefinitionError, match=r"tool 'bad_pattern': pydantic refuses the annotation of .* 'x': .*"):
        tool(bad_pattern)


def test_pydantic_checks_patterns_in_its_own_syntax(executor):
    @tool
    def greet(
        name: Annotated[str, pydantic.Field(pattern=r"^[\p{Lu}&&[^A-Z]]\p{L}+\z")],
        ages: dict[Annotated[str, pydantic.Field(pattern=r"^\p{L}+$")], int] | None = None,
        digits: Annotated[str, pydantic.Field(pattern=r"^\d$")] = "1",
    ) -> str:
        """Greet a person."""
        return f"Hello {name}"

    assert answer(executor, greet, name="Éva", ages={"Éa": 1}, digits="٣") == "Hello Éva"
    assert "name: String should match pattern" in answer(executor, greet, name="Eva")
    assert "should match pattern" in answer(executor, greet, name="Éva", ages={"1": 1})


def test_amounts_are_multiples_of_a_cent(executor):
    @tool
    def pay(amount: Annotated[float, pydantic.Field(multiple_of=0.01)]) -> str:
        """Pay an amount."""
        return f"paid {amount}"

    assert [answer(executor, pay, amount=amount) for amount in (19.99, 4.35, 7)] == [
        "paid 19.99",
        "paid 4.35",
        "paid 7",
    ]
    assert "19.999 is not a multiple of 0.01" in answer(executor, pay, amount=19.999)


def test_names_that_chat_apis_refuse_are_refused():
    def größe() -> int:
        """Size."""
        return 1

    for function in (größe, lambda: 1, functools.partial(len)):
        with pytest.raises(ToolDefinitionError, match="name that chat APIs refuse"):
            tool(function)
    with pytest.raises(ToolDefinitionError, match="tool_set"):
        tool(Handle)


def test_an_unknown_return_type_does_not_matter():
    def f(x: int) -> Nowhere:  # type: ignore[name-defined]  # noqa: F821
        """Fine."""

    assert tool(f).name == "f"
