"""`TrainingJob`, the input of a method's training, and the validation of its tasks' references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mentor_edge.errors import TaskError
from mentor_edge.progress import Progress
from mentor_edge.tasks.types import Suite, Task
from mentor_edge.teacher.validation import shortest_reference, validate_references, write_rejected
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


def tasks_with_valid_references(
    suite: Suite, keep: Literal["all", "shortest"], directory: Path, progress: Progress
) -> list[Task]:
    """Execute the references of the suite's tasks, drop the wrong ones, and list them in `directory`/rejected.jsonl.
    Tasks without a reference are kept as they are.

    Raises: TaskError when no task is left.
    """
    with_references = [task for task in suite.tasks if task.references]
    with ToolExecutor() as executor:
        valid, rejected = validate_references(with_references, executor, progress=progress)
    write_rejected(directory / "rejected.jsonl", rejected)
    if keep == "shortest":
        valid = [shortest_reference(task) for task in valid]
    by_id = {task.id: task for task in (*valid, *(task for task in suite.tasks if not task.references))}
    usable = [by_id[task.id] for task in suite.tasks if task.id in by_id]
    if not usable:
        raise TaskError(
            f"none of the {len(with_references)} references passed validation; the first: "
            f"{rejected[0].id}: {rejected[0].reason}",
            f"{directory / 'rejected.jsonl'} lists all reasons",
        )
    return usable
