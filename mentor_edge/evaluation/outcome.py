"""What became of one task: its scores, and all that is needed to trace them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from mentor_edge.messages import Ending, Message, Trajectory
from mentor_edge.rewards import is_correct
from mentor_edge.tasks.answers.passages import passage_metrics
from mentor_edge.tasks.call_matching import match_calls
from mentor_edge.tasks.types import Task

MISSING = "missing"
"""The `error` of a task that has no prediction."""

_PLAIN: Mapping[str, Any] = {
    "task_id": str, "split": str, "domain": str, "correct": bool, "malformed": bool, "unknown_tool": bool,
    "answer": str | None, "error": str | None, "calls": int, "turns": int, "tokens": int, "tool_errors": int,
    "seconds": int | float, "metrics": dict, "expected": dict,
}  # a table  # fmt: skip
"""Fields that JSON holds as they are, with their types."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one task: one row of an items file, with these fields as its keys.

    - `task_id`, `split`, `domain`: which task
    - `correct`: the score. `error` says in one word why not, for tasks scored on their calls (`Match.error_type`), or
      "missing" for a task without a prediction; that is wrong too, and its `ending` is None
    - `malformed`: it ended with something that looks like a tool call and is none; `unknown_tool`: it called a tool
      that was not offered
    - `ending`, `answer`: how the trajectory ended, and its final answer
    - `calls` the model asked for, `turns` it took, `tokens` it wrote, `tool_errors` it read
    - `seconds` from the start of its batch to its end; it does not count when two outcomes are compared
    - `metrics`: further scores from 0 to 1, such as `f1` and `passage_recall` of questions over passages
    - `expected`: what counts as right, as `answers`, `calls` or `passages`
    - `tools` (names), `prompt`, `messages` (after the prompt, in OpenAI's format): the whole trajectory
    """

    task_id: str
    split: str
    domain: str
    correct: bool
    malformed: bool
    unknown_tool: bool
    ending: Ending | None
    answer: str | None
    error: str | None
    calls: int
    turns: int
    tokens: int
    tool_errors: int
    messages: tuple[Message, ...]
    seconds: float = field(default=0.0, compare=False)
    metrics: Mapping[str, float] = field(default_factory=dict)
    expected: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[str, ...] = ()
    prompt: tuple[Message, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _PLAIN} | {
            "ending": self.ending,
            "tools": list(self.tools),
            "prompt": [message.to_openai() for message in self.prompt],
            "messages": [message.to_openai() for message in self.messages],
        }

    @staticmethod
    def from_json(row: Any) -> Outcome:
        """Raises: ValueError naming the field that is missing or does not hold what it should."""
        if not isinstance(row, dict):
            raise ValueError(f"expected an object, found {type(row).__name__}")
        if missing := [f.name for f in fields(Outcome) if f.name not in row]:
            raise ValueError(f"{missing[0]}: missing")
        for name, kind in _PLAIN.items():
            if not isinstance(row[name], kind) or (isinstance(row[name], bool) and kind is not bool):
                raise ValueError(f"{name}: unusable, {row[name]!r}")
        try:
            return Outcome(
                **{name: row[name] for name in _PLAIN},
                ending=None if row["ending"] is None else Ending(row["ending"]),
                tools=tuple(row["tools"]),
                prompt=tuple(map(Message.from_openai, row["prompt"])),
                messages=tuple(map(Message.from_openai, row["messages"])),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a message is malformed: {error!r}") from error


def outcome_of(task: Task, trajectory: Trajectory) -> Outcome:
    """Score one trajectory.

    A task with an `answer` is right when the final answer is. A task with `accepted_calls` is right when the calls of
    the first turn are; a turn that cannot be read, or was cut, is never right, also where no call is wanted.
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
        seconds=round(trajectory.seconds, 4),
        metrics=_metrics(task, trajectory),
        **_of_task(task),
    )


def missing_outcome(task: Task) -> Outcome:
    """The outcome of a task that nobody answered: wrong, whatever was asked."""
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
    """The calls of the first turn, or None when the model did not close it or wrote something unreadable."""
    if trajectory.ending not in (Ending.ANSWERED, Ending.OUT_OF_TURNS):
        return None
    return [{"name": call.name, "arguments": dict(call.arguments)} for call in trajectory.messages[0].tool_calls]
