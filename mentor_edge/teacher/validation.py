"""Checking teachers: a reference is kept only when its calls really give its results and it scores full reward."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mentor_edge.files import write_jsonl
from mentor_edge.messages import Message, ToolCall, Trajectory
from mentor_edge.progress import Progress, no_progress
from mentor_edge.rewards import MentorReward, Reward
from mentor_edge.tasks.answers.judge import answers_equal, as_number, boxed_answer
from mentor_edge.tasks.bfcl import match_calls, never_executed
from mentor_edge.tasks.types import Task
from mentor_edge.tools.execution.executor import ToolExecutor


@dataclass(frozen=True, slots=True)
class RejectedTask:
    """A task whose reference cannot be trusted, and the first thing found wrong with it."""

    id: str
    reason: str


def validate_references(
    tasks: Sequence[Task],
    executor: ToolExecutor,
    reward: Reward | None = None,
    progress: Progress = no_progress,
) -> tuple[list[Task], list[RejectedTask]]:
    """Split tasks into those whose reference holds and the rest, both in the order given.

    A task is kept with those of its references that hold. A reference holds when every call executes without error,
    each result equals the recorded tool message (as numbers, where both are), the last message boxes its answer, some
    call gives it (where it is a number), and `reward` (MENTOR's when None) gives its maximum. Of a task with accepted
    calls, a reference holds when the calls of its first message are accepted and those with a recorded result and an
    implementation give it.
    """
    reward = MentorReward() if reward is None else reward
    kept: list[Task] = []
    rejected: list[RejectedTask] = []
    progress("validate references", 0, len(tasks))
    for done, task in enumerate(tasks, start=1):
        defects = [_defect(task, reference, executor, reward) for reference in task.references]
        if None in defects:
            sound = [reference for reference, defect in zip(task.references, defects, strict=True) if defect is None]
            kept.append(replace(task, reference=sound[0], other_references=tuple(sound[1:])))
        else:
            rejected.append(RejectedTask(task.id, (defects or ["no reference"])[0] or ""))
        progress("validate references", done, len(tasks))
    return kept, rejected


def write_rejected(path: str | Path, rejected: Iterable[RejectedTask]) -> None:
    """Write one JSON object per rejected task (`id`, `reason`).

    Raises: OutputError when the file cannot be written.
    """
    write_jsonl(Path(path), map(asdict, rejected))


def shortest_reference(task: Task) -> Task:
    """The task with only that of its references that makes the fewest calls; of equally short ones, the first."""
    if not task.references:
        return task
    shortest = min(task.references, key=lambda reference: len(reference.calls))
    return replace(task, reference=shortest, other_references=())


def _defect(task: Task, reference: Trajectory, executor: ToolExecutor, reward: Reward) -> str | None:
    recorded = _recorded_results(reference.messages)
    if task.accepted_calls is not None:
        return _call_defect(task, reference) or _result_defect(task, recorded or (), executor)
    if recorded is None:
        return "a call has no recorded result, or a result no call"
    if defect := _result_defect(task, recorded, executor):
        return defect
    boxed = boxed_answer(reference.messages[-1].content) if reference.messages else None
    if reference.answer is None or boxed != reference.answer:
        return f"the last message boxes {boxed!r}, the reference's answer is {reference.answer!r}"
    # Answers in words may be said without a call that gives them; a number that no call gives was not computed.
    if recorded and as_number(boxed) is not None and not any(answers_equal(result, boxed) for _, result in recorded):
        return f"no call gives the answer {boxed}"
    score = reward(reference, task)
    if score.total != reward.maximum:
        return f"reward {score.total:g} of {reward.maximum:g}: {score.reason} ({reference.answer!r}, {task.answer!r})"
    return None


def _call_defect(task: Task, reference: Trajectory) -> str | None:
    calls = [
        {"name": call.name, "arguments": dict(call.arguments)}
        for message in reference.messages[:1]
        for call in message.tool_calls
    ]
    functions = [schema["function"] for schema in task.tool_schemas]
    match = match_calls(task.domain, functions, task.accepted_calls or (), calls)
    return None if match.valid else f"the calls of the first message are not the accepted ones: {match.error_type}"


def _result_defect(task: Task, recorded: Sequence[tuple[ToolCall, str]], executor: ToolExecutor) -> str | None:
    with executor.session() as session:  # stateful tools go on from call to call
        for call, result in recorded:
            offered = task.tools_by_name.get(call.name)
            if task.accepted_calls is not None and offered is not None and offered.function is never_executed:
                continue
            actual = executor.run(call, task.tools_by_name, session)
            if actual.failed:
                return f"{_shown(call)} failed: {actual.content}"
            if not answers_equal(actual.content, result):
                return f"{_shown(call)} gives {actual.content}, recorded is {result}"
    return None


def _recorded_results(messages: Sequence[Message]) -> list[tuple[ToolCall, str]] | None:
    """Every call with the tool message that answers it; None when they do not line up."""
    pairs: list[tuple[ToolCall, str]] = []
    waiting: list[ToolCall] = []
    for message in messages:
        if message.role == "tool":
            if not waiting or message.name not in (None, waiting[0].name):
                return None
            pairs.append((waiting.pop(0), message.content))
        elif waiting:
            return None
        else:
            waiting = list(message.tool_calls)
    return None if waiting else pairs


def _shown(call: ToolCall) -> str:
    return f"{call.name}({json.dumps(dict(call.arguments), ensure_ascii=False)})"
