"""`Run`: a directory with everything a fit produced.

config.yaml     the resolved configuration       metrics.jsonl   one row per training step
rejected.jsonl  references that failed validation checkpoints/   for resuming
adapter/        the trained LoRA adapter          run.json        written last: a run without it is not complete
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mentor_edge.errors import OutputError, RunError
from mentor_edge.files import write_json

_VERSION = 1


def prepare_output(directory: Path, *, resume: bool) -> None:
    """Create an output directory, or accept an unfinished one when resuming.

    Raises: OutputError when it exists and `resume` is not asked for, or cannot be created.
    """
    if directory.exists() and (not directory.is_dir() or (any(directory.iterdir()) and not resume)):
        raise OutputError(
            f"the output directory {directory} exists already",
            "choose another one, remove it, or go on with --resume",
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the output directory {directory}: {error.strerror}") from error


@dataclass(frozen=True)
class Run:
    """A finished fit. `student` is the base's directory or hub id."""

    directory: Path
    recipe: str
    student: str
    seed: int
    tasks: dict[str, Any]
    seconds: float

    @property
    def adapter(self) -> Path:
        return self.directory / "adapter"

    def training_log(self) -> list[dict[str, Any]]:
        """One dictionary per training step, as written to metrics.jsonl."""
        path = self.directory / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def save(self) -> None:
        write_json(
            self.directory / "run.json",
            {
                "version": _VERSION, "recipe": self.recipe, "student": self.student, "seed": self.seed,
                "tasks": self.tasks, "seconds": self.seconds,
            },
        )  # fmt: skip

    @classmethod
    def load(cls, directory: str | Path) -> Run:
        """Raises: RunError when the directory is missing or its fit did not finish."""
        directory = Path(directory)
        path = directory / "run.json"
        if not directory.is_dir():
            raise RunError(f"there is no run directory {directory}")
        if not path.is_file():
            raise RunError(f"{directory} holds no finished run (run.json is missing)", "finish it with --resume")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["version"] != _VERSION:
                raise RunError(f"{path} has version {values['version']}, this program reads {_VERSION}")
            return cls(
                directory, values["recipe"], values["student"], values["seed"], values["tasks"], values["seconds"]
            )
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged: {error!r}") from error


def newest_checkpoint(directory: Path) -> Path | None:
    """The last checkpoint whose writing was finished; unfinished ones are removed."""
    finished: list[tuple[int, Path]] = []
    for path in directory.glob("checkpoint-*"):
        if (path / "complete").is_file():
            finished.append((int(path.name.rpartition("-")[2]), path))
        else:
            shutil.rmtree(path)
    return max(finished)[1] if finished else None
