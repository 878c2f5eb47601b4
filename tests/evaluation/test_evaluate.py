"""Evaluation of an engine on a suite: scores, rows and figures."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from helpers.evaluation_tasks import ADD, BFCL, LIMITS, answer_task
from helpers.scripted_engine import ScriptedEngine, call_text
from mentor_edge.errors import OutputError, TaskError
from mentor_edge.evaluation.evaluate import Evaluation, evaluate
from mentor_edge.evaluation.outcome import Outcome
from mentor_edge.evaluation.summary import Counts, by_domain, by_split, summarize
from mentor_edge.messages import Ending, Message
from mentor_edge.tasks.types import Suite, Task
from mentor_edge.tools.execution.executor import ToolExecutor


@pytest.fixture(scope="module")
def executor():
    with ToolExecutor() as shared:
        yield shared


ANSWERED = {
    "right": [ADD, r"\boxed{5}"],
    "wrong": [ADD, r"\boxed{6}"],
    "silent": ["I do not know."],
    "malformed": ["<tool_call>add</tool_call>"],
    "unknown": [call_text("teleport", "{}"), r"\boxed{5}"],
    "endless": [ADD] * 4,
    "cut": ["x" * 500],
    "none": [r"\boxed{none}"],
}


@pytest.fixture(scope="module")
def evaluation(executor) -> Evaluation:
    tasks = [answer_task(name) for name in ANSWERED if name != "none"]
    tasks.append(answer_task("none", answer="none", split="ood", domain="irrel"))
    engine = ScriptedEngine({f"<{name}>": replies for name, replies in ANSWERED.items()}, batch_size=3)
    return evaluate(engine, Suite("sums", "7", tuple(tasks)), limits=LIMITS, executor=executor)


def test_answers_are_scored_and_every_ending_is_kept(evaluation):
    results = {o.task_id: (o.correct, o.ending, o.answer) for o in evaluation.outcomes}
    assert results == {
        "right": (True, Ending.ANSWERED, "5"),
        "wrong": (False, Ending.ANSWERED, "6"),
        "silent": (False, Ending.ANSWERED, None),
        "malformed": (False, Ending.MALFORMED, None),
        "unknown": (True, Ending.ANSWERED, "5"),
        "endless": (False, Ending.OUT_OF_TURNS, None),
        "cut": (False, Ending.TRUNCATED, None),
        "none": (True, Ending.ANSWERED, "none"),
    }


def test_counts_are_of_all_of_a_split_and_of_a_domain(evaluation):
    assert evaluation.counts() == Counts(n=8, correct=3)
    assert evaluation.counts(split="id") == Counts(n=7, correct=2)
    assert evaluation.counts(domain="irrel") == Counts(n=1, correct=1)
    assert evaluation.counts(split="id", domain="irrel") == Counts(n=0, correct=0)
    assert evaluation.by_domain() == {"sums": Counts(n=7, correct=2), "irrel": Counts(n=1, correct=1)}
    assert (evaluation.malformed, evaluation.unknown_tools) == (1, 1)


def test_some_outcomes_can_be_selected(evaluation):
    chosen = evaluation.only({"none", "right", "of another suite"})
    assert [outcome.task_id for outcome in chosen.outcomes] == ["right", "none"]
    assert chosen.counts() == Counts(n=2, correct=2) and chosen.sha256 == evaluation.sha256


def test_an_outcome_describes_what_the_model_did(evaluation):
    outcome = next(o for o in evaluation.outcomes if o.task_id == "unknown")
    assert (outcome.calls, outcome.turns, outcome.tool_errors, outcome.error) == (1, 2, 1, None)
    assert outcome.tokens == sum(len(reply.encode()) + 1 for reply in ANSWERED["unknown"])
    assert [message.role for message in outcome.messages] == ["assistant", "tool", "assistant"]


def test_the_summary_never_pools_splits(evaluation):
    summary = json.loads(json.dumps(evaluation.to_json()))
    assert {key: summary[key] for key in ("suite", "version", "n")} == {"suite": "sums", "version": "7", "n": 8}
    assert summary["sha256"] == evaluation.sha256 and len(evaluation.sha256) == 64
    assert not {"correct", "accuracy", "malformed"} & summary.keys()
    assert list(summary["splits"]) == ["id", "ood"] and list(summary["domains"]) == ["sums", "irrel"]
    id_split = summary["splits"]["id"]
    assert (id_split["n"], id_split["correct"], id_split["accuracy"]) == (7, 2, 2 / 7)
    assert id_split["low"] == pytest.approx(0.0822, abs=1e-4) and id_split["high"] == pytest.approx(0.6411, abs=1e-4)
    assert (id_split["malformed_rate"], id_split["unknown_tool_rate"], id_split["missing"]) == (1 / 7, 1 / 7, 0)
    assert id_split["endings"] == {"answered": 4, "malformed": 1, "truncated": 1, "out_of_turns": 1}
    assert (id_split["calls"], id_split["turns"]) == (7 / 7, 13 / 7)
    assert id_split["tokens"] > 0 and 0 < id_split["seconds"]["p50"] <= id_split["seconds"]["p99"]


def test_rows_contain_everything_behind_a_figure_and_are_read_back(evaluation, tmp_path):
    path = tmp_path / "items.jsonl"
    evaluation.write_jsonl(path)
    header, *rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert header["evaluation"]["sha256"] == evaluation.sha256 and header["evaluation"]["limits"]["tool_rounds"] == 3
    assert sum(row["correct"] for row in rows) == evaluation.counts().correct
    row = next(row for row in rows if row["task_id"] == "unknown")
    assert row["prompt"] == [{"role": "user", "content": "<unknown>"}] and row["expected"] == {"answers": ["5"]}
    assert "add" in row["tools"] and [m["role"] for m in row["messages"]] == ["assistant", "tool", "assistant"]
    assert Evaluation.from_jsonl(path) == evaluation
    assert [o.seconds for o in Evaluation.from_jsonl(path).outcomes] == [o.seconds for o in evaluation.outcomes]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: [lines[0], lines[1][:50]], r":2: not JSON"),
        (lambda lines: [lines[0], lines[1].replace('"correct": true', '"correct": 1')], ":2: correct: invalid value 1"),
        (
            lambda lines: [lines[0], lines[1].replace('"ending": "answered"', '"ending": "lost"')],
            ":2: ending: invalid value 'lost'",
        ),
        (
            lambda lines: [lines[0], lines[1].replace('"role"', '"rôle"')],
            ":2: (messages|prompt): a message is malformed",
        ),
        (lambda lines: [lines[0], "[]"], ":2: expected an object"),
        (lambda lines: [lines[0], "{}"], ":2: task_id: missing"),
        (
            lambda lines: [lines[0].replace('"format": 1', '"format": 2'), lines[1]],
            ":1: evaluation: expected a header of format 1",
        ),
        (lambda lines: lines[1:], "does not begin with one header"),
        (lambda lines: [lines[0], lines[0]], "does not begin with one header"),
        (lambda lines: [lines[0].replace('"version"', '"verse"')], ":1: evaluation: the header is malformed"),
        (lambda lines: [], "contains no items"),
    ],
)
def test_a_damaged_items_file_is_one_clear_error(evaluation, tmp_path, damage, message):
    path = tmp_path / "items.jsonl"
    evaluation.write_jsonl(path)
    path.write_text("\n".join(damage(path.read_text().splitlines())))
    with pytest.raises(TaskError, match=message):
        Evaluation.from_jsonl(path)


def test_figures_are_those_of_the_outcomes():
    seconds = [0.3, 0.1, 2.0, 0.7]
    outcomes = [
        Outcome(
            f"t{i}",
            "id" if i < 2 else "ood",
            "d",
            i == 0,
            False,
            False,
            Ending.ANSWERED,
            None,
            None,
            calls=i,
            turns=1,
            tokens=0,
            tool_errors=0,
            messages=(),
            seconds=value,
            metrics={"f1": i / 4} if i else {},
        )
        for i, value in enumerate(seconds)
    ]
    figures = summarize(outcomes)
    assert figures.seconds == {f"p{p}": pytest.approx(np.percentile(seconds, p), abs=1e-4) for p in (50, 90, 99)}
    assert figures.metrics == {"f1": 0.5} and figures.calls == 1.5
    assert figures.tokens is None, "nobody counted them"
    assert summarize(outcomes[:1]).seconds == {"p50": 0.3, "p90": 0.3, "p99": 0.3}
    assert summarize([replace(outcome, seconds=0.0) for outcome in outcomes]).seconds is None
    assert list(by_domain(outcomes)) == ["d (id)", "d (ood)"], "one domain in two splits is not pooled"
    assert {split: figures.accuracy for split, figures in by_split(outcomes).items()} == {"id": 0.5, "ood": 0.0}


def test_answers_from_passages_have_further_metrics(executor):
    task = replace(answer_task("rome", answer="Rome"), other_answers=("Roma",), gold_passages=("6", "9"))
    other = replace(task, id="paris", prompt=(Message("user", "<paris>"),))
    engine = ScriptedEngine({"<rome>": [r"\boxed{the Roma}"], "<paris>": ["Paris, I think"]})
    evaluation = evaluate(engine, Suite("musique", "1", (task, other)), limits=LIMITS, executor=executor)
    assert evaluation.outcomes[0].metrics == {"em": 1.0, "f1": 1.0, "passage_recall": 0.0}
    assert evaluation.outcomes[0].expected == {"answers": ["Rome", "Roma"], "passages": ["6", "9"]}
    assert by_split(evaluation.outcomes)["id"].metrics == {"em": 0.5, "f1": 0.5, "passage_recall": 0.0}


def test_a_file_that_cannot_be_written_leaves_the_old_one(evaluation, tmp_path, monkeypatch):
    path = tmp_path / "items.jsonl"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OutputError, match=r"items\.jsonl: No space left"):
        evaluation.write_jsonl(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OutputError, match="cannot write"):
        evaluation.write_jsonl(tmp_path / "missing" / "items.jsonl")


def golden_text(task: Task) -> str:
    """The golden calls as a model would write them."""
    texts = []
    for accepted in task.accepted_calls or ():
        ((name, values),) = accepted.items()
        arguments = {parameter: options[0] for parameter, options in values.items() if "" not in options}
        texts.append(call_text(name, json.dumps(arguments)))
    return "\n".join(texts)


@pytest.mark.parametrize(
    ("task_id", "reply", "correct", "error"),
    [
        ("multiple_0", golden_text(BFCL["multiple_0"]), True, None),
        ("parallel_0", golden_text(BFCL["parallel_0"]), True, None),
        ("parallel_0", golden_text(BFCL["simple_python_0"]), False, "wrong_count"),
        ("parallel_multiple_0", "Sure.\n" + golden_text(BFCL["parallel_multiple_0"]), True, None),
        ("simple_python_0", "The area is 25.", False, "wrong_count"),
        ("simple_python_0", "<tool_call>{</tool_call>", False, "unreadable"),
        ("simple_python_0", golden_text(BFCL["simple_python_0"]).replace("10", "11"), False, "wrong_value"),
        ("irrelevance_0", "I have no tool for that.", True, None),
        ("irrelevance_0", "<tool_call>{</tool_call>", False, "unreadable"),
        ("irrelevance_0", "b" * 900, False, "unreadable"),
        ("irrelevance_0", call_text("determine_body_mass_index", "{}"), False, "unwanted_call"),
    ],
)
def test_bfcl_is_scored_on_the_calls_of_the_first_turn(executor, task_id, reply, correct, error):
    task = BFCL[task_id]
    engine = ScriptedEngine({task.prompt[0].content: [reply]})  # a second turn has no reply and would fail
    outcome = evaluate(engine, Suite("bfcl", "v", (task,)), limits=LIMITS, executor=executor).outcomes[0]
    assert (outcome.correct, outcome.error) == (correct, error)
    assert outcome.malformed == ("<tool_call>{<" in reply) and outcome.tool_errors == 0
    assert outcome.domain == task.domain and outcome.turns == 1
    assert not outcome.unknown_tool or task_id == "parallel_0"


def test_a_prompt_that_does_not_fit_is_an_outcome(executor):
    task = BFCL["irrelevance_0"]
    engine = ScriptedEngine({}, context_length=10)
    outcome = evaluate(engine, Suite("bfcl", "v", (task,)), limits=LIMITS, executor=executor).outcomes[0]
    assert (outcome.correct, outcome.error, outcome.ending) == (False, "unreadable", Ending.OUT_OF_TOKENS)


def test_a_mixed_suite_keeps_its_order_decodes_greedily_and_reports_progress(executor):
    tasks = (BFCL["irrelevance_0"], answer_task("right"), BFCL["irrelevance_1"], answer_task("wrong"))
    script = {f"<{name}>": ANSWERED[name] for name in ("right", "wrong")}
    script |= {task.prompt[0].content: ["No."] for task in (tasks[0], tasks[2])}
    engine = ScriptedEngine(script, batch_size=1)
    done: list[tuple[str, int, int]] = []
    evaluation = evaluate(
        engine, Suite("s", "1", tasks), limits=LIMITS, executor=executor, progress=lambda *seen: done.append(seen)
    )
    assert [o.task_id for o in evaluation.outcomes] == [task.id for task in tasks]
    assert [o.correct for o in evaluation.outcomes] == [True, True, True, False]
    assert done == [("evaluate on s", count, 4) for count in range(5)] and set(engine.temperatures) == {0.0}


def test_an_empty_suite_is_an_empty_evaluation(executor):
    evaluation = evaluate(ScriptedEngine({}), Suite("s", "1", ()), limits=LIMITS, executor=executor)
    assert evaluation.counts() == Counts(n=0, correct=0) and evaluation.by_domain() == {}
