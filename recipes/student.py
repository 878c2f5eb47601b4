"""Resolves the model that `student:` names, and loads it with an adapter."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from mentor_edge.chat.setting import OWN, TemplateSetting
from mentor_edge.engines.torch.loading import (
    load_model,
    load_student,
    load_tokenizer,
    template_of_student,
    tokens_of,
)
from mentor_edge.errors import StudentError
from mentor_edge.files import cache_directory, explained_write_errors
from mentor_edge.inspection.exported import read_gguf
from mentor_edge.inspection.tool_use import require_tool_use
from mentor_edge.path_kind import wrong_kind
from mentor_edge.progress import Progress, announced, no_progress

from .config import LoraConfig
from .gguf_student import check_gguf, dequantized_student, is_gguf
from .nano.warm_start import STEPS, warm_start

NANO_VERSION = "1"
"""Increment this when the warm start changes after a release, so that old cached students are not used."""


def embedded_student(student: str, seed: int) -> tuple[str, int] | None:
    """The name and seed of an embedded student ("nano", "nano-broad", or either with "@SEED"); None for any other."""
    name, at, suffix = student.partition("@")
    if name not in STEPS or (at and not suffix.isdecimal()):
        return None
    return name, int(suffix) if at else seed


def resolve_student(student: str, seed: int, progress: Progress) -> str:
    """The absolute path of the directory, or the hub id, to load. An embedded student is made once per seed, in two to
    three minutes, and then cached. "nano@3" is the one made with seed 3, regardless of the recipe's seed. A GGUF file
    is dequantized once.

    Raises: OutputError when the cache cannot be written; also as `_located`.
    """
    embedded = embedded_student(student, seed)
    if embedded is None:
        return _located(student, progress)
    name, seed = embedded
    directory = cache_directory() / f"{name}-{NANO_VERSION}-seed{seed}"
    if not directory.is_dir():
        with explained_write_errors(directory):
            directory.parent.mkdir(parents=True, exist_ok=True)
            build = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".nano-"))
            try:
                warm_start(build, student=name, seed=seed, progress=progress)
                if not directory.is_dir():  # unless another process was faster
                    build.rename(directory)
            finally:
                shutil.rmtree(build, ignore_errors=True)
    return str(directory)


def _located(student: str, progress: Progress) -> str:
    """The absolute path of a directory, that of a GGUF file's dequantized copy, or the hub id.

    Raises: StudentError, EngineError when a GGUF file cannot be read; OutputError when its copy cannot be written.
    """
    if is_gguf(student):
        return str(dequantized_student(Path(student), progress))
    path = Path(student)
    if path.exists() and not (path / "config.json").is_file():
        problem, hint = wrong_kind(path, "a Hugging Face directory or a GGUF file")
        if (path / "run.json").is_file():
            hint = f"to continue it, set from_run: {student} instead of student"
        raise StudentError(f"the student {problem}", hint)
    return str(path.resolve()) if path.is_dir() else student


def check_student(student: str, template: TemplateSetting = OWN, progress: Progress = no_progress) -> None:
    """Check that a student can be loaded and taught: its tokenizer, its chat template or the one in its place,
    names and shapes of its weights. A GGUF file is dequantized first.

    Raises: StudentError, EngineError, OutputError.
    """
    if embedded_student(student, 0) is None:
        if is_gguf(student):  # before it is dequantized, which takes minutes
            check_gguf(Path(student))
            facts = read_gguf(Path(student), template)
            if facts.template is not None:
                require_tool_use(facts.template, student, facts.has_token)
        named = _located(student, progress)
        tokenizer = load_tokenizer(named, template)
        require_tool_use(template_of_student(named, template), student, tokens_of(tokenizer).has)
        load_model(named, tokenizer, device_map="meta")  # makes the checks of loading, but reads no weights


def load_trainable(student: str, lora: LoraConfig, progress: Progress = no_progress) -> tuple[Any, Any, Any]:
    """(model, tokenizer, adapter config) ready for a TRL trainer.

    Raises: StudentError.
    """
    from peft import LoraConfig as PeftLoraConfig

    with announced(progress, "load the student"):
        model, tokenizer = load_student(student, four_bit=lora.base == "nf4")
    adapter = PeftLoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return model, tokenizer, adapter
