"""Mistakes in tasks that are found before training."""

from __future__ import annotations

from dataclasses import replace

from helpers.references import PRODUCT, SUMS, task
from mentor_edge.tasks.mistakes import task_mistakes
from mentor_edge.tasks.types import Task
from mentor_edge.tools.calculator import CALCULATOR


def mistakes(*tasks: Task, needs_reference: bool = True) -> list[str]:
    return task_mistakes(tasks, method="mentor", needs_reference=needs_reference)


def test_valid_tasks_have_no_mistakes():
    assert mistakes(task(PRODUCT, name="a"), task(PRODUCT, SUMS, name="b")) == []
    assert mistakes(replace(task(), other_references=(PRODUCT,))) == []


def test_an_empty_list_of_tasks_is_a_mistake():
    assert mistakes() == mistakes(needs_reference=False) == ["tasks: there are none"]


def test_only_a_method_that_learns_from_references_needs_them():
    (mistake,) = mistakes(task(PRODUCT, name="a"), task(name="b"))
    assert mistake == "tasks: no reference, which the method 'mentor' needs (task b)"
    assert mistakes(task(name="b"), needs_reference=False) == []


def test_tools_must_be_offered_and_have_different_names():
    bare = replace(task(PRODUCT, name="bare"), tools=())
    twice = replace(task(PRODUCT, name="twice"), tools=(*CALCULATOR, CALCULATOR[0], CALCULATOR[0]))
    assert mistakes(bare, twice, needs_reference=False) == [
        "tasks: no tools are offered (task bare)",
        "tasks: two tools have the name 'add' (task twice)",
    ]


def test_ids_must_differ():
    assert mistakes(*(task(PRODUCT, name=name) for name in "abcabb")) == [
        "tasks: one id is used more than once (task a, b)"
    ]


def test_every_kind_of_mistake_is_reported_once_with_its_first_tasks():
    bare = [replace(task(name=f"t{number}"), tools=()) for number in range(7)]
    assert mistakes(*bare, bare[0]) == [
        "tasks: no tools are offered (task t0, t1, t2, t3, t4 and 3 more)",
        "tasks: no reference, which the method 'mentor' needs (task t0, t1, t2, t3, t4 and 3 more)",
        "tasks: one id is used more than once (task t0)",
    ]
