"""`Run`: a directory with everything a fit produced.

- config.yaml: the resolved config
- rejected.jsonl: references that failed validation
- metrics.jsonl: one row per training step
- student/: the student with another chat template, if one is set; its weights are links
- checkpoints/: for resuming
- adapter/: the trained LoRA adapter
- merged/, merged-4-bit/: the student with the adapter merged in, made when first needed
- run.json: written last; a run without it is not complete
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pydantic

from mentor_edge.arguments import checked_arguments
from mentor_edge.dequantized import Dequantized
from mentor_edge.errors import OutputError, RunError
from mentor_edge.files import require_new, write_json
from mentor_edge.path_kind import kind_of, wrong_kind
from mentor_edge.progress import Progress, no_progress
from mentor_edge.results import Measure
from mentor_edge.tasks.registry import load_suite
from mentor_edge.tasks.types import Suite
from mentor_edge.template_record import TemplateRecord

from .config import read_saved_config
from .run_record import RunRecord, RunVersion, TaskCounts, Training
from .steps import Step, read_steps
from .training_tasks import tasks_trained_on

if TYPE_CHECKING:
    from mentor_edge.evaluation.evaluate import Evaluation
    from mentor_edge.export import Artifact, Source

_VERSION = 1
STUDENT = "student"
"""The folder of the student with another chat template than its own."""


def check_output(directory: Path, *, resume: bool) -> None:
    """Refuse an output directory that is not empty, unless resuming.

    Raises: OutputError.
    """
    if directory.exists() and (not directory.is_dir() or (any(directory.iterdir()) and not resume)):
        raise OutputError(
            f"the output directory {directory} exists already",
            "choose another one, remove it, or continue with --resume",
        )


def prepare_output(directory: Path, *, resume: bool) -> None:
    """Create an output directory, or accept an unfinished one when resuming.

    Raises: OutputError when it exists and `resume` is not set, or cannot be created.
    """
    check_output(directory, resume=resume)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the output directory {directory}: {error.strerror}") from error


_RECORDED = tuple(name for name in RunRecord.model_fields if name != "version")
"""The fields of a `Run` that run.json contains."""


@dataclass(frozen=True)
class Run:
    """A finished fit."""

    directory: Path
    """The run's directory."""
    recipe: str
    """The name of the method."""
    student: str
    """The directory or hub id of the base model."""
    seed: int
    """The seed of the config."""
    tasks: TaskCounts
    """What it was trained on."""
    seconds: float
    """How long the fit took."""
    base_identity: str | None = None
    """`identity_of` the base model at training time, if the base is a directory."""
    training: Training | None = None
    """What the training did. None in runs of an earlier version."""
    template: TemplateRecord | None = None
    """The chat template that it was trained with. None in runs of an earlier version."""
    dequantized: Dequantized | None = None
    """The GGUF file that the base model was made from, if it was."""

    @property
    def base(self) -> str:
        """The directory or hub id of the model that was trained: the student or, if another chat template is set, the
        student with that template."""
        templated = self.directory / STUDENT
        return str(templated.resolve()) if templated.is_dir() else self.student

    @property
    def model(self) -> str:
        """The directory or hub id with the template and the configuration of the trained student: its merged directory
        if it was made already, else the base."""
        merged = self.directory / "merged"
        return str(merged.resolve()) if merged.is_dir() else self.base

    @property
    def adapter(self) -> Path:
        return self.directory / "adapter"

    @property
    def trained_in_4_bit(self) -> bool:
        """Whether the base's weights were kept in 4 bits while the adapter was trained (QLoRA).

        Raises: ConfigError when the run's config.yaml cannot be read, RunError when it is damaged.
        """
        return read_saved_config(self.directory).lora.base == "nf4"

    def merged(self, base: str = "16-bit") -> Path:
        """The student with its adapter merged in, as a Hugging Face directory. It is made once.

        Args:
            base: the base to merge onto, "16-bit" or "4-bit" (see `export.merge`).

        Returns:
            `merged/` or `merged-4-bit/` of the run.

        Raises:
            StudentError: when the student cannot be loaded.
            EngineError: when llama.cpp cannot load the GGUF file that the student was made from.
            ExportError: when the adapter does not fit the student, or the student has changed since the training.
            OutputError: when the directory cannot be written.
        """
        from mentor_edge.export import merge  # here, so that training does not import export

        target = self.directory / ("merged" if base == "16-bit" else f"merged-{base}")
        if target.is_dir():
            return target
        if self.dequantized is not None and not Path(self.student).is_dir():  # the cache was emptied
            from .gguf_student import dequantized_student

            dequantized_student(Path(self.dequantized.file), no_progress)
        return merge(self.base, self.adapter, target, base, base_identity=self.base_identity)

    def source(self, merge_base: str = "auto") -> Source:
        """The run's student as `export` takes it, merged as needed.

        Args:
            merge_base: "16-bit", "4-bit" or "auto". For a run that was trained in 4 bits, "auto" merges onto both
                bases, and the export keeps the one that solves more of the gate's tasks.

        Returns:
            The merged directories, the base and the adapter.

        Raises:
            ConfigError: when the run's config.yaml cannot be read.
            StudentError: see `merged`.
            ExportError: see `merged`.
            OutputError: see `merged`.
        """
        from mentor_edge.export import Source, bases_to_try

        bases = bases_to_try(merge_base, self.trained_in_4_bit)
        return Source({base: self.merged(base) for base in bases}, self.base, self.adapter, self.student)

    @checked_arguments
    def export(
        self,
        gguf: Sequence[str] = (),
        onnx: Sequence[str] = (),
        *,
        suite: Suite | None = None,
        out: str | Path | None = None,
        merge_base: str = "auto",
        controls: Sequence[str] = (),
        margin: float = 0.02,
        measure: Measure = "skill",
        overrides: Mapping[str, str] | None = None,
        importance_matrix: str = "auto",
        converter: Path | None = None,
        exporter: str = "genai",
        onnx_options: Mapping[str, str] | None = None,
        threads: int | None = None,
        source_evaluation: Evaluation | None = None,
        calibration: Callable[[], Suite] | None = None,
        progress: Progress = no_progress,
    ) -> Artifact:
        """Export the student and gate the files. `export.export` explains the options in full.

        Args:
            gguf: GGUF kinds to ship, such as "q4_k_m". Without `gguf` and `onnx`: q8_0 and q4_k_m.
            onnx: ONNX precisions to ship: "int4", "int8", "fp32".
            suite: the gate's tasks. Default: the suite nano.
            out: the artifact's directory, which must not exist. Default: `artifact/` of the run.
            merge_base: the base to merge onto; see `source`.
            controls: GGUF kinds that only test whether the gate can fail; they are never shipped.
            margin: largest accepted loss of accuracy, as a proportion: 0.02 is two points.
            measure: "skill" or "format": whether calls in another spelling than the template's own count as right.
            overrides: types of single GGUF tensors, by regular expressions over their names.
            importance_matrix: "auto", "always" or "never".
            converter: an upstream convert_hf_to_gguf.py.
            exporter: the ONNX exporter: "genai", "transformers" or "optimum".
            onnx_options: settings of onnxruntime-genai's builder.
            threads: processor threads of the gate. Default: one per file for small models, else `OMP_NUM_THREADS` or
                the machine's physical cores.
            source_evaluation: the merged student's own evaluation on the gate's tasks, if it is known already.
            calibration: returns the tasks for the importance matrix. Default: the tasks that the run was trained on.
            progress: called with (stage, units done, units in all).

        Returns:
            The artifact, if all files passed the gate.

        Raises:
            GateFailed: when a file failed; the artifact is still written.
            GateInconclusive: when no file failed, but a test was inconclusive; the artifact is still written.
            ConfigError: when an argument is misspelt, or the run's config.yaml cannot be read.
            ExportError: when an option is unknown or a stage fails.
            StudentError: when the student cannot be loaded.
            EngineError: when a runtime fails.
            OutputError: when `out` exists or cannot be written.
        """
        from mentor_edge.export import export, require_pass

        out = Path(out or self.directory / "artifact")
        require_new(out)
        artifact = export(
            self.source(merge_base),
            out=out,
            suite=suite or load_suite("nano"),
            gguf=gguf,
            onnx=onnx,
            controls=controls,
            margin=margin,
            measure=measure,
            overrides=overrides,
            importance_matrix=importance_matrix,
            converter=converter,
            exporter=exporter,
            onnx_options=onnx_options,
            threads=threads,
            source_evaluation=source_evaluation,
            calibration=calibration or self.training_suite,
            progress=progress,
        )
        require_pass(artifact)
        return artifact

    def training_suite(self) -> Suite:
        """The tasks that the run was trained on.

        Raises:
            ConfigError: The run's config.yaml, or a tool that it names, can no longer be loaded.
            TaskError: The tasks file can no longer be loaded.
            RunError: The run's config.yaml is damaged.
        """
        return Suite(f"training tasks of {self.directory.name}", "1", tuple(tasks_trained_on(self.directory)))

    def training_log(self) -> tuple[Step, ...]:
        """The training steps in metrics.jsonl: `PolicyStep`s or `SupervisedStep`s.

        Raises: RunError when metrics.jsonl is missing or damaged.
        """
        return read_steps(self.directory / "metrics.jsonl")

    def save(self) -> None:
        """Write run.json, which completes the run."""
        record = RunRecord(version=_VERSION, **{name: getattr(self, name) for name in _RECORDED})
        write_json(self.directory / "run.json", record.model_dump())

    @classmethod
    def load(cls, directory: str | Path) -> Run:
        """Open a finished run.

        Args:
            directory: The run's directory.

        Raises:
            RunError: The directory is missing, its fit did not finish or trained nothing, or run.json is damaged or of
                another version.
        """
        directory = Path(directory)
        path = directory / "run.json"
        if directory.is_file():
            raise RunError(*wrong_kind(directory, "a run directory"))
        if not directory.is_dir():
            raise RunError(f"there is no run directory {directory}")
        if not path.is_file() and not (directory / "config.yaml").is_file():
            kind = kind_of(directory)
            raise RunError(f"{directory} has no finished run (run.json is missing); it is {kind.name}", kind.advice)
        if not path.is_file():
            raise RunError(f"{directory} has no finished run (run.json is missing)", "finish it with --resume")
        text = path.read_bytes()
        try:
            version = RunVersion.model_validate_json(text).version
            if version != _VERSION:
                raise RunError(f"{path} has version {version}; this program reads version {_VERSION}")
            record = RunRecord.model_validate_json(text)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            location = ".".join(str(part) for part in first["loc"])
            raise RunError(f"{path} is damaged: {location}{': ' if location else ''}{first['msg']}") from error
        run = cls(directory, **{name: getattr(record, name) for name in _RECORDED})
        # Until November 2026, a fit with fewer tasks than a step needs took no step and was recorded as finished.
        metrics = directory / "metrics.jsonl"
        if run.training is None and not (metrics.is_file() and metrics.read_bytes().strip()):
            raise RunError(f"{directory} was never trained: its fit took no step", "remove the directory and fit again")
        return run


def newest_checkpoint(directory: Path) -> Path | None:
    """The last complete checkpoint, or None. Incomplete ones are removed."""
    finished: list[tuple[int, Path]] = []
    for path in directory.glob("checkpoint-*"):
        if (path / "complete").is_file():
            finished.append((int(path.name.rpartition("-")[2]), path))
        else:
            shutil.rmtree(path)
    return max(finished)[1] if finished else None
