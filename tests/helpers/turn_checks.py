"""What is true of every text that the parser reads."""

from __future__ import annotations

import json

from mentor_edge.tool_calls import ParsedTurn, parse_turn

CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
FRAGMENTS = (
    "<tool_call>", "</tool_call>", "<think>", "</think>", "<|python_tag|>", CALL, '{"name": "add"', '"name": "add"',
    ', "arguments": {', ', "parameters": {', '"a": ', "{", "}", "[", "]", "(", ")", "[f(a=", "f(", "g.h(b=", "=", ",",
    ";", '"', "'", "\\", '\\"', "\\u00e9", "\\ud800", "\ud800", "\0", "\n", " ", "1", "-", "1e999", "NaN", "None",
    "null", "True", "**", "lambda: ", "text", "```", "```json\n", "~~~", "<function=f>", "</function>", "<parameter=a>",
    "</parameter>", "[TOOL_CALLS]", "[ARGS]", "<|tool_call|>", "<|tool_call_start|>", "<start_function_call>",
    "call:f{", "<escape>", "<tools>", "<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>", "<arg_key>", "Action: f\n", '{"f": ',
    "def f(", "functions.f(", "f[", "</thinking>", "<|channel|>final<|message|>",
)  # a table  # fmt: skip
"""What the shapes are made of, and what breaks them."""


def check_turn(text: str) -> None:
    """What is true of every text, with and without tools."""
    for tools in (
        [],
        [{"function": {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}}}, "odd", {}],
    ):
        check(text, parse_turn(text, tools))


def check(text: str, turn: ParsedTurn) -> None:
    message = turn.message
    assert message.role == "assistant"
    if turn.malformed:
        assert not message.tool_calls
    if not message.tool_calls:
        assert message.content == text
    for call in message.tool_calls:  # what it lets through can be encoded and written as JSON
        json.dumps(call.to_openai(), ensure_ascii=False, allow_nan=False).encode()
