"""Mistakes that make a set of tasks unusable for training, found before anything runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mentor_edge.tasks.types import Task

_SHOWN = 5


def task_mistakes(tasks: Sequence[Task], *, method: str, needs_reference: bool, needs_answer: bool = True) -> list[str]:
    """Check tasks before a method trains on them: one line per kind of mistake, each naming its tasks.

    Mistakes are: no tasks at all, an empty tool list, two tools with one name, two tasks with one id, and a task
    without the reference or the answer that the method learns from.
    """
    if not tasks:
        return ["tasks: there are none"]
    ids_by_mistake: dict[str, list[str]] = {}
    for task in tasks:
        names = Counter(tool.name for tool in task.tools)
        if not names:
            ids_by_mistake.setdefault("no tools are offered", []).append(task.id)
        for name in (name for name, count in names.items() if count > 1):
            ids_by_mistake.setdefault(f"two tools have the name {name!r}", []).append(task.id)
        if needs_reference and not task.references:
            ids_by_mistake.setdefault(f"no reference, which the method {method!r} needs", []).append(task.id)
        if needs_answer and not task.answers:
            ids_by_mistake.setdefault(f"no accepted answer, which the method {method!r} needs", []).append(task.id)
    for task_id, count in Counter(task.id for task in tasks).items():
        if count > 1:
            ids_by_mistake.setdefault("one id is used more than once", []).append(task_id)
    return [f"tasks: {mistake} ({_listed(ids)})" for mistake, ids in ids_by_mistake.items()]


def _listed(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:_SHOWN])
    hidden = len(ids) - _SHOWN
    return f"task {shown}" if hidden <= 0 else f"task {shown} and {hidden} more"
