"""`Recipe`: what all training methods share. A method adds its settings and its `train`."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import yaml

from mentor_edge.dequantized import Dequantized
from mentor_edge.engines.open import identity_of
from mentor_edge.errors import ConfigError, MentorEdgeError, RunError
from mentor_edge.files import atomic_file, explained_write_errors
from mentor_edge.progress import Progress, announced, no_progress
from mentor_edge.tasks.mistakes import task_mistakes
from mentor_edge.tasks.types import Suite
from mentor_edge.tools.catalog import load_tools
from mentor_edge.tools.types import Tool

from .config import RecipeConfig, build_config, read_yaml
from .job import TrainingJob, usable_tasks
from .run import STUDENT, Run, check_output, newest_checkpoint, prepare_output
from .run_record import TaskCounts, Training
from .steps import remarks
from .training_tasks import load_training_suite

_SHOWN = 5
"""Changed settings that an error names."""


class Recipe(ABC):
    """A training method with its config: `MentorRecipe(student="nano", tasks="nano", output_dir="runs/a").fit()`.

    To add a method, subclass it: set `config_type` and `name`, write `train`, and add it to `registry.RECIPES`.
    """

    config_type: ClassVar[type[RecipeConfig]]
    """The method's settings."""
    name: ClassVar[str]
    """The name of the method in recipe files."""
    needs_reference: ClassVar[bool] = True
    """Whether the method learns from what the teacher did."""
    needs_answer: ClassVar[bool] = True
    """Whether the method learns from final answers. Tasks that are scored on their calls do not have any."""
    imitates: ClassVar[bool] = False
    """Whether the method learns to write the references, which the student's chat template must then render."""

    config: RecipeConfig
    """The checked settings."""

    def __init__(self, **settings: Any) -> None:
        """Check the settings. Each method declares its settings in its own signature.

        Args:
            settings: The fields of `config_type`. Sections are objects or mappings.

        Raises:
            ConfigError: With every mistake: unknown names, wrong types, values out of range.
        """
        self.config = build_config(self.config_type, settings)

    @abstractmethod
    def train(self, job: TrainingJob) -> Training:
        """Train, and leave the adapter in `job.directory / "adapter"`.

        Args:
            job: The student, the tasks, and the directory to write to.

        Returns:
            The steps that were taken.
        """

    def fit(
        self,
        *,
        resume: bool = False,
        progress: Progress = no_progress,
        validation: Suite | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> Run:
        """Validate the references, train, and return the finished run.

        Args:
            resume: Continue an unfinished run in the output directory from its last checkpoint; return a finished one
                as it is.
            progress: Called with (stage, done, total).
            validation: Tasks to answer greedily at every checkpoint; validation.jsonl gets the accuracy.
            on_note: Called with a sentence that the user should read, such as that tasks are repeated to fill a step.
                Default: log a warning.

        Returns:
            The run: its directory, the adapter in it, and a record of what it was trained on.

        Raises:
            OutputError: The output directory exists, or cannot be written.
            StudentError: The student cannot be loaded, or lacks something that tool use needs.
            EngineError: llama.cpp cannot load a student that is a GGUF file.
            TaskError: The tasks cannot be read, or none has a valid reference.
            RunError: The run in `from_run` is not finished, or the trainer ended before it had taken its steps.
            ConfigError: Tools cannot be loaded, tasks do not suit the method, or a resumed run has other settings.
            StalledError: For too many steps in a row, there was nothing to learn.
            RewardError: One of your reward functions failed.
        """
        with load_tools(self.config.tasks.tools) as tools:
            return self._fit(
                tools.by_name, resume, progress, validation, on_note or logging.getLogger(__name__).warning
            )

    def _fit(
        self,
        tools: Mapping[str, Tool],
        resume: bool,
        progress: Progress,
        validation: Suite | None,
        note: Callable[[str], None],
    ) -> Run:
        config, directory = self.config, self.config.output_dir
        # Check every input before writing anything, and before loading torch where that is possible.
        check_output(directory, resume=resume)
        _check_config(directory / "config.yaml", config)
        suite = self.load_tasks(tools)
        start = None if config.from_run is None else Run.load(config.from_run)
        with announced(progress, "load torch"):
            from mentor_edge.engines.torch.loading import template_of_student, template_record

            from .student import check_student, resolve_student

        check_student(config.student if start is None else start.model, config.template_setting, progress)
        prepare_output(directory, resume=resume)
        _write_config(directory / "config.yaml", config)
        if resume and (directory / "run.json").is_file():
            return Run.load(directory)
        started = time.monotonic()
        if start is None:
            student = resolve_student(config.student, config.seed, progress)
        else:
            with announced(progress, "merge the run to continue from"):
                student = str(start.merged().resolve())
        trained = student
        if config.template_setting:
            from mentor_edge.engines.torch.templated import templated_directory

            trained = str(templated_directory(student, directory.resolve() / STUDENT, config.template_setting))
        tasks = usable_tasks(
            suite,
            template_of_student(trained),
            config.tasks.keep_references,
            directory,
            progress,
            imitated=self.imitates,
        )
        checkpoint = newest_checkpoint(directory / "checkpoints")
        with explained_write_errors(directory):
            training = self.train(TrainingJob(trained, tasks, directory, checkpoint, progress, note, validation))
        if not training.finished:
            raise RunError(
                f"the trainer ended after {training.steps} of {training.planned} steps, so {directory} is not a"
                " finished run",
                "continue with --resume",
            )
        counts = TaskCounts(
            suite=suite.name, sha256=suite.sha256, used=len(tasks), rejected=len(suite.tasks) - len(tasks)
        )
        local = Path(trained).is_dir()
        run = Run(
            directory,
            self.name,
            student,
            config.seed,
            counts,
            time.monotonic() - started,
            identity_of(trained) if local else None,
            training,
            template_record(trained),
            Dequantized.of(Path(student)) if local else None,
        )
        run.save()
        with suppress(RunError):  # rows that were lost are reported when they are read
            for remark in remarks(run.training_log()):
                note(remark)
        return run

    def load_tasks(self, tools: Mapping[str, Tool]) -> Suite:
        """The training tasks of the config, before their references are executed.

        Args:
            tools: The tools that the config names, by name.

        Returns:
            The tasks, as a suite.

        Raises:
            TaskError: The tasks file is missing or malformed.
            ConfigError: With every kind of mistake that makes tasks unusable for this method.
        """
        suite = load_training_suite(self.config.tasks, self.config.seed, tools)
        mistakes = task_mistakes(
            suite.tasks, method=self.name, needs_reference=self.needs_reference, needs_answer=self.needs_answer
        )
        if mistakes:
            raise ConfigError(mistakes)
        return suite


def _as_yaml(config: RecipeConfig) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _write_config(path: Path, config: RecipeConfig) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(_as_yaml(config), encoding="utf-8")


def _check_config(path: Path, config: RecipeConfig) -> None:
    """Raises: ConfigError when a run that is resumed was begun with other settings."""
    if path.is_file() and path.read_text(encoding="utf-8") != _as_yaml(config):
        changes = _changes(path, config.model_dump(mode="json")) or "differs from this configuration"
        raise ConfigError([f"{path}: {changes}"], "resume with the same settings")


def _changes(path: Path, settings: Mapping[str, Any]) -> str:
    """What a resumed run would change: "train.steps was 20 and is 30 now". Empty if the file cannot be read."""
    try:
        before = dict(_leaves(read_yaml(path)))
    except MentorEdgeError:
        return ""
    now = dict(_leaves(settings))
    names = [name for name in now | before if before.get(name) != now.get(name)]
    return "; ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r} now" for name in names[:_SHOWN])


def _leaves(settings: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The settings without sections, with their dotted names."""
    if not isinstance(settings, Mapping):
        yield name, settings
        return
    for key, part in settings.items():
        yield from _leaves(part, f"{name}.{key}".strip("."))
