"""The parser takes time that is linear in the length of the turn, whatever a model repeats."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mentor_edge.tool_calls import parse_turn

CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {"a": {}}}}}
    for name in ("f", "get_weather", "math.add")
]


MEGABYTE = 1_000_000


def seconds(text: str, tools: Sequence[Any] = ()) -> float:
    """Processor time. Neither the machine's other work nor garbage collection counts; the latter would scan everything
    that other tests left in memory."""
    gc.disable()
    try:
        start = time.process_time()
        parse_turn(text, tools)
        return time.process_time() - start
    finally:
        gc.enable()


def assert_linear(text: Callable[[int], str], size: int, tools: Sequence[Any] = ()) -> None:
    """A text of `size` characters takes less than a second, and about four times as long as one of a quarter.

    It is measured up to three times, as single measurements vary.
    """
    for _ in range(3):
        whole, quarter = (seconds(text(length), tools) for length in (size, size // 4))
        if linear := whole < min(1.0, 8 * quarter + 0.05):
            break
    assert linear, (whole, quarter)


AROUND = (("<think>", "</think> 3"), ("<tool_call>", ""), ("[f(a=[", "])]"))


@pytest.mark.parametrize(
    ("before", "after"),
    [("", ""), *(pytest.param(*around, marks=pytest.mark.slow) for around in AROUND)],
)
@pytest.mark.parametrize(
    "unit",
    [
        "{", "[", "(", '"', "\\", "\n", "<tool_call>", "</tool_call>", "<think>", "</think>", "<|python_tag|>", "[f(",
        '{"name":', "<tool_call>{", '<tool_call>"', '<tool_call>{"name":"', "<tool_call></think>", "[f(a=1)]",
        '{"name":"f","parameters":{}};', CALL, f"{CALL}</think>",
    ],
)  # a table  # fmt: skip
def test_a_megabyte_takes_well_under_a_second_and_four_times_as_long_as_a_quarter(unit, before, after):
    assert_linear(lambda size: before + unit * (size // len(unit)) + after, MEGABYTE)


def test_long_arguments_are_read_in_linear_time():
    def text(size: int) -> str:
        return '<tool_call>{"name": "add", "arguments": {"a": [' + '{"b":[]},' * (size // 9) + "1]}}</tool_call>"

    assert_linear(text, MEGABYTE)


@pytest.mark.parametrize(
    "unit",
    [
        "f() ", "f(1) = ", "f(a='x')\n", "[f(a=1)]", "[f(a=1)](x) ", "f(", "get_weather(a) ", "def f(", '{"', '{"a":',
        '[{"', '{"a": "', '{"name":"f"', '{"a":1} x ', '{"f":{"a":1}} x ', '```json\n{"a":', "```python\nf(a=1)\n```\n",
        "```", "~~~", "<function=f><parameter=a>", "</parameter>", "[TOOL_CALLS]", "[TOOL_CALLS]f{", "<|tool_call|>",
        "<tools>{", "<start_function_call>call:f{a:", "<escape>", "<｜tool▁calls▁begin｜>", "<tool_call>f\n<arg_key>",
        "<invoke name=", "functools[{", "Action: f\n", '"name": "', "</think><tool_call>{",
        '</think>{"name":', "</think><function=f>",
        "<tool_call>f(a=1)</tool_call>", "name: f\n", "[f(1)] = 2 ", 'f {"a": 1}\n', "f:\n a: 1 ", "<think></think>",
    ],
)  # a table  # fmt: skip
def test_no_repeated_spelling_is_slow_with_tools(unit):
    assert_linear(lambda size: unit * (size // len(unit)), MEGABYTE // 10, TOOLS)
