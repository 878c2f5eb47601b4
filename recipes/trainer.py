"""What every method shares in driving a TRL trainer: common arguments, one row per step, checkpoints, resuming."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback

from mentor_edge.files import write_jsonl

from .base import TrainingJob

Row = dict[str, Any]


def common_arguments(directory: Path, *, seed: int, steps: int, save_every: int) -> dict[str, Any]:
    """Arguments of TRL's config classes that do not depend on the method.

    TRL's own defaults ask for bfloat16 and gradient checkpointing, which a CPU does not want.
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
    """Appends what `row` makes of each step's logs to metrics.jsonl, and marks checkpoints as complete.

    `row` returns None for logs that are no step's.
    """

    def __init__(self, stage: str, job: TrainingJob, row: Callable[[Mapping[str, float]], Row | None]) -> None:
        self._stage = stage
        self._job = job
        self._row = row

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any) -> None:
        row = self._row(logs)
        if row is None:
            return
        with (self._job.directory / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, **row}) + "\n")
        self._job.progress(self._stage, state.global_step, state.max_steps)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / "complete").touch()


def run_training(trainer: Any, stage: str, job: TrainingJob, row: Callable[[Mapping[str, float]], Row | None]) -> None:
    """Train from the start or from the job's checkpoint, and save the adapter."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(StepLog(stage, job, row))
    done = 0 if job.checkpoint is None else int(job.checkpoint.name.rpartition("-")[2])
    _drop_rows_after(job.directory / "metrics.jsonl", done)
    job.progress(stage, done, trainer.args.max_steps)
    trainer.train(resume_from_checkpoint=None if job.checkpoint is None else str(job.checkpoint))
    trainer.model.save_pretrained(job.directory / "adapter")


def _drop_rows_after(path: Path, step: int) -> None:
    """Forget the rows that a resumed run is going to write again."""
    if path.is_file():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        write_jsonl(path, [row for row in rows if row["step"] <= step])
