r"""GSM8K word problems with tool trajectories: one JSON object per line.

    {"id": "...", "question": "...", "answer": "72",
     "steps": [{"thought": "...", "calls": [{"name": "divide", "arguments": {"a": 48, "b": 2}, "result": 24}]}]}

Further fields are ignored. Questions and answers are from openai/grade-school-math (MIT, (c) 2021 OpenAI); the calls
are its `<<48/2=24>>` annotations rewritten as calls of the calculator.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mentor_edge.messages import Ending, Message, ToolCall, Trajectory
from mentor_edge.rows import Number, Text, parse_row, read_rows
from mentor_edge.tasks.types import AgentLimits, Suite, Task
from mentor_edge.tools.calculator import CALCULATOR, normalized

INSTRUCTION = r"Put the final answer in \boxed{}."
VERSION = "1"
LIMITS = AgentLimits(tool_rounds=12, tokens_per_turn=1024, completion_tokens=3072)
"""Limits of one conversation, wide enough for every reference."""

TOOLS = tuple(sorted(CALCULATOR, key=lambda tool: tool.name))
"""The calculator's tools in alphabetical order, as the agent offers tools on the device."""


class _Call(BaseModel):
    name: Text
    arguments: dict[str, Any]
    result: Number


class _Step(BaseModel):
    thought: Text
    calls: list[_Call]


class _Row(BaseModel):
    id: Text
    question: Text
    answer: Text
    steps: list[_Step] = []


def load(path: str | Path) -> Suite:
    r"""Read trajectories as a suite: every task in domain "gsm8k", split "id", with the twelve calculator tools.

    A reference writes each step's thought and call in one assistant message, followed by the recorded result as a tool
    message, printed as the calculator prints it. It ends with `\boxed{answer}`. The thoughts of steps without calls
    open the next assistant message, because a turn without a call would end the conversation.

    A row without "steps" has no reference. Methods that learn from the final answer alone can use it.

    Raises: TaskError naming file, line, field and value seen; the first five malformed lines are listed together.
    """
    return Suite("gsm8k", VERSION, tuple(read_rows(Path(path), _task, what="tasks", unique="id")), LIMITS)


def _task(row: Any) -> Task:
    parsed = parse_row(_Row, row)
    return Task(
        parsed.id,
        (Message("user", f"{parsed.question}\n{INSTRUCTION}"),),
        TOOLS,
        "id",
        "gsm8k",
        answer=parsed.answer,
        reference=_reference(parsed.steps, parsed.answer) if "steps" in parsed.model_fields_set else None,
    )


def _reference(steps: Sequence[_Step], answer: str) -> Trajectory:
    messages: list[Message] = []
    thoughts: list[str] = []
    for step in steps:
        thoughts.append(step.thought)
        for call in step.calls:
            # One call per turn: within a step, later calls often need the results of earlier ones.
            messages.append(Message("assistant", " ".join(thoughts), (ToolCall(call.name, call.arguments),)))
            messages.append(Message("tool", json.dumps(normalized(call.result)), name=call.name))
            thoughts = []
    messages.append(Message("assistant", " ".join(itertools.chain(thoughts, [rf"\boxed{{{answer}}}"]))))
    return Trajectory(tuple(messages), answer, Ending.ANSWERED)
