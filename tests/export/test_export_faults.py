"""The fault table of an export: damaged, swapped, missing and mismatched files of both formats, of the model and of the
adapter. Each is refused with its reason, and the process survives and leaves no child behind.

`FAULTS`, with the hostile GGUF headers of helpers/hostile_gguf.py, is counted kind by kind in docs/export.md.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from helpers.damaged_exports import (
    FP32,
    INT4,
    ONNX_FILES,
    Q4,
    Q8,
    WEIGHTS,
    Bench,
    Fault,
    Offset,
    adapter,
    alone,
    configured,
    cut,
    exchanged,
    flip,
    gated,
    in_artifact,
    one_shard_of_two,
    other_prompts,
    other_tokens,
    replaced,
    reweighted,
    shrink_embedding,
    source,
    spoil,
    swapped,
    tensor,
    tokenizer_of_another,
    unsolved,
    without,
    written,
)
from helpers.hostile_gguf import HOSTILE, edited
from helpers.paths import DOCS
from mentor_edge.cli.app import app
from mentor_edge.cli.targets import resolve_target
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.engines.onnx.engine import OnnxEngine
from mentor_edge.engines.open import open_engine
from mentor_edge.errors import ArtifactError, EngineError, ExportError, GateFailed, GateInconclusive, RunError
from mentor_edge.export import Artifact, evaluate_directory, export, require_pass
from mentor_edge.export.gguf.convert import convert
from mentor_edge.export.gguf.quantize import quantize
from mentor_edge.export.parity.check import check_quantized
from mentor_edge.export.parity.expected import ExpectedOutputs
from mentor_edge.manifest import MANIFEST, verify
from mentor_edge.tasks.nano.suites import training_suite
from mentor_edge.tasks.types import Suite

DOCUMENT = DOCS / "export.md"
PARAMETER, NORM, DOWN = "model.layers.0.mlp.up_proj.weight", "blk.0.attn_norm.weight", "blk.1.ffn_down.weight"
HASH, DIFFERS, STORED = (
    "has the SHA-256",
    "a guess that does not read the text diverges",
    "^template: .* stores a different template",
)
SMALL = {"head_dim": 64, "num_key_value_heads": 1, "intermediate_size": 256}
"""The student's sizes."""


@pytest.fixture(scope="module")
def bench(nano_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    from mentor_edge.engines.torch.loading import load_tokenizer
    from mentor_edge.recipes.nano.student import build_model

    known = Suite("known", "1", training_suite(12, seed=0).tasks)
    solved = evaluate_directory(nano_student, known)
    right = [outcome.task_id for outcome in solved.outcomes if outcome.correct]
    suite = Suite("solved", "1", tuple(task for task in known.tasks if task.id in right[:3]))
    artifact = tmp_path_factory.mktemp("whole") / "artifact"
    exported = export(
        nano_student,
        out=artifact,
        suite=suite,
        gguf=["q8_0", "q4_k_m"],
        onnx=["fp32", "int4"],
        source_evaluation=solved,
        margin=0.9,
    )
    require_pass(exported)
    other = Path(shutil.copytree(nano_student, tmp_path_factory.mktemp("other") / "student"))
    build_model(load_tokenizer(nano_student), seed=1).save_pretrained(other)
    convert(other, other / "f32.gguf")
    quantize(other / "f32.gguf", other / Q8, "q8_0")
    return Bench(nano_student, artifact, other, ExpectedOutputs.of(nano_student), suite, solved)


def hostile(name: str) -> Fault:
    def commit(bench: Bench, work: Path) -> None:
        with open_engine(edited(bench.artifact / Q8, work, HOSTILE[name][0])):
            pass

    return Fault("hostile metadata", commit, EngineError, HOSTILE[name][1], "hostile.gguf")


def no_manifest(bench: Bench, work: Path) -> None:
    """Without a manifest, its files can be opened at the user's own risk; as an artifact the directory is refused."""
    artifact = Path(shutil.copytree(bench.artifact, work / "artifact"))
    (artifact / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="is not an artifact"):
        Artifact.load(artifact)
    with pytest.raises(RunError, match="is not a run, an artifact"):
        resolve_target(artifact, None)
    verify(artifact)


def flipped_in_artifact() -> dict[str, Fault]:
    offsets: dict[str, tuple[str, Offset]] = {
        "GGUF header": (Q8, 8),
        "GGUF metadata": (Q8, b"qwen3.context_length"),
        "GGUF tensor list": (Q8, b"blk.0.attn_q.weight"),
        "low bit of a GGUF weight": (Q8, tensor(DOWN)),
        "ONNX graph": (f"{INT4}/model.onnx", b"MatMulNBits"),
        "low bit of an ONNX weight": (f"{INT4}/model.onnx.data", 40_000),
        **{name: (f"{INT4}/{name}", b" ") for name in ONNX_FILES if name.endswith((".json", ".jinja"))},
    }
    return {
        f"{name}, in an artifact": in_artifact("flipped bit", file.split("/")[0], flip(offset, 0, file), HASH, file)
        for name, (file, offset) in offsets.items()
    }


FAULTS: dict[str, Fault] = {
    # Truncated
    "empty GGUF": alone("truncated", Q8, cut(0), "while loading .*read magic"),
    "GGUF cut in the header": alone("truncated", Q8, cut(12), "while loading .*read"),
    "GGUF cut in the metadata": alone("truncated", Q8, cut(3000), "while loading .*read key-value"),
    "GGUF cut in the tensor list": alone("truncated", Q8, cut(b"blk.0.attn_q.weight"), "exceeds remaining file"),
    "GGUF cut in the weights": alone("truncated", Q8, cut(tensor(DOWN)), "while loading .*not within the file bounds"),
    "GGUF without its last bytes": alone("truncated", Q8, cut(-64), "while loading .*not within the file bounds"),
    "ONNX graph cut": alone("truncated", INT4, cut(9000, "model.onnx"), "while loading .*Protobuf parsing failed"),
    "ONNX weights cut": alone("truncated", INT4, cut(500_000, "model.onnx.data"), "while loading .*out of bounds"),
    "ONNX config cut": alone("truncated", INT4, cut(600, "genai_config.json"), "genai_config.json cannot be used"),
    "ONNX tokenizer cut": alone("truncated", INT4, cut(9000, "tokenizer.json"), "tokenizer.json is not a tokenizer"),
    "GGUF cut, in an artifact": in_artifact("truncated", Q8, cut(-1, Q8), HASH, Q8),
    "ONNX weights cut, in an artifact": in_artifact(
        "truncated", INT4, cut(-1, f"{INT4}/model.onnx.data"), HASH, "model.onnx.data"
    ),
    "manifest cut": in_artifact("truncated", Q8, cut(5000, MANIFEST), "is damaged", MANIFEST),
    # One flipped bit
    **flipped_in_artifact(),
    "manifest": in_artifact("flipped bit", Q8, flip(b"margin", 0, MANIFEST), "is damaged", MANIFEST),
    "magic": alone("flipped bit", Q8, flip(0, 1), "invalid magic"),
    "number of tensors": alone("flipped bit", Q8, flip(8, 7), "while loading .*read"),
    "number of entries": alone("flipped bit", Q8, flip(16, 5), "string length .* exceeds"),
    "name of an entry": alone("flipped bit", Q8, flip(b"qwen3.block_count", 0, after=8), "key not found"),
    "length of a string": alone(
        "flipped bit", Q8, flip(b"tokenizer.chat_template", 6, after=30), "string length .* exceeds"
    ),
    "name of a tensor": alone("flipped bit", Q8, flip(b"blk.0.attn_q.weight", 1, after=9), "blk.0.attn_q.*not found"),
    "size of a tensor": alone("flipped bit", Q8, flip(b"blk.1.ffn_up.weight", 0, after=25), "corrupted"),
    "high bit of a norm": alone("flipped bit", Q8, flip(tensor(NORM), 6, after=3), "not finite"),
    "high bit of a scale": alone("flipped bit", Q8, flip(tensor(DOWN), 6, after=1), DIFFERS, "q8_0"),
    "letter of the template": alone("flipped bit", Q8, flip(b"{{ message.content", 0, after=5), STORED, "q8_0"),
    "letter of a token": alone("flipped bit", Q8, flip(b"tokenizer.ggml.tokens", 0, after=45), "^tokenizer: ", "q8_0"),
    "end token": alone(
        "flipped bit", Q8, flip(b"tokenizer.ggml.eos_token_id", 0, after=31), "^tokenizer: the end token", "q8_0"
    ),
    "ONNX operator": alone("flipped bit", INT4, flip(b"MatMulNBits", 0, "model.onnx"), "while loading .*LatMulNBits"),
    "ONNX input": alone("flipped bit", INT4, flip(b"past_key_values.0.key", 0, "model.onnx"), "while loading"),
    "ONNX config": alone("flipped bit", INT4, flip(b"head_size", 0, "genai_config.json"), "sets model.decoder.iead"),
    "ONNX tokenizer": alone("flipped bit", INT4, flip(b'"vocab"', 0, "tokenizer.json"), "tokenizer.json is no"),
    "ONNX template": alone("flipped bit", INT4, flip(b"tool_response", 0, "chat_template.jinja"), STORED, "int4"),
    # Swapped
    "q8_0 and q4_k_m": in_artifact("swapped", Q8, exchanged(Q8, Q4), "bytes, not|SHA-256", Q8),
    "weights of fp32 under int4, in an artifact": in_artifact(
        "swapped", INT4, exchanged(f"{INT4}/model.onnx.data", f"{FP32}/model.onnx.data"), "bytes, not", INT4
    ),
    "weights of fp32 under int4": swapped(
        INT4, replaced("model.onnx.data", lambda bench: bench.artifact / FP32 / "model.onnx.data"), DIFFERS, "int4"
    ),
    "weights of int4 under fp32": swapped(
        FP32, replaced("model.onnx.data", lambda bench: bench.artifact / INT4 / "model.onnx.data"), "out of bounds"
    ),
    "GGUF of another model": swapped(Q8, lambda bench, path: shutil.copy(bench.other / Q8, path), DIFFERS, "q8_0"),
    "tokenizer.json of another model": swapped(INT4, tokenizer_of_another, "^tokenizer: ", "int4"),
    # Missing
    **{
        f"no {name}": alone("missing", INT4, without(name), f"is not a model|has no (chat template|{name})|{name}")
        for name in ONNX_FILES
    },
    **{
        f"no {name}, in an artifact": in_artifact("missing", INT4, without(f"{INT4}/{name}"), "is missing", name)
        for name in ONNX_FILES
    },
    "no GGUF": alone("missing", Q8, without(), "is not a model"),
    "no GGUF, in an artifact": in_artifact("missing", Q8, without(Q8), "is missing", Q8),
    "no ONNX directory, in an artifact": in_artifact("missing", INT4, without(INT4), "is missing", INT4),
    "no manifest": Fault("missing", no_manifest, ArtifactError, "is not an artifact", MANIFEST),
    # Hostile metadata
    "context of billions": hostile("context of billions"),
    "2^63 tensors": hostile("2^63 tensors"),
    "string of 2^62 bytes": hostile("string of 2^62 bytes"),
    "array of 2^31 strings": hostile("array of 2^31 strings"),
    # Wrong adapter
    "adapter of a wider base": adapter("size mismatch", base={**SMALL, "hidden_size": 512}),
    "adapter of a deeper base": adapter(r"no layer for .*layers\.2\.", base={**SMALL, "num_hidden_layers": 3}),
    "adapter for modules that the base lacks": adapter(
        "not found in the base", configured("adapter_config.json", target_modules=["query_key_value"])
    ),
    "adapter of another rank than it says": adapter("size mismatch", configured("adapter_config.json", r=8)),
    "adapter of another kind": adapter("is IA3 for CAUSAL_LM, not LORA", peft_type="IA3"),
    "adapter with whole layers": adapter("changes more than LoRA can", modules_to_save=["lm_head"]),
    "adapter cut": adapter(
        "cannot read .*adapter_model.safetensors: it declares a tensor", cut(-100, "adapter_model.safetensors")
    ),
    # Vocabulary
    "adapter with more tokens": adapter(r"\[650, 256\], where the base", kind="vocabulary", rows=650),
    "embedding smaller than the tokenizer": source("vocabulary", shrink_embedding, "embeddings of 500 tokens"),
    "end token without embedding": source(
        "vocabulary", configured("tokenizer_config.json", eos_token="<|end|>"), "embeddings of 640 tokens"
    ),
    "stops at a token that does not exist": source(
        "vocabulary", configured("generation_config.json", eos_token_id=[99_999]), "a token 99999"
    ),
    "tokenizer of another model": gated(
        other_tokens, lambda bench: bench.solved, GateFailed, "3 lost, 0 gained", "refused", "vocabulary"
    ),
    # The model's directory
    "weights cut": source("damaged model", cut(-1000, WEIGHTS), "cannot load .*not fully covered"),
    "no weights": source("damaged model", without(WEIGHTS), "cannot load .*model.safetensors"),
    "a shard missing": source("damaged model", one_shard_of_two, "lists model-0.*which is missing"),
    "a tensor missing": source("damaged model", reweighted(lambda each: each.pop(PARAMETER)), f"lack {PARAMETER}"),
    "weights that are not numbers": source("damaged model", reweighted(spoil), "not finite", ExportError),
    "weights of another width": source("damaged model", configured("config.json", hidden_size=512), r"\[640, 512\]"),
    "config that is not an object": source(
        "damaged model", written("config.json", "[]"), "it is not a JSON object", ExportError
    ),
    "quantized weights": source(
        "damaged model", configured("config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        "quantized already", ExportError,
    ),
    "template that is not Jinja": source(
        "damaged model", written("chat_template.jinja", "{% if %}"), "not valid Jinja: .*line 1"
    ),
    "no template": source("damaged model", without("chat_template.jinja"), "has no chat template"),
    "no end token": source("damaged model", configured("tokenizer_config.json", eos_token=None), "no end-of-turn"),
    "no tokenizer": source("damaged model", without("tokenizer.json"), "cannot load"),
    "architecture that nobody converts": source(
        "damaged model", configured("config.json", architectures=["MambaForCausalLM"]), "^conversion: .*Mamba",
        ExportError,
    ),
    # The source's evaluation
    "source that solves nothing": gated(
        lambda path: None, unsolved, GateInconclusive, "solves 0 of 3", "refused", "wrong source evaluation"
    ),
    "source evaluation of other tasks": gated(
        lambda path: None, lambda bench: bench.solved.only({bench.suite.tasks[0].id}), ExportError,
        "did not ask '", "known", "wrong source evaluation",
    ),
    "source evaluation of other prompts": gated(
        lambda path: None, other_prompts, ExportError, "did not ask '", "known", "wrong source evaluation"
    ),
}  # a table  # fmt: skip


def children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_refused_with_its_reason(bench: Bench, tmp_path: Path, name: str) -> None:
    fault, before = FAULTS[name], children()
    with pytest.raises(fault.error, match=fault.reason) as caught:
        fault.commit(bench, tmp_path)
    assert fault.named in str(caught.value)
    assert type(caught.value) is fault.error  # a child that crashed would be a RuntimeDied
    assert children() <= before
    shutil.rmtree(tmp_path)  # megabytes, times a hundred


@pytest.mark.parametrize(
    ("model", "offset", "kind"), [(Q8, tensor(DOWN), "q8_0"), (f"{INT4}/model.onnx.data", 40_000, "int4")]
)
def test_only_the_hash_detects_the_low_bit_of_a_weight(
    bench: Bench, tmp_path: Path, model: str, offset: Offset, kind: str
) -> None:
    """The same flips as in `flipped_in_artifact`, without a manifest."""
    root = model.split("/")[0]
    (shutil.copytree if "/" in model else shutil.copy)(bench.artifact / root, tmp_path / root)
    flip(offset, 0, model)(tmp_path)
    with open_engine(tmp_path / root) as engine:
        assert isinstance(engine, LlamaCppEngine | OnnxEngine)
        assert check_quantized(bench.expected, engine, kind).kl_mean < 0.1


def test_a_fault_in_one_model_does_not_keep_the_others_from_loading(bench: Bench, tmp_path: Path) -> None:
    artifact = Path(shutil.copytree(bench.artifact, tmp_path / "artifact"))
    flip(tensor(DOWN), 0, Q8)(artifact)
    for model in (Q4, INT4):
        with open_engine(artifact / model) as engine:
            assert engine.encode(["42"])


def test_the_command_names_every_fault_and_fails(bench: Bench, tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["verify", str(bench.artifact), "--json"]).exit_code == 0
    artifact = Path(shutil.copytree(bench.artifact, tmp_path / "artifact"))
    flip(tensor(DOWN), 0, Q8)(artifact)
    without(f"{INT4}/tokenizer.json")(artifact)
    done = CliRunner().invoke(app, ["verify", str(artifact), "--json"])
    answer = json.loads(done.stdout)
    assert done.exit_code == 1 and not answer["ok"]
    assert [problem.split(" ")[0] for problem in answer["problems"]] == [Q8, f"{INT4}/tokenizer.json"]


def test_the_documents_table_counts_the_faults() -> None:
    section = DOCUMENT.read_text(encoding="utf-8").partition("\n## Faults\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    documented = {kind: int(count) for kind, count, *_ in rows[2:]}
    held = Counter(fault.kind for fault in FAULTS.values()) | Counter({"hostile metadata": len(HOSTILE)})
    assert documented == held
    assert f"{held.total()} faults" in section
