"""Conversations that a limit cut off: counted per domain, and reported with the limit to raise."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from helpers.evaluation_tasks import ADD, BFCL, answer_task
from helpers.scripted_engine import ScriptedEngine
from mentor_edge.agent import AgentLimits
from mentor_edge.evaluation.evaluate import Evaluation, evaluate
from mentor_edge.evaluation.report import first_lines, statements, write_evaluation_report
from mentor_edge.messages import Limit
from mentor_edge.tasks.types import Suite
from mentor_edge.tools.execution.executor import ToolExecutor

LIMITS = AgentLimits(tool_rounds=2, tokens_per_turn=1000, completion_tokens=1600)
BOX = r"\boxed{5}"


@pytest.fixture(scope="module")
def executor():
    with ToolExecutor() as shared:
        yield shared


def measure(executor, script: dict[str, list[str]], **engine) -> Evaluation:
    tasks = tuple(answer_task(name) for name in script)
    questions = {f"<{name}>": replies for name, replies in script.items()}
    return evaluate(ScriptedEngine(questions, **engine), Suite("s", "1", tasks), limits=LIMITS, executor=executor)


@pytest.mark.parametrize(
    ("replies", "limit", "reason"),
    [
        (["x" * 1200], Limit.TURN_TOKENS, "cut off after 1,000 tokens in one turn"),
        (["y" * 900 + ADD, "z" * 900], Limit.TOKENS, "cut off after 1,600 tokens in all"),
        ([ADD] * 3, Limit.ROUNDS, "still called tools after 2 rounds"),
        ([BOX], None, None),
        (["no box"], None, None),
        (["<tool_call>{"], None, None),
    ],
)
def test_the_limit_that_cut_a_conversation_off_is_recorded(executor, replies, limit, reason):
    evaluation = measure(executor, {"one": replies})
    (outcome,) = evaluation.outcomes
    assert outcome.cut_by is limit and evaluation.cut_off == (limit is not None)
    found = evaluation.cut_offs()
    assert [cut.limit for cut in found] == ([] if limit is None else [limit])
    if limit is not None:
        assert reason in found[0].statement and "--max-" in found[0].statement and not outcome.correct


def test_a_prompt_that_does_not_fit_the_context_says_both_lengths(executor):
    evaluation = measure(executor, {"one": [BOX]}, context_length=2000)
    (outcome,), (cut,) = evaluation.outcomes, evaluation.cut_offs()
    assert outcome.cut_by is Limit.PROMPT and outcome.prompt_tokens > 2000 and outcome.messages == ()
    assert f"a prompt of up to {outcome.prompt_tokens:,} tokens does not fit the context of 2,000" in cut.statement
    assert evaluation.context_length == 2000


def test_a_turn_that_fills_the_context_is_told_from_one_that_reaches_its_limit(executor):
    prompt = measure(executor, {"one": [BOX]}).outcomes[0].prompt_tokens
    evaluation = measure(executor, {"one": ["x" * 900]}, context_length=prompt + 100)
    assert [cut.limit for cut in evaluation.cut_offs()] == [Limit.CONTEXT]


def test_first_calls_without_rounds_are_no_cut_off(executor):
    task = BFCL["parallel_0"]
    evaluation = evaluate(
        ScriptedEngine({task.prompt[0].content: [ADD]}), Suite("bfcl", "1", (task,)), limits=LIMITS, executor=executor
    )
    assert evaluation.outcomes[0].cut_by is None and evaluation.cut_offs() == []


def test_more_than_five_percent_of_a_domain_come_first_in_the_report(executor, tmp_path):
    script = {f"q{i}": [BOX] for i in range(20)}
    few = measure(executor, script | {"q3": ["x" * 1200]})
    assert first_lines(few) == [] and any("1 of 20 conversations (5.0 %)" in line for line in statements(few))

    many = measure(executor, script | {"q3": ["x" * 1200], "q4": ["x" * 1200]})
    (warning,) = first_lines(many)
    assert warning == (
        "2 of 20 conversations (10.0 %) were cut off after 1,000 tokens in one turn, counted as wrong "
        "(sums 2 of 20); raise the limit with --max-turn-tokens"
    )
    write_evaluation_report(tmp_path / "report.md", many, "a model")
    lines = [line for line in (tmp_path / "report.md").read_text().splitlines() if line]
    assert lines[1] == f"**Warning: {warning}**"
    assert "| cut off % |" in "\n".join(lines) and "| id: sums | 20 | 90.0 |" in "\n".join(lines)

    figures = json.loads(json.dumps(many.to_json()))
    assert figures["domains"]["sums"]["cut_off"] == 2 and figures["domains"]["sums"]["cut_off_rate"] == 0.1
    assert figures["domains"]["sums"]["cut_by"] == {"tokens_per_turn": 2}
    assert figures["cut_off"][0]["severe"] and figures["cut_off"][0]["limit"] == "tokens_per_turn"


def test_rows_of_older_versions_are_still_read(executor, tmp_path):
    path = tmp_path / "items.jsonl"
    evaluation = measure(executor, {"one": [BOX]})
    evaluation.write_jsonl(path)
    header, row = map(json.loads, path.read_text().splitlines())
    for added in ("context_length", "threads"):
        del header["evaluation"][added]
    for added in ("reason", "cut_by", "prompt_tokens", "own_spelling"):
        del row[added]
    path.write_text(f"{json.dumps(header)}\n{json.dumps(row)}\n")
    read = Evaluation.from_jsonl(path)
    assert read.outcomes == tuple(replace(outcome, prompt_tokens=0) for outcome in evaluation.outcomes)
