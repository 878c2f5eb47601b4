"""Students: resolving what `student:` names, and putting an adapter on it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mentor_edge.engines.transformers import load_student, load_tokenizer

from .config import LoraConfig
from .warm_start import STEPS, warm_start

NANO_VERSION = "1"
"""Raise it when the warm start changes after a release, so that cached bases are not mixed up."""


def cache_directory() -> Path:
    """Where nano bases are kept: `MENTOR_EDGE_CACHE`, else `~/.cache/mentor-edge`."""
    return Path(os.environ.get("MENTOR_EDGE_CACHE") or Path.home() / ".cache" / "mentor-edge")


def resolve_student(student: str, seed: int, progress: Callable[[str, int, int], None]) -> str:
    """The directory, as an absolute path, or the hub id to load. "nano" is trained once per seed (about two minutes)
    and cached."""
    if student != "nano":
        return str(Path(student).resolve()) if Path(student).is_dir() else student
    directory = cache_directory() / f"nano-{NANO_VERSION}-seed{seed}"
    if not directory.is_dir():
        directory.parent.mkdir(parents=True, exist_ok=True)
        build = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".nano-"))
        try:
            progress("warm start", 0, STEPS)
            warm_start(build, seed=seed, on_step=lambda step, loss: progress("warm start", step, STEPS))
            if not directory.is_dir():  # another process may have been faster
                build.rename(directory)
        finally:
            shutil.rmtree(build, ignore_errors=True)
    return str(directory)


def check_student(student: str) -> None:
    """Load the student's tokenizer to see that it is there and can render tool calls.

    Raises: StudentError.
    """
    if student != "nano":
        load_tokenizer(student)


def load_trainable(student: str, lora: LoraConfig) -> tuple[Any, Any, Any]:
    """(model, tokenizer, adapter config) ready for a TRL trainer.

    Raises: StudentError.
    """
    from peft import LoraConfig as PeftLoraConfig

    model, tokenizer = load_student(student, four_bit=lora.base == "nf4")
    adapter = PeftLoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return model, tokenizer, adapter
