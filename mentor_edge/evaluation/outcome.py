"""`Outcome`: the scores of one task, with everything needed to trace them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, fields
from typing import Annotated, Any

from pydantic import ConfigDict, PlainSerializer, PlainValidator, Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from mentor_edge.messages import Ending, Limit, Message, Trajectory
from mentor_edge.rewards import is_correct
from mentor_edge.tasks.answers.passages import passage_metrics
from mentor_edge.tasks.call_matching import match_calls
from mentor_edge.tasks.types import Task

MISSING = "missing"
"""The `error` of a task that has no prediction."""


def _messages(value: Any) -> tuple[Message, ...]:
    try:
        return tuple(row if isinstance(row, Message) else Message.from_openai(row) for row in value)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a message is malformed: {error!r}") from error


Text = Annotated[str, Strict()]
Flag = Annotated[bool, Strict()]
Count = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Messages = Annotated[
    tuple[Message, ...],
    PlainValidator(_messages),
    PlainSerializer(lambda messages: [message.to_openai() for message in messages]),
]


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="ignore"))
class Outcome:
    """The outcome of one task: one row of an items file, with these fields as its keys."""

    task_id: Text
    """The task's id."""
    split: Text
    """The task's split."""
    domain: Text
    """The task's domain."""
    correct: Flag
    """The score."""
    malformed: Flag
    """Whether the conversation ended with an unreadable tool call."""
    unknown_tool: Flag
    """Whether the model called a tool that was not offered."""
    ending: Ending | None
    """How the trajectory ended; None without a prediction."""
    answer: Text | None
    """The final answer."""
    error: Text | None
    """Why the task is wrong, in one word: `Match.error_type` for tasks scored on their calls, "missing" for a task
    without a prediction."""
    calls: Count
    """Calls that the model made, executed or not."""
    turns: Count
    """Turns of the model."""
    tokens: Count
    """Tokens that the model wrote."""
    tool_errors: Count
    """Errors that tools returned."""
    messages: Messages
    """Everything after the prompt, in OpenAI's format."""
    reason: Text | None = None
    """Why the conversation ended, if `ending` alone does not say it (`Trajectory.reason`)."""
    seconds: Number = field(default=0.0, compare=False)
    """Time from the start of the task's batch to the task's end. Ignored when two outcomes are compared."""
    metrics: dict[Text, Number] = field(default_factory=dict)
    """Further scores from 0 to 1, such as `f1` and `passage_recall` of questions over passages."""
    expected: dict[Text, Any] = field(default_factory=dict)
    """What counts as right, as `answers`, `calls` or `passages`."""
    tools: tuple[Text, ...] = ()
    """Names of the tools offered."""
    prompt: Messages = ()
    """The prompt, in OpenAI's format."""
    cut_by: Limit | None = None
    """The limit that cut the conversation off before the model could finish; None if none did."""
    prompt_tokens: Count = 0
    """Tokens of the rendered prompt; 0 if they were not counted."""
    own_spelling: Flag | None = None
    """Whether every call is in the spelling of the model's own template; None without calls, or if the template is not
    known."""

    @property
    def correct_in_format(self) -> bool:
        """Whether the task is right, and no call is in another spelling than the template's own."""
        return self.correct and self.own_spelling is not False

    def to_json(self) -> dict[str, Any]:
        """The row of an items file."""
        row: dict[str, Any] = _ADAPTER.dump_python(self)
        return row

    @staticmethod
    def from_json(row: Any) -> Outcome:
        """Raises: ValueError naming the field that is missing or has an invalid value."""
        if not isinstance(row, dict):
            raise ValueError(f"expected an object, found {type(row).__name__}")
        if missing := [f.name for f in fields(Outcome) if f.name not in row and f.name not in _ADDED_LATER]:
            raise ValueError(f"{missing[0]}: missing")
        try:
            return _ADAPTER.validate_python(row)
        except ValidationError as error:
            first = error.errors()[0]
            name = first["loc"][0]
            reason = first.get("ctx", {}).get("error") or f"invalid value {row[name]!r}"
            raise ValueError(f"{name}: {reason}") from error


_ADDED_LATER = frozenset({"reason", "cut_by", "prompt_tokens", "own_spelling"})
"""Fields that the rows of older versions lack."""
_ADAPTER = TypeAdapter(Outcome)


def outcome_of(task: Task, trajectory: Trajectory) -> Outcome:
    """Score one trajectory.

    A task with an `answer` is right when the final answer is. A task with `accepted_calls` is right when the calls of
    the first turn are; a turn that is unreadable or cut off is never right, even if the task expects no call.
    """
    correct, error = is_correct(trajectory, task), None
    if task.accepted_calls is not None:
        functions = [schema["function"] for schema in task.tool_schemas]
        match = match_calls(task.domain, functions, task.accepted_calls, _first_calls(trajectory))
        correct, error = match.valid, match.error_type
    return Outcome(
        task.id,
        task.split,
        task.domain,
        correct,
        malformed=trajectory.ending is Ending.MALFORMED,
        unknown_tool=not trajectory.tools_used <= task.tools_by_name.keys(),
        ending=trajectory.ending,
        answer=trajectory.answer,
        error=error,
        calls=len(trajectory.calls),
        turns=sum(message.role == "assistant" for message in trajectory.messages),
        tokens=trajectory.tokens,
        tool_errors=trajectory.tool_errors,
        messages=trajectory.messages,
        reason=trajectory.reason,
        seconds=round(trajectory.seconds, 4),
        metrics=_metrics(task, trajectory),
        cut_by=trajectory.cut_by,
        prompt_tokens=len(trajectory.prompt_ids),
        own_spelling=trajectory.own_spelling,
        **_of_task(task),
    )


def missing_outcome(task: Task) -> Outcome:
    """The outcome of a task without a prediction: always wrong."""
    return Outcome(
        task.id,
        task.split,
        task.domain,
        correct=False,
        malformed=False,
        unknown_tool=False,
        ending=None,
        answer=None,
        error=MISSING,
        calls=0,
        turns=0,
        tokens=0,
        tool_errors=0,
        messages=(),
        metrics=dict.fromkeys(_metrics(task, Trajectory((), None, Ending.TRUNCATED)), 0.0),
        **_of_task(task),
    )


def _of_task(task: Task) -> dict[str, Any]:
    expected: dict[str, Any] = {}
    if task.answers:
        expected["answers"] = list(task.answers)
    if task.accepted_calls is not None:
        expected["calls"] = [dict(call) for call in task.accepted_calls]
    if task.gold_passages:
        expected["passages"] = list(task.gold_passages)
    return {"expected": expected, "tools": tuple(tool.name for tool in task.tools), "prompt": task.prompt}


def _metrics(task: Task, trajectory: Trajectory) -> dict[str, float]:
    return passage_metrics(task, trajectory) if task.gold_passages else {}


def _first_calls(trajectory: Trajectory) -> Sequence[dict[str, Any]] | None:
    """The calls of the first turn, or None if the model did not close it or wrote an unreadable call."""
    if trajectory.ending not in (Ending.ANSWERED, Ending.OUT_OF_TURNS):
        return None
    return [{"name": call.name, "arguments": dict(call.arguments)} for call in trajectory.messages[0].tool_calls]
