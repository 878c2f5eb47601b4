"""The inputs of the parity checks: texts that tokenizers split differently, and conversations to render."""

# The corpus holds look-alike letters on purpose.
# ruff: noqa: RUF001

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mentor_edge.messages import Message, ToolCall
from mentor_edge.tool_calls import PYTHON_TAG, THINK_CLOSE, TOOL_CALL_CLOSE, TOOL_CALL_OPEN

TEXTS = (
    "",
    "a",
    " leading and trailing ",
    "Don't you'LL we're I'M they'd CAN'T o'clock",
    "spaces:  two   three    four, tab:\t\ttwo, mixed: \t \t x",
    "lines\n\n\nthree\r\ncarriage\r\rtwo\n \n  \n\tend\n",
    "   \n   \n",
    "0 1 12 123 1234 12345 1234567890 3.14159 -2e10 1,000,000 007 ½ ² Ⅷ ٣ 五",
    "def f(x: int) -> int:\n    return x ** 2  # comment\n\n\tif a[0] != b['c']:\n\t\tprint(f\"{a!r}\\n\")\n",
    '{"name": "get_weather", "arguments": {"city": "Zürich", "days": 3, "units": ["C", "F"], "x": null}}',
    '{"a":{"b":[{"c":-1.5e-3},true,false]},"d":"\\u00e9\\\\"}',
    "naïve café Übergröße œuvre Ångström ﬁne ǅ",
    "decomposed: e\u0301 n\u0303 o\u0308 a\u030a\u0301",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดีชาวโลก",
    "你好，世界！今天天气怎么样？ こんにちは、世界。안녕하세요 세계 한국어",
    "emoji: 😀👍🏽👩‍👩‍👧‍👦🇨🇭 ❤️ 🏳️‍🌈 end",
    "rare: \u200b zero-width, \u00a0nbsp, \u3000wide, \ufeffbom, \U0001d54f math, \u2028 line, \x00 nul, \x7f del",
    "!!! ... --- ?!?! <<>> (([{}])) //// \\\\ $$ %% ^^ && ** ++ == ~~ `` || ;; :: '' \"\"",
    "https://example.org/a?b=c&d=%20#e user@example.org /usr/local/bin C:\\Users\\x",
    "hello , world . it 's here ! do n't ? a 'm",
    f'{TOOL_CALL_OPEN}\n{{"name": "add", "arguments": {{"a": 2, "b": 40}}}}\n{TOOL_CALL_CLOSE}',
    f"x{TOOL_CALL_OPEN}{TOOL_CALL_OPEN} {TOOL_CALL_CLOSE}\n\n<tool_response>42</tool_response>y",
    f'<think>\nadd them{THINK_CLOSE}\n\n{PYTHON_TAG}[get_weather(city="Rome")] <start_of_turn>model\n<end_of_turn>',
    "<tool_call <tool_call>> </tool_call > <|im_start <|im_end|>|> <|im_start|>user\nhi<|im_end|>\n",
)


@dataclass(frozen=True, slots=True)
class Probe:
    """A conversation to render. `tools` are OpenAI function schemas."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    add_generation_prompt: bool = True


def _schema(name: str, description: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


_NUMBER = {"type": "number", "description": "any number, e.g. -1.5e3"}
_TOOLS = (
    _schema("add", "Add two numbers.", {"a": _NUMBER, "b": _NUMBER}, ["a", "b"]),
    _schema(
        "find_trains",
        "Find trains, e.g. from „Zürich HB“ <to> 'Genève' & back.",
        {
            "route": {
                "type": "object",
                "properties": {"from": {"type": "string"}, "via": {"type": "array", "items": {"type": "string"}}},
            },
            "class": {"enum": [1, 2], "default": 2},
        },
        ["route"],
    ),
    _schema("now", "The time.", {}, []),
)
_SYSTEM = Message("system", "You are terse.\n")
_QUESTION = Message("user", "What is 2 + 40?")
_CALL = Message("assistant", "", (ToolCall("add", {"a": 2, "b": 40}),))
_RESULT = Message("tool", "42", name="add")
_ANSWER = Message("assistant", "It is \\boxed{42}.")
_NESTED = {"route": {"from": 'Zürich "HB"', "via": ["東京", "Genève\n", {"x": [None, True, -1.5e-3]}]}, "class": 1}
_TWO_CALLS = Message("assistant", "Both at once.", (ToolCall("find_trains", _NESTED), ToolCall("now", {})))
_TWO_RESULTS = (Message("tool", '{"trains": ["IC 1", "<b>&\'"]}', name="find_trains"), Message("tool", "", name="now"))

PROBES = (
    Probe((_QUESTION,)),
    Probe((_SYSTEM, _QUESTION)),
    Probe((_SYSTEM, _QUESTION, _ANSWER), add_generation_prompt=False),
    Probe((_QUESTION,), _TOOLS[:1]),
    Probe((_SYSTEM, _QUESTION), _TOOLS),
    Probe((_QUESTION, _CALL), _TOOLS, add_generation_prompt=False),
    Probe((_SYSTEM, _QUESTION, _CALL, _RESULT), _TOOLS),
    Probe((_SYSTEM, _QUESTION, _CALL, _RESULT, _ANSWER), _TOOLS, add_generation_prompt=False),
    Probe((_QUESTION, _TWO_CALLS, *_TWO_RESULTS), _TOOLS),
    Probe((_QUESTION, _CALL, _RESULT, _TWO_CALLS, *_TWO_RESULTS, _ANSWER, _QUESTION), _TOOLS),
    Probe((_QUESTION, Message("assistant", "<think>\nEasy.\n</think>\n\n42"), Message("user", " spaces \n\n")), _TOOLS),
)
"""Conversations with and without a system message, with tools, calls (none, one, several in a turn; nested and Unicode
arguments), their results, thinking, and the prompt for the next turn. A template may refuse some of them."""
