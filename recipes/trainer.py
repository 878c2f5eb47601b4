"""What all methods share in driving a TRL trainer: arguments, one row per step, checkpoints, resuming."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PrinterCallback, TrainerCallback

from mentor_edge.agent import run_conversations
from mentor_edge.engines.torch.adapter import merged_adapter
from mentor_edge.engines.torch.engine import TransformersEngine
from mentor_edge.errors import StalledError
from mentor_edge.files import write_jsonl
from mentor_edge.rewards import is_correct
from mentor_edge.tools.execution.executor import ToolExecutor

from .job import TrainingJob
from .run_record import Training
from .schedule import Coverage
from .steps import FlatGroups, Step

StepOf = Callable[[int, Mapping[str, float]], Step | None]
"""From a step's number and TRL's logs to its row of metrics.jsonl; None for logs of something else. The "num_tokens"
that it gets counts the step alone."""


def common_arguments(directory: Path, *, seed: int, steps: int, save_every: int) -> dict[str, Any]:
    """Arguments of TRL's config classes that do not depend on the method.

    TRL's own defaults turn on bfloat16 and gradient checkpointing, which only slow a CPU down.
    """
    cuda = torch.cuda.is_available()
    return {
        "output_dir": str(directory / "checkpoints"),
        "seed": seed,
        "max_steps": steps,
        "save_steps": save_every,
        "save_total_limit": 2,
        "logging_steps": 1,
        "use_cpu": not cuda,
        "bf16": cuda,
        "gradient_checkpointing": cuda,
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
    }


class StepLog(TrainerCallback):
    """Appends a row per step to metrics.jsonl and marks checkpoints as complete."""

    def __init__(self, stage: str, job: TrainingJob, row: StepOf) -> None:
        self._stage = stage
        self._job = job
        self._row = row
        self._tokens = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # TRL counts all tokens so far. In a resumed run, only GRPO includes those before the checkpoint.
        self._tokens = state.num_input_tokens_seen

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any) -> None:
        if "num_tokens" in logs:
            total, logs = logs["num_tokens"], {**logs, "num_tokens": logs["num_tokens"] - self._tokens}
            self._tokens = total
        row = self._row(state.global_step, logs)
        if row is None:
            return
        with (self._job.directory / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row.model_dump()) + "\n")
        self._job.progress(self._stage, state.global_step, state.max_steps)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / "complete").touch()


class ValidationLog(TrainerCallback):
    """Answers the job's validation tasks greedily at every checkpoint and appends the score to validation.jsonl."""

    def __init__(self, trainer: Any, job: TrainingJob) -> None:
        self._trainer = trainer
        self._job = job
        self._engine: TransformersEngine | None = None

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        model = self._trainer.accelerator.unwrap_model(self._trainer.model)
        if self._engine is None:
            self._engine = TransformersEngine(model.get_base_model(), self._trainer.processing_class)
        suite = self._job.validation
        assert suite is not None
        with merged_adapter(model), ToolExecutor() as executor:
            trajectories = run_conversations(self._engine, suite.tasks, executor, suite.limits)
        right = sum(is_correct(trajectory, task) for trajectory, task in zip(trajectories, suite.tasks, strict=True))
        with (self._job.directory / "validation.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, "n": len(suite.tasks), "correct": right}) + "\n")


class Stalling(Protocol):
    """What `StallGuard` watches; see `StepReward`."""

    flat_groups: list[FlatGroups]
    dead_steps: int
    solved: bool


class StallGuard(TrainerCallback):
    """Stops training when nothing is learned any more. If every rollout earns the maximum, the run is finished;
    otherwise an error lists what the rollouts earned.

    Raises: StalledError.
    """

    def __init__(self, rewards: Stalling, limit: int) -> None:
        self._rewards = rewards
        self._limit = limit

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._rewards.dead_steps < self._limit:
            return
        if self._rewards.solved:
            control.should_training_stop = True
            control.should_save = True
            return
        earned = "; ".join(
            f"{len(flat.tasks)} groups earned {flat.reward:g} ({flat.reason}; first task {flat.tasks[0]})"
            for flat in self._rewards.flat_groups
        )
        raise StalledError(
            f"stopped at step {state.global_step}: in {self._limit} steps in a row no group of rollouts differed in "
            f"reward, so nothing can be learned. In the last step: {earned}",
            "start from a student that is sometimes right (train it with sft, then continue with from_run), raise "
            "rollout.temperature or the token limits, or raise train.stop_after_dead_steps",
        )


def run_training(trainer: Any, stage: str, job: TrainingJob, coverage: Coverage, row: StepOf) -> Training:
    """Train from the start or from the job's checkpoint, and save the adapter if all went well.

    Raises: RunError when the trainer ended before it had taken its steps.
    """
    if note := coverage.note():
        job.note(note)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(StepLog(stage, job, row))
    if job.validation is not None:
        # It runs first: a checkpoint is marked as complete only after its point on the curve is written.
        trainer.callback_handler.callbacks.insert(0, ValidationLog(trainer, job))
    done = 0 if job.checkpoint is None else int(job.checkpoint.name.rpartition("-")[2])
    for name in ("metrics.jsonl", "validation.jsonl"):
        _drop_rows_after(job.directory / name, done)
    job.progress(stage, done, trainer.args.max_steps)
    trainer.train(resume_from_checkpoint=None if job.checkpoint is None else str(job.checkpoint))
    if (steps := trainer.state.global_step) < trainer.args.max_steps:  # it stopped early: nothing is left to learn
        job.progress(stage, steps, steps)
    training = Training(steps=steps, planned=trainer.args.max_steps, coverage=coverage)
    trainer.model.save_pretrained(job.directory / "adapter")
    return training


def _drop_rows_after(path: Path, step: int) -> None:
    """Drop the rows that a resumed run writes again."""
    if path.is_file():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        write_jsonl(path, [row for row in rows if row["step"] <= step])
