"""`TrainingJob`, the input of a method's training, and the validation of its tasks' references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mentor_edge.chat import ChatTemplate
from mentor_edge.errors import StudentError, TaskError
from mentor_edge.messages import Trajectory
from mentor_edge.progress import Progress
from mentor_edge.tasks.types import Suite, Task
from mentor_edge.teacher.validation import RejectedTask, shortest_reference, validate_references, write_rejected
from mentor_edge.tools.execution.executor import ToolExecutor


@dataclass(frozen=True)
class TrainingJob:
    """What `Recipe.fit` prepares for a method."""

    student: str
    """The directory or hub id of the model to train."""
    tasks: Sequence[Task]
    """The tasks to train on, with valid references."""
    directory: Path
    """The run's directory."""
    checkpoint: Path | None
    """The checkpoint to resume from."""
    progress: Progress
    """Called with (stage, done, total)."""
    note: Callable[[str], None]
    """Called with a sentence that the user should read."""
    validation: Suite | None = None
    """Tasks to answer greedily at every checkpoint, for the learning curve. They are never trained on."""


def usable_tasks(
    suite: Suite,
    template: ChatTemplate,
    keep: Literal["all", "shortest"],
    directory: Path,
    progress: Progress,
    *,
    imitated: bool,
) -> list[Task]:
    """Execute the references of the suite's tasks and drop the wrong ones, as well as tasks that the student's chat
    template cannot render (and references, if they are `imitated`). `directory`/rejected.jsonl lists both.

    Tasks without a reference are kept as they are.

    Raises: TaskError when no task is left.
    """
    with_references = [task for task in suite.tasks if task.references]
    with ToolExecutor() as executor:
        valid, rejected = validate_references(with_references, executor, progress=progress)
    if keep == "shortest":
        valid = [shortest_reference(task) for task in valid]
    by_id = {task.id: task for task in (*valid, *(task for task in suite.tasks if not task.references))}
    sound = [by_id[task.id] for task in suite.tasks if task.id in by_id]
    usable, unrendered = _tasks_to_render(template, sound, imitated=imitated)
    rejected = [*rejected, *unrendered]
    write_rejected(directory / "rejected.jsonl", rejected)
    if usable:
        return usable
    first = f"the first: {rejected[0].id}: {rejected[0].reason}"
    hint = f"{directory / 'rejected.jsonl'} lists all reasons"
    if sound:
        raise TaskError(f"the student's chat template cannot render any of the {len(sound)} tasks; {first}", hint)
    raise TaskError(f"none of the {len(with_references)} references passed validation; {first}", hint)


def _tasks_to_render(
    template: ChatTemplate, tasks: Sequence[Task], *, imitated: bool
) -> tuple[list[Task], list[RejectedTask]]:
    """The tasks whose prompts the template can render and, if they are `imitated`, those of their references that it
    can render too; and what was left out, with the reason."""
    kept: list[Task] = []
    rejected: list[RejectedTask] = []
    for task in tasks:
        sound: list[Trajectory] = []
        for reference in task.references if imitated else ():
            try:
                template.pieces(task.prompt, task.tool_schemas, reference.messages)
                sound.append(reference)
            except StudentError as error:
                rejected.append(RejectedTask(task.id, error.problem))
        if sound:
            kept.append(replace(task, reference=sound[0], other_references=tuple(sound[1:])))
        elif not imitated:
            try:
                template.render(task.prompt, task.tool_schemas, add_generation_prompt=True)
                kept.append(task)
            except StudentError as error:
                rejected.append(RejectedTask(task.id, error.problem))
    return kept, rejected
