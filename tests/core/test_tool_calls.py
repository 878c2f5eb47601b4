from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.paths import ROOT
from helpers.turn_checks import CALL, FRAGMENTS, check_turn
from mentor_edge.messages import Message, ToolCall
from mentor_edge.tool_calls import MAX_NESTING, MAX_PYTHON_CHARACTERS, parse_turn

ADD = ToolCall("add", {"a": 1})
NOOP = ToolCall("noop", {})


def calls_of(text: str) -> list[dict[str, Any]]:
    turn = parse_turn(text)
    assert not turn.malformed
    return [call.to_openai()["function"] for call in turn.message.tool_calls]


# The shapes


@pytest.mark.parametrize(
    ("text", "calls", "content"),
    [
        (CALL, [ADD], ""),
        (f'Let me see. {CALL}\n<tool_call>\n{{"name": "noop"}}\n</tool_call>', [ADD, NOOP], "Let me see."),
        (f"before {CALL} between {CALL} after\n", [ADD, ADD], "before  between  after"),
        ('<tool_call>{"name": "add", "parameters": {"a": 1}}</tool_call>', [ADD], ""),
        ('<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>', [ADD], ""),
        ('<tool_call>{"name": "add", "arguments": {"a": "}{\\"]<tool_call>"}}</tool_call>',
         [ToolCall("add", {"a": '}{"]<tool_call>'})], ""),
        ('<tool_call>{"name": "add", "arguments": {"a": "</tool_call></think>"}}</tool_call>',
         [ToolCall("add", {"a": "</tool_call></think>"})], ""),
        ('<tool_call>{"name": "add", "arguments": {"\\u00e9": "\\ud83d\\ude00\\n"}}</tool_call>',
         [ToolCall("add", {"é": "😀\n"})], ""),
        # Llama 3
        ('{"name": "add", "parameters": {"a": 1}}', [ADD], ""),
        (' \n<|python_tag|> {"type": "function", "name": "add", "parameters": {"a": 1}}\n', [ADD], ""),
        ('{"name": "add", "parameters": {"a": 1}}; {"name": "noop", "arguments": {}};', [ADD, NOOP], ""),
        ('{"name": "add", "parameters": {"a": 1}}\n{"name": "noop", "arguments": "{}"}', [ADD, NOOP], ""),
        ('[{"name": "add", "parameters": {"a": 1}}, {"name": "noop", "arguments": {}}]', [ADD, NOOP], ""),
        ('{"name": "add", "parameters": {"a": "</think><tool_call>"}}',
         [ToolCall("add", {"a": "</think><tool_call>"})], ""),
        # Python
        ('[get_weather(city="Rome"), add(a=1, b=-2.5)]',
         [ToolCall("get_weather", {"city": "Rome"}), ToolCall("add", {"a": 1, "b": -2.5})], ""),
        ("\n[math.add(a=1), noop()]\n", [ToolCall("math.add", {"a": 1}), NOOP], ""),
        ("[f(a=[True, None], b={'k': '])', 'x': [{}]})]",
         [ToolCall("f", {"a": [True, None], "b": {"k": "])", "x": [{}]}})], ""),
        ("<|python_tag|>[add(a=1)]", [ADD], ""),
        # Thinking
        (f"<think>hm</think>\n{CALL}", [ADD], "<think>hm</think>"),
        ('<think>hm</think>\n\n{"name": "add", "parameters": {"a": 1}}', [ADD], "<think>hm</think>"),
        ("hm</think>[add(a=1)]", [ADD], "hm</think>"),
        ('<think><tool_call>{"name": "noop"}</tool_call> <tool_call></think>' + CALL, [ADD],
         '<think><tool_call>{"name": "noop"}</tool_call> <tool_call></think>'),
        (f"<think>I need {CALL}", [ADD], "<think>I need"),
        (f"<think>I need {CALL} now.</think>\n", [ADD], "<think>I need  now.</think>"),
        (f"I need {CALL}</think>", [ADD], "I need </think>"),
        ('<think><tool_call>{"name": "f", "arguments": {"a": "</think>"}}</tool_call></think>',
         [ToolCall("f", {"a": "</think>"})], "<think></think>"),
    ],
)  # a table  # fmt: skip
def test_every_shape_of_a_call_is_read(text, calls, content):
    turn = parse_turn(text)
    assert not turn.malformed
    assert turn.message == Message("assistant", content, tuple(calls))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        r"The answer is \boxed{3}.",
        "{}",
        "[]",
        "[1, 2]",
        "[see](link)",
        "[see (the manual)]",
        "(a) text",
        "[x, f(a=1)]",
        "[f(a=1)](link)",
        "f(a=1)",
        '{"name": "Rome"}',
        '{"name": "Rome", "population": 2800000}',
        "Use [add(a=1)] for that.",
        "<think>hm</think>\n\nRome",
        "<think>hm",
        "hm</think> Rome",
        f"<think>{CALL}</think> Rome",
        "<think>I could write <tool_call>{</think> Rome",
        "<think>or </tool_call>.</think> Rome",
        "[" * 10_000 + "]" * 10_000,
    ],
)
def test_any_other_text_is_an_answer_unchanged(text):
    turn = parse_turn(text)
    assert not turn.malformed and turn.message == Message("assistant", text)


def tagged(arguments: str) -> str:
    return f'<tool_call>{{"name": "add", "arguments": {arguments}}}</tool_call>'


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>",
        "<tool_call></tool_call>",
        "<tool_call>add(1, 2)</tool_call>",
        '<tool_call>["add"]</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": 5, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "add", "arguments": {}} x</tool_call>',
        '<tool_call>{"name": "add", "arguments": {}}',
        tagged("[1]"),
        tagged('"add"'),
        tagged('"[1]"'),
        tagged('"{\\"a\\": NaN}"'),
        tagged('{"a": NaN}'),
        tagged('{"a": -Infinity}'),
        tagged('{"a": 1e999}'),
        tagged('{"a": ' + "9" * 5000 + "}"),
        tagged('{"a": ' + "[" * MAX_NESTING + "]" * MAX_NESTING + "}"),
        tagged('{"a": ' + "[" * 5000 + "]" * 5000 + "}"),
        "</tool_call>",
        "[f(a=1), 2]",
        "[f()()]",
        "[f(a=1",
        "[f(a=1]",
        '{"name": 5, "parameters": {}}',
        '[{"name": "add", "parameters": {}}, 3]',
        '{"name": "add", "parameters": {"a": 1}} is how to call it.',
        'I would call {"name": "add", "parameters": {"a": 1}}.',
        '{"name": "add", "parameters": {"a": 1}',
        "[f(a=" + "-" * 10_000 + "1)]",
        "[f(a=1" + "+1" * 10_000 + ")]",
        "[" + "f(a=1)," * (MAX_PYTHON_CHARACTERS // 7) + "f(a=1)]",
        f"{CALL}</tool_call>",
        f"{CALL}<tool_call>",
        f"{CALL}<tool_call>broken</tool_call>",
        f"<think>hm</think>{CALL}<tool_call>",
        f"<think>I need {CALL} <tool_call>",
        "<think>I need <tool_call></think>",
        '{"name": "add", "parameters": [1]}',
        '{"name": "add", "parameters": {"a": 1e999}}',
        '[{"name": "add", "parameters": {"a": "\\ud800"}}]',
        "<|python_tag|>",
        "<|python_tag|>print(1)",
        '<|python_tag|>{"name": "add", "parameters": {',
        "<think>hm</think><|python_tag|>{}",
        "[f(1)]",
        "[f(a=1), g(2)]",
        "[f(*x)]",
        "[f(**x)]",
        "[f(a=x)]",
        "[f(a=g(b=1))]",
        "[f(a=(1, 2))]",
        "[f(a={1: 2})]",
        "[f(a={[]: 2})]",
        "[f(a={1})]",
        "[f(a=b'x')]",
        "[f(a=1j)]",
        "[f(a=1e999)]",
        "[f(a='\\ud800')]",
        "[f(a=__import__('os').getpid())]",
    ],
)
def test_one_unreadable_call_makes_the_turn_malformed(text):
    turn = parse_turn(text)
    assert turn.malformed and turn.message == Message("assistant", text)


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": ["integer", "null"]},
                "note": {"type": ["string", "integer"]},
                "parts": {"anyOf": [{"type": "array"}, {"type": "object"}]},
            },
        },
    },
}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("city", "12", "12"),
        ("city", "\n line\n", "\n line\n"),
        ("days", "3", 3),
        ("days", " null ", None),
        ("days", "soon", "soon"),
        ("note", "3", 3),
        ("note", "[3]", "[3]"),
        ("parts", '["a"]', ["a"]),
        ("parts", "True", True),
        ("other", "1.5", 1.5),
        ("other", "Oslo", "Oslo"),
        ("city", "<b>&amp;</b> </parameter> x", "<b>&amp;</b> </parameter> x"),
    ],
)
def test_arguments_without_quotes_have_the_type_of_the_schema(key, text, value):
    turn = parse_turn(f"<function=get_weather>\n<parameter={key}>\n{text}\n</parameter>\n</function>", [WEATHER])
    assert turn.message.tool_calls == (ToolCall("get_weather", {key: value}),)


@pytest.mark.parametrize(
    "text",
    [
        "<think>one</think>two<think>[get_weather(city='a')]</think>[get_weather(city='b')]",
        "[THINK]<tool_call>{[/THINK][get_weather(city='b')]",
        "<thinking>get_weather(city='a')</thinking>\nget_weather(city='b')",
        "<|channel|>analysis<|message|>get_weather(city='a')<|end|><|start|>assistant<|channel|>final<|message|>"
        "get_weather(city='b')",
    ],
)
def test_only_what_follows_the_last_thinking_counts(text):
    assert parse_turn(text, [WEATHER]).message.tool_calls == (ToolCall("get_weather", {"city": "b"}),)


def test_without_text_after_it_the_last_thinking_counts():
    drafts = f"<think>{CALL}</think><think>{tagged('{}')}</think>"
    assert parse_turn(drafts).message.tool_calls == (ToolCall("add", {}),)


def test_calls_of_tools_that_were_not_offered_are_read():
    for text in (
        '[send_email(to="me")]',
        'send_email(to="me")',
        '```json\n{"name": "send_email", "arguments": {}}\n```',
    ):
        assert [call.name for call in parse_turn(text, [WEATHER]).message.tool_calls] == ["send_email"]


def test_arguments_may_nest_as_deep_as_anyone_needs():
    arguments = '{"a": ' + "[" * (MAX_NESTING - 1) + "]" * (MAX_NESTING - 1) + "}"
    assert len(calls_of(tagged(arguments))) == 1


def test_python_that_warns_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert calls_of('[search(pattern="\\d+")]') == [{"name": "search", "arguments": {"pattern": "\\d+"}}]


# Any text, any call


@given(st.text() | st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=25).map("".join))
@settings(max_examples=500)
def test_any_text_is_read(text):
    check_turn(text)


TEXT = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=4).map("".join)
ENCODABLE = TEXT.map(lambda text: text.replace("\ud800", ""))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ENCODABLE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ENCODABLE, inner, max_size=3),
    max_leaves=8,
)
CALLS = st.lists(st.builds(ToolCall, ENCODABLE, st.dictionaries(ENCODABLE, VALUES, max_size=3)), min_size=1, max_size=3)
# An underscore in second place: no keyword of Python's has one.
IDENTIFIERS = st.from_regex(r"[a-z]_[A-Za-z0-9_]{0,10}", fullmatch=True)
PYTHON_CALLS = st.lists(
    st.builds(
        ToolCall,
        st.lists(IDENTIFIERS, min_size=1, max_size=3).map(".".join),
        st.dictionaries(IDENTIFIERS, VALUES, max_size=3),
    ),
    min_size=1,
    max_size=3,
)


def as_objects(calls: Sequence[ToolCall], key: str) -> list[dict[str, Any]]:
    return [{"name": call.name, key: call.arguments} for call in calls]


def in_tags(objects: Sequence[dict[str, Any]], **options: Any) -> str:
    return "\n".join(f"<tool_call>\n{json.dumps(value, **options)}\n</tool_call>" for value in objects)


def as_strings(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    return [{"name": call.name, "arguments": json.dumps(call.arguments)} for call in calls]


SHAPES: dict[str, Callable[[Sequence[ToolCall]], str]] = {
    "hermes": lambda calls: in_tags(as_objects(calls, "arguments"), ensure_ascii=False),
    "hermes, escaped and indented": lambda calls: in_tags(as_objects(calls, "parameters"), indent=1),
    "hermes, arguments as strings": lambda calls: in_tags(as_strings(calls)),
    "llama, semicolons": lambda calls: "; ".join(map(json.dumps, as_objects(calls, "parameters"))),
    "llama, lines": lambda calls: "<|python_tag|>" + "\n".join(map(json.dumps, as_strings(calls))),
    "llama, list": lambda calls: json.dumps(as_objects(calls, "parameters"), ensure_ascii=False),
}


def in_python(calls: Sequence[ToolCall]) -> str:
    return "[{}]".format(
        ", ".join(
            f"{call.name}({', '.join(f'{key}={value!r}' for key, value in call.arguments.items())})" for call in calls
        )
    )


def assert_same(turn_text: str, calls: Sequence[ToolCall]) -> None:
    # As JSON: Python takes 1, 1.0 and True for equal.
    assert json.dumps(calls_of(turn_text)) == json.dumps(as_objects(calls, "arguments"))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("thinking", ["", "<think>hm {</think>\n"])
@given(calls=CALLS)
@settings(max_examples=60)
def test_calls_of_any_content_come_back_from_every_shape(shape, thinking, calls):
    assert_same(thinking + SHAPES[shape](calls), calls)


@given(calls=PYTHON_CALLS)
def test_python_calls_of_any_content_come_back(calls):
    assert_same(in_python(calls), calls)


@given(CALLS, st.lists(st.text().filter(lambda text: not set("<[") & set(text)), min_size=4, max_size=4))
def test_text_around_calls_is_kept(calls, texts):
    blocks = [in_tags([value]) for value in as_objects(calls, "arguments")]
    turn = parse_turn("".join(text + block for text, block in zip(texts, blocks, strict=False)) + texts[-1])
    assert turn.message.content == "".join([*texts[: len(blocks)], texts[-1]]).strip()
    assert turn.message.tool_calls == tuple(calls)


# Fuzzing


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_fuzzing_finds_no_text_that_breaks_the_contract(tmp_path: Path):
    harness = ROOT / "tests" / "helpers" / "fuzz.py"
    done = subprocess.run(
        [sys.executable, harness, "turns", "-runs=5000", "-seed=1", "-max_len=200", f"-artifact_prefix={tmp_path}/"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Done 5000 runs" in done.stderr
