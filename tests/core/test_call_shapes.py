"""Generated turns: every spelling of a call, in any surroundings, is read or malformed; anything else is an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mentor_edge.messages import Message, ToolCall
from mentor_edge.tool_calls import parse_turn


def schema(name: str, **types: str) -> dict[str, Any]:
    properties = {key: {"type": kind} for key, kind in types.items()}
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


TOOLS = [
    schema("get_weather", city="string", days="integer", options="object"),
    schema("floor", x="number"),
    schema("math.add", a="number", b="number"),
    schema("web_search", query="string", tags="array"),
]

TEXTS = st.text(max_size=12) | st.sampled_from(
    [
        "Zürich",
        "東京",
        "a </think> b",
        "</tool_call>",
        '"',
        "\\",
        "```",
        "it's",
        "x\ny",
        "{",
        "]",
        "😀",
        "<escape>",
        "f(x)",
    ]
)
ENCODABLE = TEXTS.filter(lambda text: text.encode("utf-8", "ignore").decode() == text)
VALUES = st.recursive(
    ENCODABLE | st.integers(-999, 999) | st.booleans() | st.none() | st.floats(-9, 9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b", "名"]), inner, max_size=2),
    max_leaves=4,
)
CALLS = st.builds(
    ToolCall,
    st.sampled_from(["get_weather", "floor", "math.add", "web_search"]),
    st.dictionaries(st.sampled_from(["city", "query", "x", "tags"]), VALUES, max_size=3),
)


def as_json(call: ToolCall, name: str = "name", arguments: str = "arguments") -> str:
    return json.dumps({name: call.name, arguments: call.arguments}, ensure_ascii=False)


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def xml(call: ToolCall) -> str:
    parameters = "".join(
        f"<parameter={key}>\n{text_of(value)}\n</parameter>\n" for key, value in call.arguments.items()
    )
    return f"<function={call.name}>\n{parameters}</function>"


def python(call: ToolCall) -> str:
    return f"{call.name}({', '.join(f'{key}={value!r}' for key, value in call.arguments.items())})"


def braces(value: Any) -> str:
    match value:
        case str():
            return f"<escape>{value}<escape>"
        case dict():
            return "{" + ",".join(f"{key}:{braces(inner)}" for key, inner in value.items()) + "}"
        case list():
            return f"[{','.join(map(braces, value))}]"
    return json.dumps(value)


SHAPES: dict[str, Callable[[ToolCall], str]] = {
    "hermes": lambda call: f"<tool_call>\n{as_json(call)}\n</tool_call>",
    "hermes, fenced": lambda call: f"<tool_call>\n```json\n{as_json(call)}\n```\n</tool_call>",
    "tools": lambda call: f"<tools>{as_json(call)}</tools>",
    "functioncall": lambda call: f"<functioncall>{as_json(call)}",
    "qwen3-coder": lambda call: f"<tool_call>\n{xml(call)}\n</tool_call>",
    "qwen3-coder, bare": xml,
    "llama function": lambda call: f"<function={call.name}>{json.dumps(call.arguments)}</function>",
    "llama json": lambda call: as_json(call, arguments="parameters"),
    "python tag": lambda call: f"<|python_tag|>{as_json(call, arguments='parameters')}",
    "openai": lambda call: json.dumps({"type": "function", "function": json.loads(as_json(call))}),
    "openai, list": lambda call: json.dumps({"tool_calls": [{"function": json.loads(as_json(call))}]}),
    "input": lambda call: as_json(call, arguments="input"),
    "fence": lambda call: f"```json\n{as_json(call)}\n```",
    "fence without language": lambda call: f"```\n{as_json(call)}\n```",
    "tildes": lambda call: f"~~~\n[{as_json(call)}]\n~~~",
    "tool_call fence": lambda call: f"```tool_call\n{as_json(call)}\n```",
    "tool_code fence": lambda call: f"```tool_code\n{python(call)}\n```",
    "python list": lambda call: f"[{python(call)}]",
    "python": python,
    "lfm2": lambda call: f"<|tool_call_start|>[{python(call)}]<|tool_call_end|>",
    "granite": lambda call: f"<|tool_call|>[{as_json(call)}]",
    "phi-4-mini": lambda call: f"<|tool_call|>[{as_json(call)}]<|/tool_call|>",
    "mistral": lambda call: f"[TOOL_CALLS][{as_json(call)}]",
    "mistral, newer": lambda call: f"[TOOL_CALLS]{call.name}[ARGS]{json.dumps(call.arguments)}",
    "functiongemma": lambda call: f"<start_function_call>call:{call.name}{braces(call.arguments)}<end_function_call>",
    "deepseek": lambda call: (
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{call.name}\n```json\n"
        f"{json.dumps(call.arguments)}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "command": lambda call: f"<|START_ACTION|>[{as_json(call, 'tool_name', 'parameters')}]<|END_ACTION|>",
    "react": lambda call: f"Action: {call.name}\nAction Input: {json.dumps(call.arguments)}",
    "single quotes": lambda call: f"<tool_call>{{'name': '{call.name}', 'arguments': {call.arguments!r}}}</tool_call>",
    "unclosed": lambda call: f"<tool_call>{as_json(call)}",
    "unclosed json": lambda call: as_json(call)[:-1],
    "unclosed function": lambda call: f"<function={call.name}>\n<parameter=city>\nOs",
    "other tag": lambda call: f"<|function_call_v2|>{as_json(call)}",
    "positional": lambda call: f'{call.name}("Oslo")',
    "yaml": lambda call: f"name: {call.name}\narguments:\n  city: Oslo",
}  # fmt: skip
PROSE = st.sampled_from(
    ["", "\n", "I look it up.\n", "Let me see: ", "Sí, 東京 😀.\n\n", "1. First\n2. Then\n", "(I wait.)\n"]
)
AFTER = st.sampled_from(["", "\n", " \n", "\nOne moment.", "\n\nThen I add 2 and 3.", " and so on."])
THINKING = st.sampled_from(
    ["", "<think>Which city?</think>\n", "<think>\nget_weather(city=1)?\n</think>\n\n", "hm</think>"]
)


@given(st.sampled_from(sorted(SHAPES)), CALLS, THINKING, PROSE, AFTER)
@settings(max_examples=1000)
def test_a_call_in_any_spelling_is_read_or_malformed(shape, call, thinking, before, after):
    assume(shape != "python" or call.arguments)  # `f()` in a sentence is a mention
    turn = parse_turn(thinking + before + SHAPES[shape](call) + after, TOOLS)
    calls = turn.message.tool_calls
    assert turn.malformed or calls, "taken for an answer"
    if calls:
        assert [(one.name, json.dumps(one.arguments)) for one in calls] == [
            (call.name, json.dumps(call.arguments))
        ] or (
            shape.startswith("qwen3-coder")  # values are plain text, so "1" and 1 are the same
            or "<escape>" in json.dumps(call.arguments)
        )


WORDS = st.sampled_from(["weather", "Oslo", "floors", "2", "the city", "42.5", "søk", "名前", "add", "tool", "name"])
SENTENCES = st.lists(WORDS, min_size=1, max_size=6).map(" ".join)
NUMBERS = st.integers(-99, 99) | st.floats(-9, 9).map(lambda value: round(value, 2))
PLAIN = st.recursive(
    SENTENCES | NUMBERS | st.booleans() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "city", "population", "id", "type", "title", "steps"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
FUNCTION = st.sampled_from(["f", "area", "total_cost", "fib", "print", "len", "is_prime"])


def function(name: str, argument: Any) -> str:
    return f"```python\ndef {name}(x):\n    return x * {argument}\n\nprint({name}({argument}))\n```"


NON_CALLS = st.one_of(
    PLAIN.map(json.dumps),
    PLAIN.map(lambda value: f"Here it is:\n```json\n{json.dumps(value, indent=2)}\n```"),
    st.builds(function, FUNCTION, NUMBERS),
    st.builds(lambda name, value: f"Call `{name}({value})` to compute it.", FUNCTION, NUMBERS),
    st.builds(lambda name, value: f"```js\nconst y = {name}({{x: {value}}});\n```", FUNCTION, NUMBERS),
    st.builds(lambda a, b: f"[f({a}), f({b})] = [{a}, {b}], so \\boxed{{{b}}}", NUMBERS, NUMBERS),
    st.builds(lambda a, b: f"floor({a}) = {b} and 3 * floor({b}/2) + 1 = {a}", NUMBERS, NUMBERS),
    st.builds(lambda a, b: f"f({a}) = {b}\n\\[ \\sum_{{i=1}}^{{{a}}} g(i) = {b} \\]", NUMBERS, NUMBERS),
    st.builds(lambda a, b: f"$\\text{{floor}}({a}) \\le {b}$", NUMBERS, NUMBERS),
    st.builds(lambda words: f"[get_weather(city)](https://example.org) and [{words}](page.md)", SENTENCES),
    st.builds(lambda words: f"# {words}\n\n- `get_weather(city, days)`: {words}\n- `floor()`: {words}", SENTENCES),
    st.builds(lambda words, a: f"| {words} | x |\n|---|---|\n| `f` | {a} |\n\n> {words}", SENTENCES, NUMBERS),
    st.builds(lambda words: f"I cannot use get_weather for {words}; it needs a city.", SENTENCES),
    st.builds(lambda words: f"<p>{words}</p><table><tr><td>{words}</td></tr></table>", SENTENCES),
    st.builds(lambda words: f"name: {words}\ntype: city", SENTENCES),
    st.builds(lambda words: f"def get_weather(city):\n    return '{words}'\n\nget_weather('Oslo')", SENTENCES),
    st.builds(lambda words: f"<think>get_weather(city='Oslo') or <tool_call></think>{words}", SENTENCES),
    SENTENCES,
)
"""Known exceptions, which are malformed: JSON that lists the offered tools by name, and tags of calls in a sentence."""


@given(NON_CALLS, st.sampled_from(["", "Sure.\n\n", "Antwort: "]), st.sampled_from(["", "\n", "\n\nThat is all."]))
@settings(max_examples=1000)
def test_what_is_not_a_call_is_an_answer_unchanged(text, before, after):
    text = before + text + after
    turn = parse_turn(text, TOOLS)
    assert not turn.malformed and turn.message == Message("assistant", text)


WEATHER = '<tool_call>{"name": "get_weather", "arguments": {"city": "Bonn"}}</tool_call>'


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('天気(都市="京都")', ["天気"]),
        ("get_weather(city='</THINK>')", ["get_weather"]),
        (f"{WEATHER}\nadd(a=1, b=2)", ["get_weather", "add"]),
        (f"add(a=1, b=2)\n{WEATHER}", ["add", "get_weather"]),
        ('I use add(a=1, b=2) here.\n{"name": "add", "arguments": {"a": 1, "b": 2}}', ["add"]),
    ],
)  # fmt: skip
def test_calls_beside_other_spellings_are_read_once(text, names):
    turn = parse_turn(text, ["天気", "get_weather", "add"])
    assert not turn.malformed
    assert [call.name for call in turn.message.tool_calls] == names


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "add", "arguments": {"a": 1}}\n```json\n{"name": "get_weather", "arguments": {"city":\n```',
        "Action: get_weather[Bonn]",
        'get\\_weather(city="Bonn")',
        '{"api": "get_weather", "args": {"city": "Bonn"}}',
        "Let me see: [get_weather()]",
    ],
)
def test_an_unread_call_is_never_silent(text):
    turn = parse_turn(text, ["get_weather", "add"])
    assert turn.malformed or turn.message.tool_calls
    assert not [call for call in turn.message.tool_calls if call.name == "add"]
