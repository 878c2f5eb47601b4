"""The twelve calculator operations in the nano world: their clauses, descriptions and operands."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mentor_edge.tools.calculator import CALCULATOR
from mentor_edge.tools.types import Tool

TOOL_BY_OPERATION: dict[str, Tool] = {tool.name: tool for tool in CALCULATOR}


@dataclass(frozen=True)
class Operation:
    """One operation of a story."""

    name: str
    clauses: tuple[str, str, str]
    """Its phrasings: the first is in domain, the others are paraphrases."""
    descriptions: tuple[str, str, str]
    """Descriptions of a tool that does it; the last one is kept for the `names` domain."""
    operands: Callable[[random.Random], tuple[int, ...]]
    """Draws the constants of a clause."""
    arguments: Callable[[float, tuple[float, ...]], Mapping[str, Any]]
    """The tool's arguments for the running value and the constants."""
    accepts: Callable[[float], bool] = lambda value: True
    """Whether the operation fits a running value."""

    def apply(self, value: float, constants: tuple[float, ...]) -> float:
        """The next running value."""
        return float_or_int(TOOL_BY_OPERATION[self.name].function(**self.arguments(value, constants)))


def float_or_int(value: float) -> float:
    """`value` as an int if it is whole."""
    return int(value) if float(value).is_integer() else value


def _one(low: int, high: int) -> Callable[[random.Random], tuple[int, ...]]:
    return lambda rng: (rng.randint(low, high),)


def _two(low: int, high: int) -> Callable[[random.Random], tuple[int, ...]]:
    return lambda rng: (rng.randint(low, high), rng.randint(low, high))


def _none(rng: random.Random) -> tuple[int, ...]:
    return ()


def _pair(value: float, constants: tuple[float, ...]) -> Mapping[str, Any]:
    return {"a": value, "b": constants[0]}


def _alone(value: float, constants: tuple[float, ...]) -> Mapping[str, Any]:
    return {"x": value}


def _fraction(value: float) -> bool:
    return not float(value).is_integer()


def _natural(value: float) -> bool:
    return float(value).is_integer() and value > 1


OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation(
            "add", ("gets {0} more", "finds {0} more", "is handed another {0}"),
            ("a plus b", "adds two numbers", "sum of both"), _one(2, 99), _pair,
        ),
        Operation(
            "subtract", ("loses {0}", "gives away {0}", "drops {0} of them"),
            ("a minus b", "takes b from a", "difference of both"), _one(2, 99), _pair,
        ),
        Operation(
            "multiply", ("then has {0} times as many", "makes it {0} times that", "repeats this {0} times"),
            ("a times b", "multiplies two numbers", "product of both"), _one(2, 12), _pair,
        ),
        Operation(
            "divide", ("shares it among {0}", "splits it into {0} equal parts", "hands each of {0} a share"),
            ("a divided by b", "divides a by b", "quotient of both"), _one(2, 12), _pair,
        ),
        Operation(
            "sum_numbers", ("joins piles of {0} and {1}", "pools it with {0} and {1}", "counts in {0} and also {1}"),
            ("total of a list", "adds up a list", "sum of many"), _two(2, 60),
            lambda value, constants: {"numbers": [value, *constants]},
        ),
        Operation(
            "floor", ("rounds down", "cuts off the fraction", "keeps only whole ones"),
            ("round down to whole", "next whole below", "drops the fraction"), _none, _alone, _fraction,
        ),
        Operation(
            "ceil", ("rounds up", "fills up to a whole", "counts any part as whole"),
            ("round up to whole", "next whole above", "fills the fraction"), _none, _alone, _fraction,
        ),
        Operation(
            "round_number", ("rounds to {0} decimals", "writes it with {0} decimals", "keeps {0} places"),
            ("round to some decimals", "rounds at digits", "shortens the decimals"), _one(0, 1),
            lambda value, constants: {"x": value, "digits": constants[0]}, _fraction,
        ),
        Operation(
            "power", ("raises it to the power {0}", "takes the power {0} of it", "uses exponent {0}"),
            ("base raised to exponent", "repeated product", "exponentiation"), _one(2, 3),
            lambda value, constants: {"base": value, "exponent": constants[0]}, _natural,
        ),
        Operation(
            "sqrt", ("takes the square root", "finds the root of it", "asks what squared gives it"),
            ("square root", "root of a number", "inverse of squaring"), _none, _alone, _natural,
        ),
        Operation(
            "abs_value", ("drops the minus sign", "ignores the sign", "takes the size without sign"),
            ("value without sign", "size of a number", "distance from zero"), _none, _alone, lambda value: value < 0,
        ),
        Operation(
            "modulo", ("packs boxes of {0} and counts the rest", "fills bags of {0} and keeps what is left",
                       "takes the remainder by {0}"),
            ("remainder of a by b", "rest of a division", "what is left over"), _one(2, 12), _pair, _natural,
        ),
    )
}  # a table  # fmt: skip
