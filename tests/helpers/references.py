"""Small references and tasks for tests of checking and choosing references."""

from __future__ import annotations

from mentor_edge.messages import Ending, Message, ToolCall, Trajectory
from mentor_edge.tasks.types import Task
from mentor_edge.tools.calculator import CALCULATOR


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
