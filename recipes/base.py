"""`Recipe`: what all training methods share. Each method is one file that says only what is its own."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from mentor_edge.engines.open import identity_of
from mentor_edge.errors import ConfigError, TaskError
from mentor_edge.files import atomic_file, explained_write_errors
from mentor_edge.progress import Progress, no_progress
from mentor_edge.tasks.mistakes import task_mistakes
from mentor_edge.tasks.types import Suite, Task
from mentor_edge.teacher.validation import shortest_reference, validate_references, write_rejected
from mentor_edge.tools.catalog import load_tools
from mentor_edge.tools.execution.executor import ToolExecutor
from mentor_edge.tools.types import Tool

from .config import RecipeConfig, build_config
from .run import Run, check_output, newest_checkpoint, prepare_output
from .training_tasks import load_training_suite


@dataclass(frozen=True)
class TrainingJob:
    """What `fit` prepares for a method: the student's directory, valid tasks, and where to write.

    `validation` tasks are answered greedily at every checkpoint, for the learning curve; they are never trained on.
    """

    student: str
    tasks: Sequence[Task]
    directory: Path
    checkpoint: Path | None
    progress: Progress
    validation: Suite | None = None


class Recipe(ABC):
    """A training method with its config: `MentorRecipe(student="nano", tasks="nano", output_dir="runs/a").fit()`.

    Fields are those of the method's config; sections take a mapping.

    Raises: ConfigError with all mistakes at once.
    """

    config_type: ClassVar[type[RecipeConfig]]
    name: ClassVar[str]
    needs_reference: ClassVar[bool] = True
    """Whether the method learns from what the teacher did."""
    needs_answer: ClassVar[bool] = True
    """Whether the method learns from final answers, which tasks that are scored on their calls do not have."""

    def __init__(self, **settings: Any) -> None:
        self.config = build_config(self.config_type, settings)

    @abstractmethod
    def train(self, job: TrainingJob) -> None:
        """Train and leave the adapter in `job.directory / "adapter"`."""

    def fit(self, *, resume: bool = False, progress: Progress = no_progress, validation: Suite | None = None) -> Run:
        """Validate the references, train, and return the finished run.

        With `resume`, an unfinished run in the output directory goes on from its last checkpoint and a finished one
        is returned as it is. Greedy accuracy on the `validation` tasks goes to validation.jsonl at every checkpoint.

        Raises: OutputError, StudentError, TaskError, RunError (`from_run` is not finished), StalledError, RewardError,
        ConfigError (tools that cannot be loaded; tasks that the method cannot use; resuming with another
        configuration).
        """
        with load_tools(self.config.tasks.tools) as tools:
            return self._fit(tools.by_name, resume, progress, validation)

    def _fit(self, tools: Mapping[str, Tool], resume: bool, progress: Progress, validation: Suite | None) -> Run:
        directory = self.config.output_dir
        resolved = self.config.model_dump(mode="json")
        from .student import check_student, resolve_student  # loads torch, which a mistake above need not wait for

        check_output(directory, resume=resume)
        # What can be wrong with the input is found before anything is written.
        suite = self.load_tasks(tools)
        start = None if self.config.from_run is None else Run.load(self.config.from_run)
        if start is None:
            check_student(self.config.student)
        prepare_output(directory, resume=resume)
        self._same_config(directory / "config.yaml", resolved)
        if resume and (directory / "run.json").is_file():
            return Run.load(directory)
        started = time.monotonic()
        if start is None:
            student = resolve_student(self.config.student, self.config.seed, progress)
        else:
            student = str(start.merged().resolve())
        tasks = self._validated(suite, directory, progress)
        checkpoint = newest_checkpoint(directory / "checkpoints")
        with explained_write_errors(directory):
            self.train(TrainingJob(student, tasks, directory, checkpoint, progress, validation))
        counts = {
            "suite": suite.name,
            "sha256": suite.sha256,
            "used": len(tasks),
            "rejected": len(suite.tasks) - len(tasks),
        }
        identity = identity_of(student) if Path(student).is_dir() else None
        seconds = time.monotonic() - started
        run = Run(directory, self.name, student, self.config.seed, counts, seconds, identity)
        run.save()
        return run

    @staticmethod
    def _same_config(path: Path, resolved: dict[str, Any]) -> None:
        text = yaml.safe_dump(resolved, sort_keys=False)
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            raise ConfigError([f"{path} differs from this configuration"], "resume with the same settings")
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def load_tasks(self, tools: Mapping[str, Tool]) -> Suite:
        """The training tasks that the config asks for, before their references are executed. `tools` are those that
        the config names.

        Raises: TaskError when the tasks file is missing or malformed; ConfigError with every kind of mistake that makes
        tasks unusable for this method.
        """
        suite = load_training_suite(self.config.tasks, self.config.seed, tools)
        needs = {"needs_reference": self.needs_reference, "needs_answer": self.needs_answer}
        if mistakes := task_mistakes(suite.tasks, method=self.name, **needs):
            raise ConfigError(mistakes)
        return suite

    def _validated(self, suite: Suite, directory: Path, progress: Progress) -> list[Task]:
        taught = [task for task in suite.tasks if task.references]
        with ToolExecutor() as executor:
            sound, rejected = validate_references(taught, executor, progress=progress)
        write_rejected(directory / "rejected.jsonl", rejected)
        if self.config.tasks.keep_references == "shortest":
            sound = [shortest_reference(task) for task in sound]
        by_id = {task.id: task for task in (*sound, *(task for task in suite.tasks if not task.references))}
        kept = [by_id[task.id] for task in suite.tasks if task.id in by_id]
        if not kept:
            raise TaskError(
                f"none of the {len(taught)} references passed validation; the first: "
                f"{rejected[0].id}: {rejected[0].reason}",
                f"all reasons stand in {directory / 'rejected.jsonl'}",
            )
        return kept
