"""The twelve calculator tools of the MENTOR paper (arXiv 2510.18383).

Names are the paper's; argument names and descriptions are ours (the paper's schemas are not in its released code).
Whole results are ints (12, not 12.0); others are rounded to ten decimals (0.3, not 0.30000000000000004). A model has to
copy them digit by digit.
"""

from __future__ import annotations

import math

from mentor_edge.tools.definition import tool
from mentor_edge.tools.types import Tool


def normalized(value: float) -> float:
    """Remove float noise: round `value` to ten decimals, and return an int if that is whole.

    Raises: ValueError for NaN, infinities and complex results.
    """
    if isinstance(value, complex) or not math.isfinite(value):
        raise ValueError("the result is not a finite real number")
    if isinstance(value, int):
        return value
    rounded = round(value, 10)
    return int(rounded) if rounded.is_integer() else rounded


def add(a: float, b: float) -> float:
    """a plus b"""
    return normalized(a + b)


def subtract(a: float, b: float) -> float:
    """a minus b"""
    return normalized(a - b)


def multiply(a: float, b: float) -> float:
    """a times b"""
    return normalized(a * b)


def divide(a: float, b: float) -> float:
    """a divided by b"""
    return normalized(a / b)


def sum_numbers(numbers: list[float]) -> float:
    """total of a list"""
    return normalized(math.fsum(numbers))


def floor(x: float) -> float:
    """round down to whole"""
    return math.floor(x)


def ceil(x: float) -> float:
    """round up to whole"""
    return math.ceil(x)


def round_number(x: float, digits: int) -> float:
    """round to some decimals"""
    return normalized(round(x, digits))


def power(base: float, exponent: float) -> float:
    """base raised to exponent"""
    if abs(exponent) > 1000:
        raise ValueError(f"exponent {exponent} is out of range (-1000 to 1000)")
    return normalized(base**exponent)


def sqrt(x: float) -> float:
    """square root"""
    return normalized(math.sqrt(x))


def abs_value(x: float) -> float:
    """value without sign"""
    return normalized(abs(x))


def modulo(a: float, b: float) -> float:
    """remainder of a by b"""
    return normalized(a % b)


CALCULATOR: tuple[Tool, ...] = tuple(
    tool(function)
    for function in (
        add, subtract, multiply, divide, sum_numbers, floor, ceil, round_number, power, sqrt, abs_value, modulo,
    )
)  # a table  # fmt: skip
"""All twelve tools, in the paper's order."""
