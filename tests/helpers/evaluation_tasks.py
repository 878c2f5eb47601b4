"""Tasks for the tests of evaluation: answers by calculators, and BFCL's excerpt."""

from __future__ import annotations

from helpers.paths import DATA
from helpers.scripted_engine import call_text
from mentor_edge.agent import AgentLimits
from mentor_edge.messages import Message
from mentor_edge.tasks import bfcl
from mentor_edge.tasks.types import Task
from mentor_edge.tools.calculator import CALCULATOR

LIMITS = AgentLimits(tool_rounds=3, tokens_per_turn=400, completion_tokens=2000)
ADD = call_text("add", '{"a": 2, "b": 3}')
BFCL = {task.id: task for task in bfcl.load(DATA / "bfcl").tasks}


def answer_task(name: str, *, answer: str = "5", split: str = "id", domain: str = "sums") -> Task:
    return Task(name, (Message("user", f"<{name}>"),), CALCULATOR, split, domain, answer=answer)
