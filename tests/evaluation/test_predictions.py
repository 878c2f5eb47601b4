"""Scoring outputs that were made elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.paths import DATA
from helpers.scripted_engine import ScriptedEngine, call_text
from mentor_edge.agent import AgentLimits
from mentor_edge.errors import TaskError
from mentor_edge.evaluation.evaluate import Evaluation, evaluate
from mentor_edge.evaluation.predictions import score_predictions
from mentor_edge.evaluation.report import statements
from mentor_edge.messages import Ending, Message
from mentor_edge.tasks import bfcl
from mentor_edge.tasks.types import Suite, Task
from mentor_edge.tools.calculator import CALCULATOR

BFCL = {task.id: task for task in bfcl.load(DATA / "bfcl").tasks}
SUM = Task("sum", (Message("user", "<sum>"),), CALCULATOR, "id", "sums", answer="5")
SUITE = Suite("mixed", "1", (SUM, BFCL["simple_python_0"], BFCL["irrelevance_0"]))
GOLDEN = {"name": "calculate_triangle_area", "arguments": {"base": 10, "height": 5}}
GOLDEN_TEXT = call_text(GOLDEN["name"], json.dumps(GOLDEN["arguments"]))
ANSWERED, CALLED, MALFORMED = Ending.ANSWERED, Ending.OUT_OF_TURNS, Ending.MALFORMED


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"id": "x", "type": "function", "function": {"name": name, "arguments": arguments}}


def score(tmp_path: Path, *rows: Any, suite: Suite = SUITE) -> Evaluation:
    path = tmp_path / "predictions.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return score_predictions(path, suite)


def turn(content: str | None, *tool_calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(tool_calls)}


ADDED = [
    turn(None, call("add", '{"a": 2, "b": 3}')),
    {"role": "tool", "tool_call_id": "x", "content": "5"},
    turn(r"It is \boxed{5}."),
]


@pytest.mark.parametrize(
    ("task", "prediction", "correct", "ending", "error"),
    [
        ("sum", {"text": r"\boxed{5}"}, True, ANSWERED, None),
        ("sum", {"text": "5"}, False, ANSWERED, None),  # the suite asks for a box
        ("sum", {"text": call_text("add", '{"a": 2, "b": 3}')}, False, CALLED, None),
        ("sum", {"text": "<tool_call>"}, False, MALFORMED, None),
        ("sum", {"answer": "5.0"}, True, ANSWERED, None),
        ("sum", {"answer": "6"}, False, ANSWERED, None),
        ("sum", {"calls": [{"name": "add", "arguments": {"a": 2, "b": 3}}]}, False, CALLED, None),
        ("sum", {"messages": ADDED}, True, ANSWERED, None),
        ("sum", {"messages": ADDED[:2]}, False, CALLED, None),
        ("sum", {"messages": ADDED[:1]}, False, CALLED, None),
        ("sum", {"messages": [turn(None, call("add", "{")), *ADDED]}, False, MALFORMED, None),
        ("simple_python_0", {"text": f"Sure. {GOLDEN_TEXT}"}, True, CALLED, None),
        ("simple_python_0", {"calls": [GOLDEN]}, True, CALLED, None),
        ("simple_python_0", {"calls": []}, False, ANSWERED, "wrong_count"),
        ("simple_python_0", {"calls": [{**GOLDEN, "arguments": {"base": 1}}]}, False, CALLED, "missing_parameter"),
        ("simple_python_0", {"messages": [turn(GOLDEN_TEXT)]}, True, CALLED, None),
        ("simple_python_0", {"answer": "25"}, False, ANSWERED, "wrong_count"),
        ("irrelevance_0", {"text": "I have no tool for that."}, True, ANSWERED, None),
        ("irrelevance_0", {"calls": []}, True, ANSWERED, None),
        ("irrelevance_0", {"answer": "no"}, True, ANSWERED, None),
        ("irrelevance_0", {"calls": [GOLDEN]}, False, CALLED, "unwanted_call"),
        ("irrelevance_0", {"text": "<tool_call>{"}, False, MALFORMED, "unreadable"),
        ("irrelevance_0", {"messages": [turn(None, call("f", "3"))]}, False, MALFORMED, "unreadable"),
    ],
)  # a table  # fmt: skip
def test_every_form_is_scored(tmp_path, task, prediction, correct, ending, error):
    evaluation = score(tmp_path, {"id": task, **prediction, "model": "theirs"})
    (outcome,) = evaluation.only({task}).outcomes
    assert (outcome.correct, outcome.ending, outcome.error) == (correct, ending, error)
    assert outcome.malformed == (ending is MALFORMED)
    assert outcome.prompt and outcome.messages and outcome.expected


def test_only_the_first_turn_of_a_task_on_calls_is_scored(tmp_path):
    turns = [
        turn(None, call(GOLDEN["name"], json.dumps(GOLDEN["arguments"]))),
        {"role": "tool", "content": "25"},
        turn("<tool_call>"),
    ]
    evaluation = score(tmp_path, {"id": "simple_python_0", "messages": turns})
    assert evaluation.only({"simple_python_0"}).outcomes[0].correct


def test_missing_predictions_are_wrong_and_stay_in_the_denominator(tmp_path):
    evaluation = score(tmp_path, {"id": "simple_python_0", "calls": [GOLDEN]})
    assert [(o.correct, o.ending, o.error) for o in evaluation.outcomes] == [
        (False, None, "missing"),
        (True, CALLED, None),
        (False, None, "missing"),
    ]
    summary = evaluation.to_json()
    assert summary["domains"]["irrelevance"]["missing"] == 1 and summary["domains"]["irrelevance"]["accuracy"] == 0
    assert (summary["splits"]["ood"]["n"], summary["splits"]["ood"]["correct"]) == (2, 1)
    assert summary["splits"]["ood"]["endings"] == {"out_of_turns": 1}
    assert "ood: 1 ended with calls, 1 without a prediction, counted as wrong" in statements(evaluation)
    assert summary["splits"]["ood"]["tokens"] is None and summary["splits"]["ood"]["seconds"] is None
    passages = replace(SUM, gold_passages=("1",))
    evaluation = score(
        tmp_path, {"id": "sum", "answer": "5"}, suite=Suite("s", "1", (passages, replace(passages, id="b")))
    )
    assert [o.metrics["f1"] for o in evaluation.outcomes] == [1.0, 0.0]


def test_rows_are_like_those_of_an_engine(tmp_path):
    """An engine's outputs, written as messages and scored, yield the engine's outcomes."""
    suite = Suite("sums", "1", (SUM,))
    engine = ScriptedEngine({"<sum>": [call_text("add", '{"a": 2, "b": 3}'), r"\boxed{5}"]})
    (measured,) = evaluate(engine, suite, limits=AgentLimits()).outcomes
    messages = [message.to_openai() for message in measured.messages]
    evaluation = score(tmp_path, {"id": "sum", "messages": messages}, suite=suite)
    assert evaluation.outcomes == (replace(measured, tokens=0, prompt_tokens=0, own_spelling=None),)
    evaluation.write_jsonl(tmp_path / "items.jsonl")
    assert Evaluation.from_jsonl(tmp_path / "items.jsonl") == evaluation
    assert evaluation.identity.startswith("predictions sha256:") and evaluation.limits is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "chess", "text": "e4"}, "id: the suite mixed has no task 'chess'"),
        ({"id": 3, "text": "e4"}, "id: expected text, found 3"),
        ({"text": "e4"}, "id: missing"),
        ({"id": "sum"}, "expected one of text, calls, answer, messages, found none"),
        ({"id": "sum", "text": "a", "calls": []}, "found text and calls"),
        ({"id": "sum", "text": 5}, "text: expected text, found 5"),
        ({"id": "sum", "answer": None}, "answer: expected text, found null"),
        ({"id": "sum", "calls": {}}, "calls: expected a list"),
        ({"id": "sum", "calls": [{"name": "add", "arguments": "{}"}]}, r"calls\[0\].arguments: expected an object"),
        ({"id": "sum", "calls": [GOLDEN, {"arguments": {}}]}, r"calls\[1\].name: missing"),
        ({"id": "sum", "messages": []}, "expected the assistant's turn first"),
        ({"id": "sum", "messages": ADDED[1:]}, "expected the assistant's turn first"),
        ({"id": "sum", "messages": [{"role": "user", "content": "q"}]}, "expected assistant or tool, found .user"),
        ({"id": "sum", "messages": [ADDED[0], {"role": "tool"}]}, r"messages\[1\].content: missing"),
        ({"id": "sum", "messages": ["hi"]}, r"messages\[0\]: expected an object"),
        ([1], "expected an object"),
        ("{", "not JSON"),
    ],
)  # a table  # fmt: skip
def test_a_wrong_row_is_reported_with_file_and_line(tmp_path, row, message):
    with pytest.raises(TaskError, match=rf"predictions\.jsonl:2: .*{message}"):
        score(tmp_path, {"id": "irrelevance_0", "text": "no"}, row)


def test_all_wrong_rows_are_reported_at_once(tmp_path):
    rows = [{"id": "sum", "text": "a"}, {"id": "sum", "text": "b"}, {"id": "go"}, "no"]
    with pytest.raises(TaskError) as caught:
        score(tmp_path, *rows)
    assert [line.partition("jsonl:")[2][0] for line in str(caught.value).splitlines()] == ["2", "3", "4"]
    assert "is already used on an earlier line" in str(caught.value)
    with pytest.raises(TaskError, match="cannot read predictions"):
        score_predictions(tmp_path / "none.jsonl", SUITE)


PIECES = ["<tool_call>", "</tool_call>", "{", "}", '"', json.dumps(GOLDEN), "[f(", "a=1)]", "no", " "]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(PIECES), max_size=6).map("".join))
def test_what_begins_a_call_is_never_a_right_irrelevance(tmp_path_factory, text):
    evaluation = score(tmp_path_factory.mktemp("text"), {"id": "irrelevance_0", "text": text})
    (outcome,) = evaluation.only({"irrelevance_0"}).outcomes
    assert outcome.correct == (not outcome.malformed and not outcome.calls)
    assert not (outcome.correct and "tool_call>" in text)
