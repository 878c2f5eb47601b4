"""What makes a set of tasks unusable for training, found before anything runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mentor_edge.tasks.types import Task

_SHOWN = 5


def task_mistakes(tasks: Sequence[Task], *, method: str, needs_reference: bool, needs_answer: bool = True) -> list[str]:
    """One line per kind of mistake, each naming its tasks: no task at all, an empty tool list, two tools with one name,
    one id twice, and, for a method that learns from references or from answers, a task without one.
    """
    found: dict[str, list[str]] = {}
    for task in tasks:
        names = Counter(tool.name for tool in task.tools)
        if not names:
            found.setdefault("no tools are offered", []).append(task.id)
        for name in (name for name, count in names.items() if count > 1):
            found.setdefault(f"two tools have the name {name!r}", []).append(task.id)
        if needs_reference and not task.references:
            found.setdefault(f"no reference, which the method {method!r} needs", []).append(task.id)
        if needs_answer and not task.answers:
            found.setdefault(f"no accepted answer, which the method {method!r} needs", []).append(task.id)
    for identity, count in Counter(task.id for task in tasks).items():
        if count > 1:
            found.setdefault("one id stands more than once", []).append(identity)
    mistakes = [f"tasks: {problem} ({_listed(identities)})" for problem, identities in found.items()]
    return mistakes if tasks else ["tasks: there are none"]


def _listed(identities: Sequence[str]) -> str:
    shown = ", ".join(identities[:_SHOWN])
    hidden = len(identities) - _SHOWN
    return f"task {shown}" if hidden <= 0 else f"task {shown} and {hidden} more"
