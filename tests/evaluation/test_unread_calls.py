"""Skill and format, and the first line about outputs that look like unread calls."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.evaluation_tasks import ADD, LIMITS, answer_task
from helpers.scripted_engine import ScriptedEngine
from mentor_edge.evaluation.document import markdown_text
from mentor_edge.evaluation.evaluate import Evaluation, evaluate
from mentor_edge.evaluation.report import figures_grid, write_evaluation_report
from mentor_edge.evaluation.summary import summarize
from mentor_edge.evaluation.unread_calls import unread_calls
from mentor_edge.export.gate import compare
from mentor_edge.tasks.types import Suite

FENCED = '```json\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n```'
REPLIES = {
    "tagged": [ADD, r"\boxed{5}"],
    "fenced": [FENCED, r"\boxed{5}"],
    "mixed": [ADD, FENCED, r"\boxed{5}"],
    "wrong": [FENCED, r"\boxed{6}"],
    "direct": [r"The sum add(2, 3) is \boxed{5}"],
    "broken": ["<tool_call>{"],
    "odd": ["add <2, 3>, then add[2]"],
}


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    engine = ScriptedEngine({f"<{name}>": replies for name, replies in REPLIES.items()})
    return evaluate(engine, Suite("sums", "1", tuple(answer_task(name) for name in REPLIES)), limits=LIMITS)


def test_every_row_says_whether_its_calls_are_in_the_own_spelling(evaluation) -> None:
    assert {o.task_id: (o.correct, o.own_spelling, o.correct_in_format) for o in evaluation.outcomes} == {
        "tagged": (True, True, True),
        "fenced": (True, False, False),
        "mixed": (True, False, False),
        "wrong": (False, False, False),
        "direct": (True, None, True),
        "broken": (False, False, False),
        "odd": (False, None, False),
    }


def test_skill_and_format_are_reported_apart(evaluation) -> None:
    figures = summarize(evaluation.outcomes)
    assert (figures.correct, figures.in_format, figures.format_rate) == (4, 2, 2 / 7)
    grid = figures_grid(evaluation)
    row = dict(zip(grid.header, grid.rows[0], strict=True))
    assert (row["right %"], row["format %"]) == ("57.1", "28.6")
    unknown = [replace(outcome, own_spelling=None) for outcome in evaluation.outcomes]
    assert summarize(unknown).format_rate is None
    assert "format %" not in figures_grid(replace(evaluation, outcomes=tuple(unknown))).header


def test_the_report_begins_with_outputs_that_look_like_unread_calls(evaluation, tmp_path) -> None:
    said = (
        "2 of 7 outputs (28.6 %) look like tool calls that could not be read (1 malformed, 1 taken for answers); "
        "broken: <tool_call>{"
    )
    assert unread_calls(evaluation.outcomes) == said
    assert next(iter(evaluation.to_json().items())) == ("unread_calls", said)
    report, _ = write_evaluation_report(tmp_path / "report.md", evaluation, "model")
    assert report.read_text().splitlines()[2] == f"**Warning: {markdown_text(said)}**"


def test_few_of_them_are_not_worth_a_first_line(evaluation) -> None:
    good = [outcome for outcome in evaluation.outcomes if outcome.task_id in ("tagged", "fenced", "direct")] * 10
    broken = [outcome for outcome in evaluation.outcomes if outcome.task_id == "broken"]
    assert unread_calls([*good, *broken]) is None
    assert unread_calls([*good, *broken, *broken]) is not None
    assert unread_calls([]) is None and evaluation.only({"direct"}).to_json()["unread_calls"] is None


def test_the_gate_compares_the_same_measure_on_both_sides_and_names_it(evaluation) -> None:
    fenced = replace(
        evaluation, outcomes=tuple(replace(o, own_spelling=o.own_spelling and False) for o in evaluation.outcomes)
    )
    skill, in_format = (compare(evaluation, fenced, 0.2, measure) for measure in ("skill", "format"))
    assert skill.measure == "skill" and skill.splits["id"].lost == 0
    assert in_format.measure == "format" and in_format.splits["id"].lost == 1
    assert in_format.explanation.startswith("format: ") and skill.explanation.startswith("skill: ")
