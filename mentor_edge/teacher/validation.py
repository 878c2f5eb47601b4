"""Validation of references: only those whose calls really return their results and that earn full reward are kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mentor_edge.files import write_jsonl
from mentor_edge.messages import Message, ToolCall, Trajectory
from mentor_edge.progress import Progress, no_progress
from mentor_edge.rewards import MentorReward, Reward
from mentor_edge.tasks import jsonl
from mentor_edge.tasks.answers.judge import answers_equal, as_number, boxed_answer
from mentor_edge.tasks.call_matching import match_calls
from mentor_edge.tasks.types import Task, never_executed
from mentor_edge.tools.execution.executor import ToolExecutor
from mentor_edge.tools.types import Tool

NO_REFERENCE = "no reference"


@dataclass(frozen=True, slots=True)
class RejectedTask:
    """A task without a reference that can be trusted."""

    id: str
    """The id of the task."""
    reason: str
    """The first defect of its first reference, or "no reference"."""


@dataclass(frozen=True, slots=True)
class ReferenceFailure:
    """A reference in a tasks file that cannot be trusted, or a task without one."""

    line: int
    """The line of the file, counted from 1."""
    id: str
    """The id of the task."""
    reference: int | None
    """Which of the task's references, counted from 1. None if it has none."""
    reason: str
    """The first defect, or "no reference"."""


@dataclass(frozen=True)
class FileValidation:
    """The result of `validate_file`."""

    file: Path
    sha256: str
    """The hash of the whole suite in the file, even if only its first tasks were checked."""
    tasks: int
    """How many tasks were checked."""
    references: int
    """How many references they have."""
    failures: tuple[ReferenceFailure, ...]

    def to_json(self) -> dict[str, Any]:
        """The result as `mentor-edge tasks validate --json` prints it."""
        return asdict(self) | {"file": str(self.file)}


def validate_references(
    tasks: Sequence[Task],
    executor: ToolExecutor,
    reward: Reward | None = None,
    progress: Progress = no_progress,
) -> tuple[list[Task], list[RejectedTask]]:
    """Execute every reference and separate the tasks that can be trained on from the rest.

    A reference passes if all of the following are true:

    - every call executes without an error
    - each result equals the recorded tool message (as numbers, if both are numbers)
    - the last message boxes the reference's answer, and some call returned it (if it is a number)
    - the reference earns the maximum of `reward`

    For a task with accepted calls, a reference passes if the calls of its first message are accepted, and every call
    with a recorded result and an implementation returns that result.

    Args:
        tasks: the tasks to check.
        executor: runs the calls. Every reference gets its own session.
        reward: the reward whose maximum a reference must earn. None means MENTOR's, for every method.
        progress: called after every task.

    Returns:
        The tasks with at least one reference that passes, each with only those, and the rejected tasks. Both keep the
        order of `tasks`.
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
            rejected.append(RejectedTask(task.id, (defects or [NO_REFERENCE])[0] or ""))
        progress("validate references", done, len(tasks))
    return kept, rejected


def validate_file(
    path: Path,
    tools: Mapping[str, Tool],
    executor: ToolExecutor,
    *,
    limit: int | None = None,
    progress: Progress = no_progress,
) -> FileValidation:
    """Execute every reference of a tasks file, or of its first `limit` tasks, and list each one that fails.

    Training keeps a task if one of its references passes. A file is expected to contain only references that pass.

    Raises: TaskError when the file is missing or malformed.
    """
    suite = jsonl.load(path, tools)
    tasks = suite.tasks[:limit]
    lines = jsonl.line_numbers(path)
    reward = MentorReward()
    failures: list[ReferenceFailure] = []
    progress("validate references", 0, len(tasks))
    for done, task in enumerate(tasks, start=1):
        if not task.references and task.accepted_calls is None:  # accepted calls suffice to evaluate
            failures.append(ReferenceFailure(lines[task.id], task.id, None, NO_REFERENCE))
        for number, reference in enumerate(task.references, start=1):
            if defect := _defect(task, reference, executor, reward):
                failures.append(ReferenceFailure(lines[task.id], task.id, number, defect))
        progress("validate references", done, len(tasks))
    references = sum(len(task.references) for task in tasks)
    return FileValidation(path, suite.sha256, len(tasks), references, tuple(failures))


def write_rejected(path: str | Path, rejected: Iterable[RejectedTask]) -> None:
    """Write one JSON object per rejected task (`id`, `reason`).

    Raises: OutputError when the file cannot be written.
    """
    write_jsonl(Path(path), map(asdict, rejected))


def shortest_reference(task: Task) -> Task:
    """The task with a single reference: the one with the fewest calls, the first of them if several have as few."""
    if not task.references:
        return task
    shortest = min(task.references, key=lambda reference: len(reference.calls))
    return replace(task, reference=shortest, other_references=())


def _defect(task: Task, reference: Trajectory, executor: ToolExecutor, reward: Reward) -> str | None:
    """What is wrong with a reference, or None."""
    recorded = _recorded_results(reference.messages)
    if task.accepted_calls is not None:
        return _call_defect(task, reference) or _result_defect(task, recorded or (), executor)
    if recorded is None:
        return "a call has no recorded result, or a result has no call"
    if defect := _result_defect(task, recorded, executor):
        return defect
    boxed = boxed_answer(reference.messages[-1].content) if reference.messages else None
    if reference.answer is None or boxed != reference.answer:
        return f"the last message boxes {boxed!r}, but the reference's answer is {reference.answer!r}"
    # An answer in words need not come from a call, but a number that no call returned was not computed.
    if recorded and as_number(boxed) is not None and not any(answers_equal(result, boxed) for _, result in recorded):
        return f"no call returns the answer {boxed}"
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
    with executor.session() as session:  # tools with a state keep it from call to call
        for call, result in recorded:
            offered = task.tools_by_name.get(call.name)
            if task.accepted_calls is not None and offered is not None and offered.function is never_executed:
                continue
            actual = executor.run(call, task.tools_by_name, session)
            if actual.failed:
                return f"{_shown(call)} failed: {actual.content}"
            if not answers_equal(actual.content, result):
                return f"{_shown(call)} returns {actual.content} instead of the recorded {result}"
    return None


def _recorded_results(messages: Sequence[Message]) -> list[tuple[ToolCall, str]] | None:
    """Every call with the tool message that answers it; None if a call or a result has no counterpart."""
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
