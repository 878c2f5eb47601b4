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

from pydantic import BaseModel

from mentor_edge.engines.openai_message import read_turn
from mentor_edge.evaluation.evaluate import Evaluation
from mentor_edge.evaluation.outcome import missing_outcome, outcome_of
from mentor_edge.files import sha256_of
from mentor_edge.messages import Ending, Message, ToolCall, Trajectory
from mentor_edge.rows import Text, parse_row, read_rows, shown
from mentor_edge.tasks.answers.judge import boxed_answer
from mentor_edge.tasks.types import Suite, Task
from mentor_edge.tool_calls import ParsedTurn, parse_turn


class _Call(BaseModel):
    name: Text
    arguments: dict[str, Any]


class _Prediction(BaseModel):
    """A row. Exactly one of the fields other than `id` is set."""

    id: Text
    text: Text = ""
    calls: list[_Call] = []
    answer: Text = ""
    messages: list[dict[str, Any]] = []


class _ToolMessage(BaseModel):
    content: Text
    name: Text | None = None


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
        prediction = parse_row(_Prediction, row)
        if prediction.id not in tasks:
            raise ValueError(f"id: the suite {suite.name} has no task {prediction.id!r}")
        forms = [form for form in _FORMS if form in prediction.model_fields_set]
        if len(forms) != 1:
            raise ValueError(f"expected one of {', '.join(_FORMS)}, found {' and '.join(forms) or 'none'}")
        return prediction.id, _FORMS[forms[0]](prediction, tasks[prediction.id])

    predicted = dict(read_rows(path, parse, what="predictions", unique="id"))
    outcomes = tuple(
        outcome_of(task, predicted[task.id]) if task.id in predicted else missing_outcome(task) for task in suite.tasks
    )
    return Evaluation(suite.name, suite.version, suite.sha256, outcomes, f"predictions sha256:{sha256_of(path)}")


def _of_text(row: _Prediction, task: Task) -> Trajectory:
    return _trajectory([parse_turn(row.text, task.tool_schemas)])


def _of_calls(row: _Prediction, task: Task) -> Trajectory:
    calls = tuple(ToolCall(call.name, call.arguments) for call in row.calls)
    return _trajectory([ParsedTurn(Message("assistant", "", calls), malformed=False)])


def _of_answer(row: _Prediction, task: Task) -> Trajectory:
    return Trajectory((Message("assistant", row.answer),), row.answer, Ending.ANSWERED)


def _of_messages(row: _Prediction, task: Task) -> Trajectory:
    turns = [_turn(message, i, task) for i, message in enumerate(row.messages)]
    if not turns or isinstance(turns[0], Message):
        raise ValueError("messages: expected the assistant's turn first; leave out the prompt")
    return _trajectory(turns[:1] if task.accepted_calls is not None else turns)


def _turn(message: dict[str, Any], index: int, task: Task) -> ParsedTurn | Message:
    role = message.get("role")
    if role == "assistant":
        return read_turn(message, task.tool_schemas)
    if role != "tool":
        raise ValueError(f"messages[{index}].role: expected assistant or tool, found {shown(role)}")
    result = parse_row(_ToolMessage, message, "messages", index)
    return Message("tool", result.content, name=result.name or "tool")


_FORMS: Mapping[str, Callable[[_Prediction, Task], Trajectory]] = {
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
