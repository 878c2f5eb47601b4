"""What is found wrong with tasks before training, and how several references of one task are checked and chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from mentor_edge.messages import Ending, Message, ToolCall, Trajectory
from mentor_edge.rewards import MentorReward
from mentor_edge.tasks.mistakes import task_mistakes
from mentor_edge.tasks.types import Task
from mentor_edge.teacher.validation import RejectedTask, shortest_reference, validate_references
from mentor_edge.tools.calculator import CALCULATOR
from mentor_edge.tools.execution.executor import ToolExecutor


def reference(*steps: tuple[str, int, int, str], answer: str = "12") -> Trajectory:
    """A trajectory of (tool, a, b, recorded result) that boxes `answer`."""
    messages: list[Message] = []
    for name, a, b, result in steps:
        messages.append(Message("assistant", "", (ToolCall(name, {"a": a, "b": b}),)))
        messages.append(Message("tool", result, name=name))
    last = Message("assistant", rf"So it is \boxed{{{answer}}}.")
    return Trajectory((*messages, last), answer, Ending.ANSWERED)


PRODUCT = reference(("multiply", 3, 4, "12"))
SUMS = reference(("add", 4, 4, "8"), ("add", 8, 4, "12"))
OTHER_SUM = reference(("add", 6, 6, "12"))
WRONG_RESULT = reference(("add", 4, 4, "12"))
FAILING = reference(("divide", 12, 0, "12"))
WRONG_ANSWER = reference(("add", 6, 7, "13"), answer="13")


def task(*references: Trajectory, name: str = "t") -> Task:
    first, *others = references or (None,)
    return Task(name, (), CALCULATOR, "id", "test", answer="12", reference=first, other_references=tuple(others))


def mistakes(*tasks: Task, needs_reference: bool = True) -> list[str]:
    return task_mistakes(tasks, method="mentor", needs_reference=needs_reference)


# Before training


def test_sound_tasks_have_no_mistakes():
    assert mistakes(task(PRODUCT, name="a"), task(PRODUCT, SUMS, name="b")) == []
    assert mistakes(replace(task(), other_references=(PRODUCT,))) == []


def test_no_task_at_all_is_a_mistake():
    assert mistakes() == mistakes(needs_reference=False) == ["tasks: there are none"]


def test_only_a_method_that_learns_from_references_needs_them():
    (told,) = mistakes(task(PRODUCT, name="a"), task(name="b"))
    assert told == "tasks: no reference, which the method 'mentor' needs (task b)"
    assert mistakes(task(name="b"), needs_reference=False) == []


def test_tools_must_be_there_and_told_apart():
    bare = replace(task(PRODUCT, name="bare"), tools=())
    twice = replace(task(PRODUCT, name="twice"), tools=(*CALCULATOR, CALCULATOR[0], CALCULATOR[0]))
    assert mistakes(bare, twice, needs_reference=False) == [
        "tasks: no tools are offered (task bare)",
        "tasks: two tools have the name 'add' (task twice)",
    ]


def test_every_id_stands_once():
    assert mistakes(*(task(PRODUCT, name=name) for name in "abcabb")) == [
        "tasks: one id is used more than once (task a, b)"
    ]


def test_every_kind_of_mistake_is_told_once_with_its_first_tasks():
    bare = [replace(task(name=f"t{number}"), tools=()) for number in range(7)]
    assert mistakes(*bare, bare[0]) == [
        "tasks: no tools are offered (task t0, t1, t2, t3, t4 and 3 more)",
        "tasks: no reference, which the method 'mentor' needs (task t0, t1, t2, t3, t4 and 3 more)",
        "tasks: one id is used more than once (task t0)",
    ]


# Several references


@pytest.fixture(scope="module")
def executor() -> Iterator[ToolExecutor]:
    with ToolExecutor() as shared:
        yield shared


def test_every_reference_that_holds_is_kept(executor):
    own = task(PRODUCT, SUMS)
    assert validate_references([own], executor) == ([own], [])


def test_references_that_do_not_hold_are_dropped_one_by_one(executor):
    own = task(WRONG_RESULT, SUMS, FAILING, PRODUCT, WRONG_ANSWER)
    assert validate_references([own], executor) == ([task(SUMS, PRODUCT)], [])


def test_a_task_is_rejected_when_none_holds_for_the_reason_of_its_first(executor):
    done: list[tuple[str, int, int]] = []
    tasks = [task(WRONG_RESULT, FAILING, name="a"), task(SUMS, name="b"), task(WRONG_ANSWER, name="c"), task(name="d")]
    kept, rejected = validate_references(tasks, executor, progress=lambda *seen: done.append(seen))
    assert (kept, done) == ([tasks[1]], [("validate references", count, 4) for count in range(5)])
    assert [found.id for found in rejected] == ["a", "c", "d"]
    for found, said in zip(rejected, ["returns 8, recorded is 12", "reward 0.16 of 1.1", "no reference"], strict=True):
        assert said in found.reason
    assert rejected[2] == RejectedTask("d", "no reference")


def test_references_without_a_first_one_are_checked_too(executor):
    kept, _ = validate_references([replace(task(), other_references=(FAILING, PRODUCT, SUMS))], executor)
    assert kept == [task(PRODUCT, SUMS)]


@pytest.mark.parametrize("matching", ["set", "overlap", "f1", "calls", "strict", "none"])
def test_references_that_differ_hold_under_every_matching(matching, executor):
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
