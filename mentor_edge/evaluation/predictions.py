"""Scoring outputs made elsewhere. The rows and the report are those of an engine's evaluation.

The file is JSON lines, one object per task, with the task's `id` and exactly one of

    {"id": "...", "text": "..."}        a raw turn of the model, read by our parser
    {"id": "...", "calls": [...]}       the calls of the first turn, each {"name": "...", "arguments": {...}}
    {"id": "...", "answer": "..."}      the final answer
    {"id": "...", "messages": [...]}    everything after the prompt, in OpenAI's format

Other keys are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mentor_edge.engines.endpoint import read_turn
from mentor_edge.evaluation.evaluate import Evaluation
from mentor_edge.evaluation.outcome import missing_outcome, outcome_of
from mentor_edge.files import sha256_of
from mentor_edge.messages import Ending, Message, ToolCall, Trajectory
from mentor_edge.rows import checked, field, read_rows, shown
from mentor_edge.tasks.answers.judge import boxed_answer
from mentor_edge.tasks.types import Suite, Task
from mentor_edge.tool_calls import ParsedTurn, parse_turn


def score_predictions(path: str | Path, suite: Suite) -> Evaluation:
    """Score the predictions in a file on the tasks of a suite.

    A task without a prediction is wrong, even if it expects no call; it stays in every denominator and counts as
    missing. Tasks with `accepted_calls` are scored on the first turn alone. An unreadable turn ends its conversation,
    as it does in the agent. Tokens and seconds are unknown.

    Raises: TaskError when the file cannot be read, or for malformed rows, unknown tasks and repeated tasks; the first
    five of those are listed together.
    """
    path = Path(path)
    tasks = {task.id: task for task in suite.tasks}

    def parse(row: Any) -> tuple[str, Trajectory]:
        identity = field(row, "id", str)
        if identity not in tasks:
            raise ValueError(f"id: the suite {suite.name} has no task {identity!r}")
        forms = [form for form in _FORMS if form in row]
        if len(forms) != 1:
            raise ValueError(f"expected one of {', '.join(_FORMS)}, found {' and '.join(forms) or 'none'}")
        return identity, _FORMS[forms[0]](row, tasks[identity])

    predicted = dict(read_rows(path, parse, what="predictions", unique="id"))
    outcomes = tuple(
        outcome_of(task, predicted[task.id]) if task.id in predicted else missing_outcome(task) for task in suite.tasks
    )
    return Evaluation(suite.name, suite.version, suite.sha256, outcomes, f"predictions sha256:{sha256_of(path)}")


def _of_text(row: Any, task: Task) -> Trajectory:
    return _trajectory([parse_turn(field(row, "text", str))])


def _of_calls(row: Any, task: Task) -> Trajectory:
    calls = []
    for i, call in enumerate(field(row, "calls", list)):
        where = f"calls[{i}]"
        calls.append(ToolCall(field(call, "name", str, where), field(call, "arguments", dict, where)))
    return _trajectory([ParsedTurn(Message("assistant", "", tuple(calls)), malformed=False)])


def _of_answer(row: Any, task: Task) -> Trajectory:
    answer = field(row, "answer", str)
    return Trajectory((Message("assistant", answer),), answer, Ending.ANSWERED)


def _of_messages(row: Any, task: Task) -> Trajectory:
    turns: list[ParsedTurn | Message] = []
    for i, message in enumerate(field(row, "messages", list)):
        where = f"messages[{i}]"
        role = field(message, "role", str, where)
        if role == "assistant":
            turns.append(read_turn(message))
        elif role == "tool":
            name = checked(message.get("name") or "tool", f"{where}.name", str)
            turns.append(Message("tool", field(message, "content", str, where), name=name))
        else:
            raise ValueError(f"{where}.role: expected assistant or tool, found {shown(role)}")
    if not turns or isinstance(turns[0], Message):
        raise ValueError("messages: expected the assistant's turn first; leave out the prompt")
    return _trajectory(turns[:1] if task.accepted_calls is not None else turns)


_FORMS: Mapping[str, Callable[[Any, Task], Trajectory]] = {
    "text": _of_text,
    "calls": _of_calls,
    "answer": _of_answer,
    "messages": _of_messages,
}


def _trajectory(turns: list[ParsedTurn | Message]) -> Trajectory:
    """The conversation, up to the first unreadable turn."""
    messages: list[Message] = []
    for turn in turns:
        messages.append(turn if isinstance(turn, Message) else turn.message)
        if isinstance(turn, ParsedTurn) and turn.malformed:
            return Trajectory(tuple(messages), None, Ending.MALFORMED)
    last = messages[-1]
    if last.role == "tool" or last.tool_calls:
        return Trajectory(tuple(messages), None, Ending.OUT_OF_TURNS)
    return Trajectory(tuple(messages), boxed_answer(last.content), Ending.ANSWERED)
