"""A template's own spelling, and what depends on it: the format of a turn, and strict rollouts."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files

import pytest

from helpers.scripted_engine import ScriptedEngine, call_text
from mentor_edge.agent import AgentLimits, run_conversations
from mentor_edge.call_spelling import in_own_spelling, own_spellings
from mentor_edge.chat import ChatTemplate
from mentor_edge.messages import Ending, Message, Trajectory
from mentor_edge.tasks.types import Task
from mentor_edge.tool_calls import parse_turn
from mentor_edge.tools.calculator import CALCULATOR
from mentor_edge.tools.execution.executor import ToolExecutor

HERMES = '<tool_call>{"name": ..., "arguments": {...}}</tool_call>'
FENCED = '```json\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n```'
TAGGED = call_text("add", '{"a": 2, "b": 3}')
TEMPLATES = files("trl") / "chat_templates"
END = {"qwen": "<|im_end|>", "llam": "<|eot_id|>", "lfm2": "<|im_end|>", "gran": "<|end_of_text|>"}


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        ("qwen2_5", {HERMES}),
        ("qwen3", {HERMES}),
        ("qwen3_training", {HERMES}),
        ("llama3_2", {'{"name": ..., "parameters": {...}}'}),
    ],
)
def test_own_spellings_of_real_templates(name: str, spellings: set[str]) -> None:
    source = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    assert own_spellings(ChatTemplate(source, END[name[:4]])) == spellings


def test_a_template_without_calls_has_no_spelling_and_no_turn_has_a_format() -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}", "<|im_end|>")
    assert own_spellings(template) == frozenset()
    assert in_own_spelling(parse_turn(TAGGED), frozenset()) is None


@pytest.mark.parametrize(
    ("text", "own"),
    [
        (TAGGED, True),
        (f"I add. {TAGGED}{TAGGED}", True),
        (FENCED, False),
        ('{"name": "add", "arguments": {"a": 2, "b": 3}}', False),
        ('<tool_call>{"name": "add", "parameters": {"a": 2, "b": 3}}</tool_call>', False),
        ("<tool_call>{", False),
        ("Five.", None),
    ],
)
def test_the_format_of_a_turn(text: str, own: bool | None) -> None:
    assert in_own_spelling(parse_turn(text), frozenset({HERMES})) is own


@pytest.fixture(scope="module")
def executor():
    with ToolExecutor() as shared:
        yield shared


def roll_out(executor: ToolExecutor, *replies: str, strict_calls: bool) -> Trajectory:
    task = Task("sum", (Message("user", "question"),), CALCULATOR, "id", "test", answer="5")
    engine = ScriptedEngine({"question": replies})
    limits = AgentLimits(tool_rounds=3, tokens_per_turn=400, completion_tokens=4000)
    return run_conversations(engine, [task], executor, limits, strict_calls=strict_calls)[0]


def test_every_readable_spelling_is_executed_unless_calls_are_strict(executor) -> None:
    skilled = roll_out(executor, FENCED, r"\boxed{5}", strict_calls=False)
    assert (skilled.ending, skilled.answer, skilled.own_spelling) == (Ending.ANSWERED, "5", False)
    strict = roll_out(executor, FENCED, strict_calls=True)
    assert strict.ending is Ending.MALFORMED and strict.calls == ()
    assert strict.messages == (Message("assistant", FENCED),)


def test_strict_calls_change_nothing_in_the_own_spelling(executor) -> None:
    runs = [roll_out(executor, TAGGED, r"\boxed{5}", strict_calls=strict) for strict in (True, False)]
    assert replace(runs[0], seconds=0) == replace(runs[1], seconds=0) and runs[0].own_spelling is True


def test_one_call_in_another_spelling_decides(executor) -> None:
    assert roll_out(executor, TAGGED, FENCED, TAGGED, r"\boxed{5}", strict_calls=False).own_spelling is False
    assert roll_out(executor, "Five.", strict_calls=False).own_spelling is None
