"""Faults of an export: functions that damage a file or directory, and uses of the result that must be refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from safetensors.numpy import load_file, save_file

from helpers.tiny_models import make_student, make_tokenizer
from mentor_edge.agent import ToolAgent
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.engines.onnx.engine import OnnxEngine
from mentor_edge.engines.open import open_engine
from mentor_edge.errors import ArtifactError, EngineError, ExportError, MentorEdgeError, StudentError
from mentor_edge.evaluation.evaluate import Evaluation
from mentor_edge.export import export, merge, require_pass
from mentor_edge.export.parity.check import check_quantized
from mentor_edge.export.parity.expected import ExpectedOutputs
from mentor_edge.manifest import verify
from mentor_edge.tasks.types import Suite

Q8, Q4, INT4, FP32 = "model-q8_0.gguf", "model-q4_k_m.gguf", "onnx-int4", "onnx-fp32"
ONNX_FILES = (
    "genai_config.json", "model.onnx", "model.onnx.data", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja",
)  # a table  # fmt: skip
WEIGHTS = "model.safetensors"
EMBEDDING = "model.embed_tokens.weight"

Change = Callable[[Path], object]
"""Damages a file or directory."""


@dataclass(frozen=True)
class Bench:
    """A nano student with its export, expected outputs and evaluation, and another student of the same shape."""

    student: Path
    artifact: Path
    other: Path
    expected: ExpectedOutputs
    suite: Suite
    solved: Evaluation


@dataclass(frozen=True)
class Fault:
    """`kind` is a row of the table in docs/export.md. `commit` damages something in an empty directory and uses it;
    that must raise `error` with a message that matches the regular expression `reason` and contains `named`."""

    kind: str
    commit: Callable[[Bench, Path], object]
    error: type[MentorEdgeError]
    reason: str
    named: str


# Damage


Offset = int | bytes | Callable[[Path], int]
"""An offset in a file: a number of bytes (from the end if negative), the first occurrence of these bytes, or a function
of the file."""


def tensor(name: str) -> Callable[[Path], int]:
    """The offset of a tensor's values in a GGUF file."""
    return lambda path: next(int(each.data_offset) for each in GGUFReader(path).tensors if each.name == name)


def position(file: Path, content: bytes, offset: Offset) -> int:
    if isinstance(offset, bytes):
        return content.index(offset)
    return offset if isinstance(offset, int) else offset(file)


def flip(offset: Offset, bit: int, name: str = "", *, after: int = 0) -> Change:
    """Flip one bit of the byte at `offset` plus `after`, in the file or in the file `name` of the directory."""

    def change(path: Path) -> None:
        content = bytearray((path / name).read_bytes())
        content[position(path / name, content, offset) + after] ^= 1 << bit
        (path / name).write_bytes(content)

    return change


def cut(offset: Offset, name: str = "") -> Change:
    """Truncate the file at `offset`."""

    def change(path: Path) -> None:
        content = (path / name).read_bytes()
        (path / name).write_bytes(content[: position(path / name, content, offset)])

    return change


def without(name: str = "") -> Change:
    return lambda path: shutil.rmtree(path / name) if (path / name).is_dir() else (path / name).unlink()


def written(name: str, text: str) -> Change:
    return lambda path: (path / name).write_text(text)


def configured(name: str, **changes: Any) -> Change:
    def change(path: Path) -> None:
        (path / name).write_text(json.dumps(json.loads((path / name).read_text()) | changes))

    return change


def reweighted(edit: Callable[[dict[str, Any]], object]) -> Change:
    """Edit the tensors of a model directory."""

    def change(path: Path) -> None:
        tensors = load_file(path / WEIGHTS)
        edit(tensors)
        save_file(tensors, path / WEIGHTS, metadata={"format": "pt"})

    return change


def whole(path: Path) -> None:
    """No damage."""


def exchanged(first: str, second: str) -> Change:
    def change(path: Path) -> None:
        (path / first).rename(path / "between")
        (path / second).rename(path / first)
        (path / "between").rename(path / second)

    return change


# Uses of the damaged file


def in_artifact(kind: str, model: str, change: Change, reason: str, named: str) -> Fault:
    """`change` damages the artifact's directory. `verify` names the file; agents and engines refuse to load it."""

    def commit(bench: Bench, work: Path) -> None:
        artifact = Path(shutil.copytree(bench.artifact, work / "artifact"))
        change(artifact)
        assert any(named in problem and re.search(reason, problem) for problem in verify(artifact))
        with pytest.raises(ArtifactError, match=reason):
            ToolAgent.load(artifact / model, [])
        with open_engine(artifact / model):
            pass

    return Fault(kind, commit, ArtifactError, reason, named)


def alone(
    kind: str,
    model: str,
    change: Change,
    reason: str,
    compared: str | None = None,
    *,
    replaced: Callable[[Bench, Path], object] = lambda bench, path: None,
) -> Fault:
    """A GGUF file or ONNX directory without a manifest: refused when it is opened or, if `compared` names a
    quantization, when it is compared with the student. `replaced` is a change that uses files of other models."""

    def commit(bench: Bench, work: Path) -> None:
        kept, path = bench.artifact / model, work / model
        (shutil.copytree if kept.is_dir() else shutil.copy)(kept, path)
        change(path)
        replaced(bench, path)
        with open_engine(path) as engine:
            if compared is not None:
                assert isinstance(engine, LlamaCppEngine | OnnxEngine)
                check_quantized(bench.expected, engine, compared)

    return Fault(kind, commit, ExportError if compared else EngineError, reason, model)


def swapped(model: str, replaced: Callable[[Bench, Path], object], reason: str, compared: str | None = None) -> Fault:
    """A model without a manifest, with one file replaced by another one."""
    return alone("swapped", model, whole, reason, compared, replaced=replaced)


def source(kind: str, change: Change, reason: str, error: type[MentorEdgeError] = StudentError) -> Fault:
    """`change` damages the directory of the model to export. The export must leave nothing behind."""

    def commit(bench: Bench, work: Path) -> None:
        student = Path(shutil.copytree(bench.student, work / "faulty-model"))
        change(student)
        try:
            export(
                student,
                out=work / "out",
                suite=bench.suite,
                gguf=["q8_0"],
                onnx=["int4"],
                source_evaluation=bench.solved,
                margin=0.9,
            )
        finally:
            assert [path.name for path in work.iterdir()] == ["faulty-model"]

    return Fault(kind, commit, error, reason, "faulty-model")


def adapter(
    reason: str,
    change: Change = lambda path: None,
    *,
    kind: str = "wrong adapter",
    base: dict[str, Any] | None = None,
    rows: int | None = None,
    **settings: Any,
) -> Fault:
    """An adapter made by PEFT, for the student or for one with the sizes of `base`, merged into the student. `rows`
    first resizes the embedding, as for new tokens; `settings` are PEFT's."""

    def commit(bench: Bench, work: Path) -> None:
        trained_on = bench.student if base is None else make_student(work / "base", **base)
        change(make_adapter(trained_on, work / "faulty-adapter", rows, settings))
        try:
            merge(str(bench.student), work / "faulty-adapter", work / "merged")
        finally:
            assert {path.name for path in work.iterdir()} <= {"base", "faulty-adapter"}

    return Fault(kind, commit, ExportError, reason, "faulty-adapter")


def make_adapter(student: Path, directory: Path, rows: int | None, settings: dict[str, Any]) -> Path:
    from peft import IA3Config, LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(student)
    if rows is not None:
        model.resize_token_embeddings(rows)
    config: Any = LoraConfig(**{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings)
    if settings.get("peft_type") == "IA3":
        config = IA3Config(
            target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
        )
    get_peft_model(model, config).save_pretrained(directory, save_embedding_layers=rows is not None)
    return directory


def gated(
    student: Change,
    source_evaluation: Callable[[Bench], Evaluation],
    error: type[MentorEdgeError],
    reason: str,
    named: str,
    kind: str,
) -> Fault:
    """A fault that only the gate can detect. The files are kept in the folder of refused models."""

    def commit(bench: Bench, work: Path) -> None:
        copied = Path(shutil.copytree(bench.student, work / "student"))
        student(copied)
        require_pass(
            export(
                copied,
                out=work / "out",
                suite=bench.suite,
                gguf=["q8_0"],
                source_evaluation=source_evaluation(bench),
                margin=0.3,
            )
        )

    return Fault(kind, commit, error, reason, named)


def other_tokens(student: Path) -> None:
    """The tokenizer of another model, all of whose ids have an embedding."""
    make_tokenizer().save_pretrained(student)


def one_shard_of_two(student: Path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(student).save_pretrained(student, max_shard_size="2MB")
    (student / WEIGHTS).unlink(missing_ok=True)
    sorted(student.glob("model-*.safetensors"))[-1].unlink()


def spoil(tensors: dict[str, Any]) -> None:
    tensors["model.layers.1.mlp.up_proj.weight"][3, 7] = np.nan


def shrink_embedding(student: Path) -> None:
    rows = slice(0, 500)
    reweighted(lambda tensors: tensors.update({EMBEDDING: tensors[EMBEDDING][rows].copy()}))(student)
    configured("config.json", vocab_size=500)(student)


def unsolved(bench: Bench) -> Evaluation:
    """The evaluation of a student that solves nothing."""
    return replace(bench.solved, outcomes=tuple(replace(each, correct=False) for each in bench.solved.outcomes))


def other_prompts(bench: Bench) -> Evaluation:
    outcomes = bench.solved.outcomes
    return replace(bench.solved, outcomes=tuple(replace(each, prompt=outcomes[0].prompt) for each in outcomes))


def replaced(name: str, by: Callable[[Bench], Path]) -> Callable[[Bench, Path], object]:
    return lambda bench, model: shutil.copy(by(bench), model / name)


def tokenizer_of_another(bench: Bench, model: Path) -> None:
    make_tokenizer().save_pretrained(model.with_name("tokenizer"))
    shutil.copy(model.with_name("tokenizer") / "tokenizer.json", model)
