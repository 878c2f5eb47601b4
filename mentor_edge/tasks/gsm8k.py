r"""GSM8K word problems with tool trajectories: one JSON object per line.

    {"id": "...", "question": "...", "answer": "72",
     "steps": [{"thought": "...", "calls": [{"name": "divide", "arguments": {"a": 48, "b": 2}, "result": 24}]}]}

Further fields are ignored. Questions and answers are from openai/grade-school-math (MIT, (c) 2021 OpenAI); the calls
are its `<<48/2=24>>` annotations rewritten as calls of the calculator.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from mentor_edge.messages import Ending, Message, ToolCall, Trajectory
from mentor_edge.rows import field, read_rows, shown
from mentor_edge.tasks.types import AgentLimits, Suite, Task
from mentor_edge.tools.calculator import CALCULATOR, normalized

INSTRUCTION = r"Put the final answer in \boxed{}."
VERSION = "1"
LIMITS = AgentLimits(tool_rounds=12, tokens_per_turn=192, completion_tokens=1024)
"""Limits of one conversation, wide enough for every reference."""

TOOLS = tuple(sorted(CALCULATOR, key=lambda tool: tool.name))
"""Alphabetical, as the agent offers tools on the device."""


def load(path: str | Path) -> Suite:
    r"""Read trajectories as a suite: every task in domain "gsm8k", split "id", with the twelve calculator tools.

    A reference says each step's thought and calls in one assistant message, then the recorded results as tool messages
    printed as the calculator prints them, and last `\boxed{answer}`. Thoughts of steps without calls open the next
    assistant message: a turn without a call would end the conversation.

    A row without "steps" has no reference: methods that learn from the final answer alone can use it.

    Raises: TaskError naming file, line, field and value seen; the first five malformed lines are listed together.
    """
    return Suite("gsm8k", VERSION, tuple(read_rows(Path(path), _task, what="tasks", unique="id")), LIMITS)


def _task(row: Any) -> Task:
    answer = field(row, "answer", str)
    question = field(row, "question", str)
    return Task(
        field(row, "id", str),
        (Message("user", f"{question}\n{INSTRUCTION}"),),
        TOOLS,
        "id",
        "gsm8k",
        answer=answer,
        reference=_reference(field(row, "steps", list), answer) if "steps" in row else None,
    )


def _reference(steps: list[Any], answer: str) -> Trajectory:
    messages: list[Message] = []
    thoughts: list[str] = []
    for i, step in enumerate(steps):
        where = f"steps[{i}]"
        thoughts.append(field(step, "thought", str, where))
        executed = [_call(call, f"{where}.calls[{j}]") for j, call in enumerate(field(step, "calls", list, where))]
        for call, result in executed:
            # One call a turn: within a step, later calls often take the results of earlier ones.
            messages.append(Message("assistant", " ".join(thoughts), (call,)))
            messages.append(Message("tool", result, name=call.name))
            thoughts = []
    messages.append(Message("assistant", " ".join(itertools.chain(thoughts, [rf"\boxed{{{answer}}}"]))))
    return Trajectory(tuple(messages), answer, Ending.ANSWERED)


def _call(call: Any, where: str) -> tuple[ToolCall, str]:
    name, arguments = field(call, "name", str, where), field(call, "arguments", dict, where)
    result = field(call, "result", (int, float), where)
    try:
        return ToolCall(name, arguments), json.dumps(normalized(result))
    except (ValueError, OverflowError):
        raise ValueError(f"{where}.result: expected a finite number, found {shown(result)}") from None
