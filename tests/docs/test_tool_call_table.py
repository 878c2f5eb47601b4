"""docs/tool_calls.md and the parser agree: every example is parsed."""

from __future__ import annotations

import re

import pytest

from helpers.paths import ROOT
from mentor_edge.messages import Message, ToolCall
from mentor_edge.tool_calls import parse_turn

PAGE = (ROOT / "docs" / "tool_calls.md").read_text(encoding="utf-8")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
ROWS = re.findall(
    r"^\| (`+)(?P<example>.+?)\1 \| .* \| (?P<result>read|malformed|answer) \|$", PAGE, flags=re.MULTILINE
)
EXAMPLES = [(text.strip().replace("\\|", "|").replace("⏎", "\n"), result) for _, text, result in ROWS]


def test_every_row_is_found():
    assert len(EXAMPLES) == sum(line.startswith("| `") for line in PAGE.splitlines()) > 60


@pytest.mark.parametrize(("text", "result"), EXAMPLES)
def test_every_example_is_what_the_page_says(text, result):
    turn = parse_turn(text, TOOLS)
    assert turn.malformed == (result == "malformed")
    assert set(map(repr, turn.message.tool_calls)) == (
        {repr(ToolCall("get_weather", {"city": "Oslo"}))} if result == "read" else set()
    )
    if result == "answer":
        assert turn.message == Message("assistant", text)
