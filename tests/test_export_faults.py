"""The fault table of an export: damaged, swapped, missing and mismatched files of both formats, of the model and of the
adapter. Each is refused with its reason, by a process that lives on and leaves no child behind.

`FAULTS` and the hostile GGUF headers of test_isolation.py are counted, kind by kind, in docs/export.md.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from gguf import GGUFReader
from safetensors.numpy import load_file, save_file
from test_isolation import HOSTILE, edited
from tiny_models import make_student, make_tokenizer
from typer.testing import CliRunner

from mentor_edge.agent import ToolAgent
from mentor_edge.engines.open import open_engine
from mentor_edge.errors import (
    ArtifactError,
    EngineError,
    ExportError,
    GateFailed,
    GateInconclusive,
    MentorEdgeError,
    StudentError,
)
from mentor_edge.evaluation.evaluate import Evaluation
from mentor_edge.export import Artifact, evaluate_directory, export, merge, parity, require_pass
from mentor_edge.export.gguf import convert
from mentor_edge.export.quantize import quantize
from mentor_edge.manifest import MANIFEST, verify
from mentor_edge.tasks.nano.suites import training_suite
from mentor_edge.tasks.types import Suite

DOCUMENT = Path(__file__).parent.parent / "docs" / "export.md"
Q8, Q4, INT4, FP32 = "model-q8_0.gguf", "model-q4_k_m.gguf", "onnx-int4", "onnx-fp32"
ONNX_FILES = (
    "genai_config.json", "model.onnx", "model.onnx.data", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja",
)  # fmt: skip
WEIGHTS = "model.safetensors"

Change = Callable[[Path], object]
"""Damages a file or directory."""


@dataclass(frozen=True)
class Bench:
    """A nano student with its export, another student of the same shape, and what the first one says and solves."""

    student: Path
    artifact: Path
    other: Path
    reference: parity.Reference
    suite: Suite
    solved: Evaluation


@pytest.fixture(scope="module")
def bench(nano_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    from mentor_edge.engines.transformers import load_tokenizer
    from mentor_edge.recipes.nano_student import build_model

    known = Suite("known", "1", training_suite(12, seed=0).tasks)
    solved = evaluate_directory(nano_student, known)
    right = [outcome.task_id for outcome in solved.outcomes if outcome.correct]
    suite = Suite("solved", "1", tuple(task for task in known.tasks if task.id in right[:3]))
    artifact = tmp_path_factory.mktemp("whole") / "artifact"
    made = export(
        nano_student, out=artifact, suite=suite, gguf=["q8_0", "q4_k_m"], onnx=["fp32", "int4"], reference=solved,
        margin=0.9,
    )  # fmt: skip
    require_pass(made)
    other = Path(shutil.copytree(nano_student, tmp_path_factory.mktemp("other") / "student"))
    build_model(load_tokenizer(nano_student), seed=1).save_pretrained(other)
    convert(other, other / "f32.gguf")
    quantize(other / "f32.gguf", other / Q8, "q8_0")
    return Bench(nano_student, artifact, other, parity.Reference.of(nano_student), suite, solved)


@dataclass(frozen=True)
class Fault:
    """`kind` is a row of the table in docs/export.md. `commit` damages something in an empty directory and uses it;
    that must raise `error` with a message that has `reason` in it, a regular expression, and `named`."""

    kind: str
    commit: Callable[[Bench, Path], object]
    error: type[MentorEdgeError]
    reason: str
    named: str


# Damage


def flip(find: bytes, bit: int, at: int = 0, name: str = "") -> Change:
    """Flip one bit of the byte `at` of the only (or first) place of `find`, in the file or in the file `name` below."""

    def change(path: Path) -> None:
        file = path / name
        content = bytearray(file.read_bytes())
        content[content.index(find) + at] ^= 1 << bit
        file.write_bytes(content)

    return change


def flip_tensor(tensor: str, byte: int, bit: int) -> Change:
    """Flip one bit of a tensor of a GGUF file."""

    def change(path: Path) -> None:
        reader = GGUFReader(path, "r+")
        data = next(each.data for each in reader.tensors if each.name == tensor)
        data.reshape(-1).view(np.uint8)[byte] ^= np.uint8(1 << bit)
        reader.data.flush()

    return change


def flip_place(place: Callable[[GGUFReader], int], bit: int) -> Change:
    """Flip one bit of the byte at a place of a GGUF file."""

    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[place(GGUFReader(path))] ^= 1 << bit
        path.write_bytes(content)

    return change


def cut(length: float, name: str = "") -> Change:
    """Keep so many bytes; less than one: that share of them; negative: all but so many."""

    def change(path: Path) -> None:
        content = (path / name).read_bytes()
        (path / name).write_bytes(content[: int(length * len(content)) if 0 < length < 1 else int(length)])

    return change


def cut_at(place: Callable[[GGUFReader], int]) -> Change:
    return lambda path: path.write_bytes(path.read_bytes()[: place(GGUFReader(path))])


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


def exchanged(first: str, second: str) -> Change:
    def change(path: Path) -> None:
        (path / first).rename(path / "between")
        (path / second).rename(path / first)
        (path / "between").rename(path / second)

    return change


# Where it is used


def in_artifact(kind: str, model: str, change: Change, reason: str, named: str) -> Fault:
    """`change` damages the artifact's directory. `verify` names the file; neither an agent nor an engine gets it."""

    def commit(bench: Bench, work: Path) -> None:
        artifact = Path(shutil.copytree(bench.artifact, work / "artifact"))
        change(artifact)
        assert any(named in problem and re.search(reason, problem) for problem in verify(artifact))
        with pytest.raises(ArtifactError, match=reason):
            ToolAgent.load(artifact / model, [])
        with open_engine(artifact / model):
            pass

    return Fault(kind, commit, ArtifactError, reason, named)


def _used(bench: Bench, model: str, path: Path, compared: str | None) -> None:
    with open_engine(path) as engine:
        if compared is not None:
            parity.check_quantized(bench.reference, engine, compared)  # type: ignore[arg-type]


def alone(
    kind: str, model: str, change: Change, reason: str, *, compared: str | None = None,
    error: type[MentorEdgeError] | None = None, named: str | None = None,
) -> Fault:  # fmt: skip
    """A model that no manifest vouches for, a GGUF file or an ONNX directory: refused when it is opened, or when it is
    compared, as the quantization `compared`, with the student."""

    def commit(bench: Bench, work: Path) -> None:
        source = bench.artifact / model
        path = work / model
        (shutil.copytree if source.is_dir() else shutil.copy)(source, path)
        change(path)
        _used(bench, model, path, compared)

    return Fault(kind, commit, error or (ExportError if compared else EngineError), reason, named or model)


def swapped(model: str, replaced: Callable[[Bench, Path], object], reason: str, compared: str) -> Fault:
    """Another file in place of one of a model that no manifest vouches for."""

    def commit(bench: Bench, work: Path) -> None:
        source = bench.artifact / model
        (shutil.copytree if source.is_dir() else shutil.copy)(source, work / model)
        replaced(bench, work / model)
        _used(bench, model, work / model, compared)

    return Fault("swapped", commit, ExportError, reason, model)


def hostile(name: str) -> Fault:
    def commit(bench: Bench, work: Path) -> None:
        with open_engine(edited(bench.artifact / Q8, work, HOSTILE[name][0])):
            pass

    return Fault("hostile metadata", commit, EngineError, HOSTILE[name][1], "hostile.gguf")


def source(kind: str, change: Change, reason: str, error: type[MentorEdgeError] = StudentError) -> Fault:
    """The model to be exported; `change` damages its directory. Nothing may be left of the export."""

    def commit(bench: Bench, work: Path) -> None:
        student = Path(shutil.copytree(bench.student, work / "student"))
        change(student)
        try:
            export(
                student, out=work / "out", suite=bench.suite, gguf=["q8_0"], onnx=["int4"], reference=bench.solved,
                margin=0.9,
            )  # fmt: skip
        finally:
            assert [path.name for path in work.iterdir()] == ["student"]

    return Fault(kind, commit, error, reason, "student")


def adapter(
    reason: str, change: Change = lambda path: None, *, kind: str = "wrong adapter", base: dict[str, Any] | None = None,
    rows: int | None = None, **settings: Any,
) -> Fault:  # fmt: skip
    """An adapter that PEFT made, for the student or for one with the sizes of `base`, merged into the student. `rows`
    resizes the embedding before, as for new tokens; `settings` are PEFT's."""

    def commit(bench: Bench, work: Path) -> None:
        trained_on = bench.student if base is None else make_student(work / "base", **base)
        change(make_adapter(trained_on, work / "adapter", rows, settings))
        try:
            merge(str(bench.student), work / "adapter", work / "merged")
        finally:
            assert {path.name for path in work.iterdir()} <= {"base", "adapter"}

    return Fault(kind, commit, ExportError, reason, "adapter")


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
    student: Change, reference: Callable[[Bench], Evaluation], error: type[MentorEdgeError], reason: str, named: str,
    kind: str,
) -> Fault:  # fmt: skip
    """What only the gate can find. Its files are kept, as refused."""

    def commit(bench: Bench, work: Path) -> None:
        copied = Path(shutil.copytree(bench.student, work / "student"))
        student(copied)
        require_pass(
            export(
                copied, out=work / "out", suite=bench.suite, gguf=["q8_0"], reference=reference(bench), margin=0.3
            )
        )

    return Fault(kind, commit, error, reason, named)


def other_tokens(student: Path) -> None:
    """A tokenizer of another model, with ids that all have an embedding."""
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
    """What the gate finds when it asks the student with the wrong tokenizer."""
    return replace(bench.solved, outcomes=tuple(replace(each, correct=False) for each in bench.solved.outcomes))


def other_prompts(bench: Bench) -> Evaluation:
    outcomes = bench.solved.outcomes
    return replace(bench.solved, outcomes=tuple(replace(each, prompt=outcomes[0].prompt) for each in outcomes))


EMBEDDING = "model.embed_tokens.weight"
PARAMETER = "model.layers.0.mlp.up_proj.weight"
INFOS: Callable[[GGUFReader], int] = lambda file: file.tensors[0].field.offset  # noqa: E731
END: Callable[[GGUFReader], int] = lambda file: file.data_offset  # noqa: E731
HASH = "has the SHA-256"
DIFFERS = "a guess that reads no text diverges"


def flipped_in_artifact() -> dict[str, Fault]:
    places: dict[str, tuple[str, Change]] = {
        "GGUF header": (Q8, flip_place(lambda file: 8, 0)),
        "GGUF metadata": (Q8, flip(b"qwen3.context_length", 0, at=3)),
        "GGUF tensor list": (Q8, flip_place(INFOS, 0)),
        "low bit of a GGUF weight": (Q8, flip_tensor("blk.1.ffn_down.weight", 0, 0)),
        "low bit of an ONNX weight": (INT4, flip_place_in("model.onnx.data", 40_000)),
        "ONNX graph": (INT4, flip(b"MatMulNBits", 0, name="model.onnx")),
        **{name: (INT4, flip(b" ", 0, name=name)) for name in ONNX_FILES if name.endswith((".json", ".jinja"))},
    }
    return {
        f"{name}, in an artifact": in_artifact(
            "one flipped bit", model, lambda path, model=model, change=change: change(path / model), HASH, model
        )
        for name, (model, change) in places.items()
    }


def flip_place_in(name: str, at: int) -> Change:
    def change(path: Path) -> None:
        content = bytearray((path / name).read_bytes())
        content[at] ^= 1
        (path / name).write_bytes(content)

    return change


def replaced(name: str, by: Callable[[Bench], Path]) -> Callable[[Bench, Path], object]:
    return lambda bench, model: shutil.copy(by(bench), model / name)


def tokenizer_of_another(bench: Bench, model: Path) -> None:
    make_tokenizer().save_pretrained(model.with_name("tokenizer"))
    shutil.copy(model.with_name("tokenizer") / "tokenizer.json", model)


FAULTS: dict[str, Fault] = {
    # Truncated
    "empty GGUF": alone("truncated", Q8, cut(0), "while loading .*read magic"),
    "GGUF cut in the header": alone("truncated", Q8, cut(12), "while loading .*read"),
    "GGUF cut in the metadata": alone("truncated", Q8, cut(3000), "while loading .*read key-value"),
    "GGUF cut in the tensor list": alone("truncated", Q8, cut_at(lambda file: INFOS(file) + 30), "while loading"),
    "GGUF cut in the weights": alone("truncated", Q8, cut(0.7), "while loading .*not within the file bounds"),
    "GGUF without its last bytes": alone("truncated", Q8, cut(-64), "while loading .*not within the file bounds"),
    "ONNX graph cut": alone("truncated", INT4, cut(0.5, "model.onnx"), "while loading .*Protobuf parsing failed"),
    "ONNX weights cut": alone("truncated", INT4, cut(0.5, "model.onnx.data"), "while loading .*out of bounds"),
    "ONNX config cut": alone("truncated", INT4, cut(0.5, "genai_config.json"), "genai_config.json cannot be used"),
    "ONNX tokenizer cut": alone("truncated", INT4, cut(0.5, "tokenizer.json"), "tokenizer.json is no tokenizer"),
    "GGUF cut, in an artifact": in_artifact("truncated", Q8, cut(-1, Q8), HASH, Q8),
    "ONNX weights cut, in an artifact": in_artifact(
        "truncated", INT4, cut(-1, f"{INT4}/model.onnx.data"), HASH, "model.onnx.data"
    ),
    "manifest cut": in_artifact("truncated", Q8, cut(0.5, MANIFEST), "is damaged", MANIFEST),
    # One flipped bit
    **flipped_in_artifact(),
    "magic": alone("one flipped bit", Q8, flip(b"GGUF", 1), "invalid magic"),
    "number of tensors": alone("one flipped bit", Q8, flip_place(lambda file: 8, 7), "while loading"),
    "number of entries": alone("one flipped bit", Q8, flip_place(lambda file: 16, 5), "string length .* exceeds"),
    "name of an entry": alone("one flipped bit", Q8, flip(b"qwen3.block_count", 0, at=8), "key not found"),
    "length of a string": alone(
        "one flipped bit", Q8, flip(b"tokenizer.chat_template", 6, at=30), "string length .* exceeds"
    ),
    "name of a tensor": alone("one flipped bit", Q8, flip(b"blk.0.attn_q.weight", 1, at=9), "'blk.0.attn_q.*not found"),
    "size of a tensor": alone("one flipped bit", Q8, flip(b"blk.1.ffn_up.weight", 0, at=25), "while loading"),
    "high bit of a norm": alone("one flipped bit", Q8, flip_tensor("blk.0.attn_norm.weight", 3, 6), "not finite"),
    "high bit of a scale": alone(
        "one flipped bit", Q8, flip_tensor("blk.1.ffn_down.weight", 1, 6), DIFFERS, compared="q8_0"
    ),
    "letter of the template": alone(
        "one flipped bit", Q8, flip(b"tool_response", 0), "template: .* stores another", compared="q8_0"
    ),
    "letter of a token": alone(
        "one flipped bit", Q8, flip(b"tokenizer.ggml.tokens", 0, at=45), "tokenizer: ", compared="q8_0"
    ),
    "end token": alone(
        "one flipped bit", Q8, flip(b"tokenizer.ggml.eos_token_id", 0, at=31), "tokenizer: the end token",
        compared="q8_0",
    ),
    "ONNX operator": alone("one flipped bit", INT4, flip(b"MatMulNBits", 0, name="model.onnx"), "while loading"),
    "ONNX name of an input": alone(
        "one flipped bit", INT4, flip(b"past_key_values.0.key", 0, name="model.onnx"), "while loading"
    ),
    "ONNX config": alone(
        "one flipped bit", INT4, flip(b"head_size", 0, name="genai_config.json"), "head_size: Field required"
    ),
    "ONNX tokenizer": alone(
        "one flipped bit", INT4, flip(b'"vocab"', 0, name="tokenizer.json"), "tokenizer.json is no tokenizer"
    ),
    "ONNX template": alone(
        "one flipped bit", INT4, flip(b"tool_response", 0, name="chat_template.jinja"), "template: .* stores another",
        compared="int4",
    ),
    # Swapped
    "q8_0 and q4_k_m": in_artifact("swapped", Q8, exchanged(Q8, Q4), "has 5|SHA-256", Q8),
    "weights of fp32 under int4, in an artifact": in_artifact(
        "swapped", INT4, exchanged(f"{INT4}/model.onnx.data", f"{FP32}/model.onnx.data"), HASH, INT4
    ),
    "weights of fp32 under int4": swapped(
        INT4, replaced("model.onnx.data", lambda bench: bench.artifact / FP32 / "model.onnx.data"), DIFFERS, "int4"
    ),
    "weights of int4 under fp32": alone(
        "swapped", FP32, lambda path: None, "while loading .*out of bounds"
    ),
    "GGUF of another model": swapped(Q8, lambda bench, path: shutil.copy(bench.other / Q8, path), DIFFERS, "q8_0"),
    "tokenizer.json of another model": swapped(INT4, tokenizer_of_another, "tokenizer: ", "int4"),
    # Missing
    **{
        f"no {name}": alone("missing", INT4, without(name), f"holds no {name}|holds no (model|chat)|{name}")
        for name in ONNX_FILES
    },
    **{
        f"no {name}, in an artifact": in_artifact(
            "missing", INT4, without(f"{INT4}/{name}"), "is missing", f"{INT4}/{name}"
        )
        for name in ONNX_FILES
    },
    "no GGUF": alone("missing", Q8, without(), "holds no model"),
    "no GGUF, in an artifact": in_artifact("missing", Q8, without(Q8), "is missing", Q8),
    # Hostile metadata
    "context of billions": hostile("context of billions"),
    "2^63 tensors": hostile("2^63 tensors"),
    "string of 2^62 bytes": hostile("string of 2^62 bytes"),
    "array of 2^31 strings": hostile("array of 2^31 strings"),
    # Wrong adapter
    "adapter of a wider base": adapter("size mismatch", base={"hidden_size": 512}),
    "adapter of a deeper base": adapter(r"no place for .*layers\.2\.", base={"num_hidden_layers": 3}),
    "adapter for modules that the base lacks": adapter(
        "not found in the base", configured("adapter_config.json", target_modules=["query_key_value"])
    ),
    "adapter of another rank than it says": adapter("size mismatch", configured("adapter_config.json", r=8)),
    "adapter of another kind": adapter("is IA3 for CAUSAL_LM, not LORA", peft_type="IA3"),
    "adapter with whole layers": adapter("changes more than LoRA can", modules_to_save=["lm_head"]),
    "adapter cut": adapter("does not fit the base", cut(-100, "adapter_model.safetensors")),
    # Vocabulary
    "adapter with more tokens": adapter(r"\[650, 256\], where the base", kind="vocabulary", rows=650),
    "embedding smaller than the tokenizer": source("vocabulary", shrink_embedding, "embeddings of 500 tokens"),
    "end token without embedding": source(
        "vocabulary", configured("tokenizer_config.json", eos_token="<|end|>"), "embeddings of 640 tokens"
    ),
    "stops at what is no token": source(
        "vocabulary", configured("generation_config.json", eos_token_id=[99_999]), "a token 99999"
    ),
    "tokenizer of another model": gated(
        other_tokens, lambda bench: bench.solved, GateFailed, "3 lost, 0 gained", "refused", "vocabulary"
    ),
    # The model's directory
    "weights cut": source("damaged model", cut(-1000, WEIGHTS), "cannot load .*not fully covered"),
    "no weights": source("damaged model", without(WEIGHTS), "cannot load .*model.safetensors"),
    "a shard missing": source("damaged model", one_shard_of_two, "No such file .*model-0"),
    "a tensor missing": source("damaged model", reweighted(lambda tensors: tensors.pop(PARAMETER)), f"lack {PARAMETER}"),
    "weights that are no numbers": source("damaged model", reweighted(spoil), "not finite", ExportError),
    "weights of another width": source("damaged model", configured("config.json", hidden_size=512), r"\[640, 512\]"),
    "config that is no object": source("damaged model", written("config.json", "[]"), "no JSON object", ExportError),
    "quantized weights": source(
        "damaged model", configured("config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        "quantized already", ExportError,
    ),
    "template that is no Jinja": source(
        "damaged model", written("chat_template.jinja", "{% if %}"), "not valid Jinja: .*line 1"
    ),
    "no template": source("damaged model", without("chat_template.jinja"), "has no chat template"),
    "no end token": source("damaged model", configured("tokenizer_config.json", eos_token=None), "no end-of-turn"),
    "no tokenizer": source("damaged model", without("tokenizer.json"), "cannot load"),
    "architecture that nobody converts": source(
        "damaged model", configured("config.json", architectures=["MambaForCausalLM"]), "MambaForCausalLM", ExportError
    ),
    # Reference
    "reference that solves nothing": gated(
        lambda path: None, unsolved, GateInconclusive, "solves 0 of 3", "refused", "wrong reference"
    ),
    "reference of other tasks": gated(
        lambda path: None, lambda bench: bench.solved.only({bench.suite.tasks[0].id}), ExportError,
        "did not ask '", "known", "wrong reference",
    ),
    "reference of other prompts": gated(
        lambda path: None, other_prompts, ExportError, "did not ask '", "known", "wrong reference"
    ),
}  # fmt: skip


def children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_refused_with_its_reason(bench: Bench, tmp_path: Path, name: str) -> None:
    fault, before = FAULTS[name], children()
    with pytest.raises(fault.error, match=fault.reason) as caught:
        fault.commit(bench, tmp_path)
    assert fault.named in str(caught.value)
    assert type(caught.value) is fault.error  # no crash of a child, which would be a RuntimeDied
    assert children() <= before
    shutil.rmtree(tmp_path)
