r"""GSM8K word problems with tool trajectories: one JSON object per line.

    {"id": "...", "question": "...", "answer": "72",
     "steps": [{"thought": "...", "calls": [{"name": "divide", "arguments": {"a": 48, "b": 2}, "result": 24}]}]}

Further fields are ignored. Questions and answers are from openai/grade-school-math (MIT, (c) 2021 OpenAI); the calls
are its `<<48/2=24>>` annotations rewritten as calls of the calculator.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mentor_edge.errors import TaskError
from mentor_edge.messages import Ending, Message, ToolCall, Trajectory
from mentor_edge.tasks.types import Suite, Task
from mentor_edge.tools.calculator import CALCULATOR, normalized

INSTRUCTION = r"Put the final answer in \boxed{}."
VERSION = "1"

# Alphabetical, as the agent offers tools on the device.
_TOOLS = tuple(sorted(CALCULATOR, key=lambda tool: tool.name))
_PROBLEMS_SHOWN = 5
_Field = TypeVar("_Field")


def load(path: str | Path) -> Suite:
    r"""Read trajectories as a suite: every task in domain "gsm8k", split "id", with the twelve calculator tools.

    A reference says each step's thought and calls in one assistant message, then the recorded results as tool messages
    printed as the calculator prints them, and last `\boxed{answer}`. Thoughts of steps without calls open the next
    assistant message: a turn without a call would end the conversation.

    A row without "steps" has no reference: methods that learn from the final answer alone can use it.

    Raises: TaskError naming file, line, field and value seen; the first five malformed lines are listed together.
    """
    path = Path(path)
    tasks: list[Task] = []
    problems: list[str] = []
    seen: set[str] = set()
    try:
        for number, row in _rows(path):
            try:
                task = _task(json.loads(row))
                if task.id in seen:
                    raise ValueError(f"id: {task.id!r} stands on an earlier line too")
            except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
                problems.append(f"{path}:{number}: {_reason(error)}")
            else:
                seen.add(task.id)
                tasks.append(task)
    except OSError as error:
        raise TaskError(f"cannot read tasks from {path}: {error.strerror}", "give the path of a JSONL file") from error
    if problems:
        shown, hidden = problems[:_PROBLEMS_SHOWN], len(problems) - _PROBLEMS_SHOWN
        raise TaskError("\n".join(shown + ([f"and {hidden} more"] if hidden > 0 else [])))
    if not tasks:
        raise TaskError(f"{path} holds no tasks", "each line is one JSON object with id, question, answer and steps")
    return Suite("gsm8k", VERSION, tuple(tasks))


def _rows(path: Path) -> Iterator[tuple[int, bytes]]:
    """Non-empty lines with their numbers; bytes, so that a line that is not UTF-8 costs no other line."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, line


def _reason(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} (column {error.colno})"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start})"
    return str(error)


def _task(row: Any) -> Task:
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, found {_shown(row)}")
    answer = _field(row, "answer", str)
    question = _field(row, "question", str)
    return Task(
        _field(row, "id", str), (Message("user", f"{question}\n{INSTRUCTION}"),), _TOOLS, "id", "gsm8k",
        answer=answer, reference=_reference(_field(row, "steps", list), answer) if "steps" in row else None,
    )  # fmt: skip


def _reference(steps: list[Any], answer: str) -> Trajectory:
    messages: list[Message] = []
    thoughts: list[str] = []
    for i, step in enumerate(steps):
        where = f"steps[{i}]"
        thoughts.append(_field(step, "thought", str, where))
        executed = [_call(call, f"{where}.calls[{j}]") for j, call in enumerate(_field(step, "calls", list, where))]
        for call, result in executed:
            # One call a turn: within a step, later calls often take the results of earlier ones.
            messages.append(Message("assistant", " ".join(thoughts), (call,)))
            messages.append(Message("tool", result, name=call.name))
            thoughts = []
    messages.append(Message("assistant", " ".join(itertools.chain(thoughts, [rf"\boxed{{{answer}}}"]))))
    return Trajectory(tuple(messages), answer, Ending.ANSWERED)


def _call(call: Any, where: str) -> tuple[ToolCall, str]:
    name, arguments = _field(call, "name", str, where), _field(call, "arguments", dict, where)
    result = _field(call, "result", (int, float), where)
    try:
        return ToolCall(name, arguments), json.dumps(normalized(result))
    except (ValueError, OverflowError):
        raise ValueError(f"{where}.result: expected a finite number, found {_shown(result)}") from None


_NAMES: Mapping[Any, str] = {str: "text", list: "a list", dict: "an object", (int, float): "a number"}


def _field(row: Any, name: str, kind: type[_Field] | tuple[type[_Field], ...], where: str = "") -> _Field:
    """`row[name]`. Raises: ValueError naming the field, what it should hold and what it holds."""
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object, found {_shown(row)}")
    full_name = f"{where}.{name}" if where else name
    if name not in row:
        raise ValueError(f"{full_name}: missing")
    value = row[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{full_name}: expected {_NAMES[kind]}, found {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
