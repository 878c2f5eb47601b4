"""Executing references, keeping those that pass, and choosing one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.paths import DATA
from helpers.references import FAILING, OTHER_SUM, PRODUCT, SUMS, WRONG_ANSWER, WRONG_RESULT, task
from helpers.task_rows import CALLS_ROW, ROW, accepting, changed, loaded
from mentor_edge.errors import OutputError
from mentor_edge.messages import Ending, Message, ToolCall
from mentor_edge.rewards import MentorReward
from mentor_edge.tasks import gsm8k
from mentor_edge.tasks.types import Suite, Task
from mentor_edge.teacher.validation import RejectedTask, shortest_reference, validate_references, write_rejected
from mentor_edge.tools.execution.executor import ToolExecutor


@pytest.fixture(scope="module")
def executor() -> Iterator[ToolExecutor]:
    with ToolExecutor() as shared:
        yield shared


@pytest.fixture(scope="module")
def gsm8k_suite() -> Suite:
    return gsm8k.load(DATA / "gsm8k_excerpt.jsonl")


# Defects


def test_references_of_gsm8k_pass_except_one_whose_last_step_was_not_computed(gsm8k_suite, executor):
    updates: list[tuple[str, int, int]] = []
    kept, rejected = validate_references(gsm8k_suite.tasks, executor, progress=lambda *update: updates.append(update))
    assert kept == [own for own in gsm8k_suite.tasks if own.id != "gsm8k_train_86"]
    assert rejected == [RejectedTask("gsm8k_train_86", "no call returns the answer 6")]
    assert updates == [("validate references", count, 20) for count in range(21)]


def edited(own: Task, *messages: Message, answer: str | None = None) -> Task:
    return replace(own, reference=replace(own.reference, messages=messages, answer=answer or own.reference.answer))


def test_a_wrong_reference_is_rejected_with_its_reason(gsm8k_suite, executor):
    own = gsm8k_suite.tasks[0]
    first, result, *rest = own.reference.messages
    bad_call = replace(first, tool_calls=(ToolCall("divide", {"a": 48, "b": 0}),))
    unknown = replace(first, tool_calls=(ToolCall("halve", {"a": 48}),))
    cases = [
        (replace(own, reference=None), "no reference"),
        (edited(own, first, replace(result, content="25"), *rest), "returns 24 instead of the recorded 25"),
        (edited(own, bad_call, result, *rest), "ZeroDivisionError"),
        (edited(own, unknown, replace(result, name="halve"), *rest), "no tool named"),
        (edited(own, first, *rest), "no recorded result"),
        (edited(own, first, result, result, *rest), "or a result has no call"),
        (edited(own, first, result, *rest[:-1]), "the last message boxes None"),
        (edited(own, first, result, *rest[:-1], Message("assistant", r"\boxed{73}")), "boxes '73'"),
        (
            replace(
                edited(own, first, result, *rest[:-1], Message("assistant", r"\boxed{73}"), answer="73"), answer="73"
            ),
            "no call returns the answer 73",
        ),
        (replace(own, answer="73"), "reward 0.16 of 1.1: wrong answer ('72', '73')"),
        (replace(own, reference=replace(own.reference, ending=Ending.TRUNCATED)), "reward 0 of 1.1: truncated"),
    ]
    kept, rejected = validate_references([case for case, _ in cases] + [own], executor)
    assert kept == [own]
    for (_, reason), one in zip(cases, rejected, strict=True):
        assert one.id == own.id and reason in one.reason


def test_results_are_compared_as_numbers(gsm8k_suite, executor):
    own = gsm8k_suite.tasks[0]
    first, result, *rest = own.reference.messages
    kept, _ = validate_references([edited(own, first, replace(result, content="24.0"), *rest)], executor)
    assert len(kept) == 1


def test_the_reward_can_be_chosen(gsm8k_suite, executor):
    class Never(MentorReward):
        @property
        def maximum(self) -> float:
            return 9.0

    assert len(validate_references(gsm8k_suite.tasks[:2], executor, Never())[1]) == 2


def test_references_of_accepted_calls_are_matched_and_their_recorded_calls_executed(tmp_path: Path) -> None:
    def adding(*messages: dict[str, Any]) -> dict[str, Any]:
        return changed(ROW, "answer") | {"accepted_calls": [{"add": {"a": [2], "b": [3]}}], "reference": list(messages)}

    call, result, answer = ROW["reference"]
    wrong_call = changed(call, "tool_calls", 0, "function", "arguments", "b", to=4)
    cases = [
        (CALLS_ROW, None),
        (adding(call), None),
        (adding(call, result, answer), None),
        (accepting() | {"reference": [{"role": "assistant", "content": "No."}]}, None),
        (accepting(), "the calls of the first message are not the accepted ones: wrong_count"),
        (adding(wrong_call), "are not the accepted ones: wrong_value"),
        (adding(call, result | {"content": "6"}, answer), 'add({"a": 2, "b": 3}) returns 5 instead of the recorded 6'),
        (changed(CALLS_ROW, "reference"), "no reference"),
    ]
    suite = loaded(tmp_path, *(row | {"id": str(i)} for i, (row, _) in enumerate(cases)))
    with ToolExecutor() as executor:
        kept, rejected = validate_references(suite.tasks, executor)
    assert [own.id for own in kept] == [str(i) for i, (_, reason) in enumerate(cases) if reason is None]
    for one, reason in zip(rejected, [reason for _, reason in cases if reason is not None], strict=True):
        assert reason in one.reason


# Several references of one task


def test_every_reference_that_passes_is_kept(executor):
    own = task(PRODUCT, SUMS)
    assert validate_references([own], executor) == ([own], [])


def test_references_that_fail_are_dropped_one_by_one(executor):
    own = task(WRONG_RESULT, SUMS, FAILING, PRODUCT, WRONG_ANSWER)
    assert validate_references([own], executor) == ([task(SUMS, PRODUCT)], [])


def test_a_task_without_a_passing_reference_is_rejected_for_the_defect_of_its_first(executor):
    updates: list[tuple[str, int, int]] = []
    tasks = [task(WRONG_RESULT, FAILING, name="a"), task(SUMS, name="b"), task(WRONG_ANSWER, name="c"), task(name="d")]
    kept, rejected = validate_references(tasks, executor, progress=lambda *update: updates.append(update))
    assert (kept, updates) == ([tasks[1]], [("validate references", count, 4) for count in range(5)])
    assert [one.id for one in rejected] == ["a", "c", "d"]
    reasons = ["returns 8 instead of the recorded 12", "reward 0.16 of 1.1", "no reference"]
    for one, reason in zip(rejected, reasons, strict=True):
        assert reason in one.reason
    assert rejected[2] == RejectedTask("d", "no reference")


def test_references_without_a_first_one_are_checked_too(executor):
    kept, _ = validate_references([replace(task(), other_references=(FAILING, PRODUCT, SUMS))], executor)
    assert kept == [task(PRODUCT, SUMS)]


@pytest.mark.parametrize("matching", ["set", "overlap", "f1", "calls", "strict", "none"])
def test_different_references_pass_under_every_matching(matching, executor):
    own = task(SUMS, PRODUCT, OTHER_SUM)
    assert validate_references([own], executor, MentorReward(matching)) == ([own], [])


def test_the_shortest_reference_is_the_one_with_the_fewest_calls():
    assert shortest_reference(task(SUMS, PRODUCT)) == task(PRODUCT)
    assert shortest_reference(task(PRODUCT, SUMS)) == task(PRODUCT)
    assert shortest_reference(task(SUMS)) == task(SUMS)
    assert shortest_reference(task()) == task()


def test_of_equally_short_references_the_first_is_kept():
    assert shortest_reference(task(SUMS, OTHER_SUM, PRODUCT)) == task(OTHER_SUM)
    assert shortest_reference(task(SUMS, PRODUCT, OTHER_SUM)) == task(PRODUCT)


# Rejected tasks


def test_rejected_tasks_are_written_as_rows(tmp_path):
    path = tmp_path / "rejected.jsonl"
    write_rejected(path, [RejectedTask("a", "because"), RejectedTask("b", "ü\ud800")])
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a", "b"]
    with pytest.raises(OutputError, match="cannot write"):
        write_rejected(path / "below-a-file.jsonl", [])
