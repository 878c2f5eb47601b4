"""The parser takes time that is linear in the length of the turn, whatever a model repeats."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
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
    """Processor time, the best of three. Neither the machine's other work nor garbage collection counts; the latter
    would scan everything that other tests left in memory."""
    taken = []
    gc.disable()
    try:
        for _ in range(3):
            start = time.process_time()
            parse_turn(text, tools)
            taken.append(time.process_time() - start)
    finally:
        gc.enable()
    return min(taken)


@pytest.mark.parametrize(
    ("before", "after"), [("", ""), ("<think>", "</think> 3"), ("<tool_call>", ""), ("[f(a=[", "])]")]
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
    whole, quarter = (seconds(before + unit * (size // len(unit)) + after) for size in (MEGABYTE, MEGABYTE // 4))
    assert whole < 1.0
    assert whole < 8 * quarter + 0.05


def test_long_arguments_are_read_in_linear_time():
    def text(size: int) -> str:
        return '<tool_call>{"name": "add", "arguments": {"a": [' + '{"b":[]},' * (size // 9) + "1]}}</tool_call>"

    assert seconds(text(MEGABYTE)) < min(1.0, 8 * seconds(text(MEGABYTE // 4)) + 0.05)


@pytest.mark.parametrize(
    "unit",
    [
        "f() ", "f(1) = ", "f(a='x')\n", "[f(a=1)]", "[f(a=1)](x) ", "f(", "get_weather(a) ", "def f(", '{"', '{"a":',
        '[{"', '{"a": "', '{"name":"f"', '{"a":1} x ', '{"f":{"a":1}} x ', '```json\n{"a":', "```python\nf(a=1)\n```\n",
        "```", "~~~", "<function=f><parameter=a>", "</parameter>", "[TOOL_CALLS]", "[TOOL_CALLS]f{", "<|tool_call|>",
        "<tools>{", "<start_function_call>call:f{a:", "<escape>", "<｜tool▁calls▁begin｜>", "<tool_call>f\n<arg_key>",
        "<invoke name=", "functools[{", "Action: f\n", '"name": "', "</think><tool_call>{",
        '</think>{"name":', "</think><function=f>",
        "<tool_call>f(a=1)</tool_call>", "name: f\n",
    ],
)  # a table  # fmt: skip
def test_no_repeated_spelling_is_slow_with_tools(unit):
    size = MEGABYTE // 10
    whole, quarter = (seconds(unit * (length // len(unit)), TOOLS) for length in (size, size // 4))
    assert whole < 1.0
    assert whole < 8 * quarter + 0.1
