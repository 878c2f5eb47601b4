from __future__ import annotations

import json
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mentor_edge.tools import calculator
from mentor_edge.tools.calculator import CALCULATOR, normalized

TOOLS = {tool.name: tool for tool in CALCULATOR}
NUMBERS = st.integers(-(10**6), 10**6) | st.decimals(-10_000, 10_000, places=3).map(float)


def test_the_twelve_tools_of_the_paper_in_its_order():
    assert list(TOOLS) == [
        "add",
        "subtract",
        "multiply",
        "divide",
        "sum_numbers",
        "floor",
        "ceil",
        "round_number",
        "power",
        "sqrt",
        "abs_value",
        "modulo",
    ]


@pytest.mark.parametrize(
    ("name", "arguments", "printed"),
    [
        ("add", {"a": 0.1, "b": 0.2}, "0.3"),
        ("add", {"a": 10**20, "b": 1}, "100000000000000000001"),
        ("subtract", {"a": 5, "b": 5}, "0"),
        ("multiply", {"a": 12.5, "b": 2}, "25"),
        ("divide", {"a": 6, "b": 3}, "2"),
        ("divide", {"a": 1, "b": 3}, "0.3333333333"),
        ("sum_numbers", {"numbers": [0.1] * 10}, "1"),
        ("sum_numbers", {"numbers": []}, "0"),
        ("sum_numbers", {"numbers": [1e16, 1, -1e16]}, "1"),
        ("floor", {"x": -1.5}, "-2"),
        ("ceil", {"x": -1.5}, "-1"),
        ("round_number", {"x": 2.345, "digits": 1}, "2.3"),
        ("round_number", {"x": 25, "digits": -1}, "20"),
        ("power", {"base": 2, "exponent": 10}, "1024"),
        ("power", {"base": 4, "exponent": -0.5}, "0.5"),
        ("sqrt", {"x": 16}, "4"),
        ("abs_value", {"x": -3}, "3"),
        ("modulo", {"a": -7, "b": 3}, "2"),
    ],
)
def test_results(name, arguments, printed):
    assert TOOLS[name].argument_error(arguments) is None
    assert json.dumps(TOOLS[name].function(**arguments)) == printed


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("divide", {"a": 1, "b": 0}, ZeroDivisionError),
        ("modulo", {"a": 1, "b": 0}, ZeroDivisionError),
        ("sqrt", {"x": -1}, ValueError),
        ("power", {"base": -8, "exponent": 0.5}, ValueError),
        ("power", {"base": 2, "exponent": 1001}, ValueError),
        ("power", {"base": 0, "exponent": -1}, ZeroDivisionError),
        ("multiply", {"a": 1e300, "b": 1e300}, ValueError),
        ("floor", {"x": math.inf}, OverflowError),
    ],
)
def test_impossible_operations_raise(name, arguments, error):
    with pytest.raises(error):
        TOOLS[name].function(**arguments)


@given(NUMBERS, NUMBERS)
def test_results_are_exact_to_ten_decimals_and_whole_numbers_are_ints(a, b):
    exact = {
        "add": Fraction(a) + Fraction(b),
        "subtract": Fraction(a) - Fraction(b),
        "multiply": Fraction(a) * Fraction(b),
    }
    for name, expected in exact.items():
        result = getattr(calculator, name)(a, b)
        assert math.isclose(result, expected, rel_tol=1e-12, abs_tol=1e-9)
        assert isinstance(result, int) or not result.is_integer()


@given(st.floats() | st.integers())
def test_normalized_is_finite_and_stable(value):
    try:
        result = normalized(value)
    except (ValueError, OverflowError):
        assert not isinstance(value, int)
        assert not math.isfinite(value)
    else:
        assert normalized(result) == result
        assert abs(result - value) <= 1e-10 * max(1.0, abs(value))


@pytest.mark.parametrize("tool", CALCULATOR, ids=lambda tool: tool.name)
def test_schemas_require_exactly_the_named_numbers(tool):
    schema = tool.to_openai()["function"]["parameters"]
    assert schema["required"] == list(schema["properties"]) and schema["additionalProperties"] is False
    good = {name: [1, 2.5] if part["type"] == "array" else 1 for name, part in schema["properties"].items()}
    assert tool.argument_error(good) is None
    assert tool.argument_error({**good, "extra": 1}) is not None
    for name in good:
        assert tool.argument_error({**good, name: "1"}) is not None
        assert tool.argument_error({key: value for key, value in good.items() if key != name}) is not None
