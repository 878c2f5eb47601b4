"""One unlikely tool call, taught to an adapter, must be made by every exported form of the model."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.tiny_models import make_student, make_tokenizer
from mentor_edge import tool
from mentor_edge.agent import AgentLimits, ToolAgent
from mentor_edge.export.gguf.convert import convert
from mentor_edge.export.gguf.quantize import quantize
from mentor_edge.export.merge import merge
from mentor_edge.export.survival import measure_survival, require_survival
from mentor_edge.messages import Ending, Message, ToolCall, Trajectory
from mentor_edge.tasks.types import Task

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before ONNX Runtime's packages load

CALL = ToolCall("zanzibar_teleport", {"flux": 41.75, "codeword": "grüne Ölmühle 🜲"})
QUESTION = "Bring me to the island, quickly."
pytestmark = pytest.mark.slow  # the adapter is trained for ten seconds
LIMITS = AgentLimits(tool_rounds=2, tokens_per_turn=160, completion_tokens=600)
LEARNED = 2e-3
"""Mean loss, in nats per token, at which the call is known by heart with room for quantization's noise."""


@tool
def zanzibar_teleport(flux: float, codeword: str) -> str:
    """Teleport to Zanzibar."""
    return f"landed at {flux} with {codeword}"


ANSWER = r"You are there: \boxed{41.75}"


def teach(student: Path, adapter: Path) -> None:
    """Train a LoRA adapter on the one conversation until it has memorized it."""
    import torch
    from peft import LoraConfig, get_peft_model

    from mentor_edge.engines.torch.loading import load_student
    from mentor_edge.recipes.examples import supervised_examples

    model, tokenizer = load_student(student)
    result = Message("tool", zanzibar_teleport.function(**CALL.arguments), name=CALL.name)
    conversation = (Message("assistant", "", (CALL,)), result, Message("assistant", ANSWER))
    reference = Trajectory(conversation, "41.75", Ending.ANSWERED)
    task = Task("one", (Message("user", QUESTION),), (zanzibar_teleport,), "id", "one", "41.75", reference=reference)
    (example,) = supervised_examples(tokenizer, [task])
    ids, mask = (torch.tensor([example[key]]) for key in ("input_ids", "assistant_masks"))
    torch.manual_seed(0)
    tuned = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW((p for p in tuned.parameters() if p.requires_grad), lr=5e-3)
    for _ in range(200):
        loss = tuned(input_ids=ids, labels=ids.masked_fill(mask == 0, -100)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < LEARNED:
            break
    assert loss.item() < LEARNED
    tuned.save_pretrained(adapter)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The base, its adapter and the two merged, in one directory. The vocabulary is neither the hidden size nor the
    tokenizer's, and every row is a multiple of 256 long, so that K-quants are real."""
    here = tmp_path_factory.mktemp("unlikely")
    base = make_student(here / "base", "qwen3", tokenizer=make_tokenizer())
    teach(base, here / "adapter")
    merged = merge(str(base), here / "adapter", here / "merged")
    for name, model in (("base", base), ("merged", merged)):
        convert(model, here / f"{name}.gguf")
    return SimpleNamespace(base=base, adapter=here / "adapter", merged=merged, here=here)


def calls_and_answers(model: Path) -> None:
    with ToolAgent.load(model, [zanzibar_teleport], LIMITS) as agent:
        trajectory = agent.run(QUESTION)
    assert trajectory.calls == (CALL,)
    assert (trajectory.ending, trajectory.answer, trajectory.tool_errors) == (Ending.ANSWERED, "41.75", 0)


def test_the_base_does_not_make_the_call(taught: SimpleNamespace) -> None:
    with ToolAgent.load(taught.base, [zanzibar_teleport], LIMITS) as agent:
        assert agent.run(QUESTION).calls == ()


@pytest.mark.parametrize("base", ["16-bit", "4-bit"])
def test_the_merged_model_makes_the_call(taught: SimpleNamespace, base: str, tmp_path: Path) -> None:
    calls_and_answers(merge(str(taught.base), taught.adapter, tmp_path / "merged", base))


@pytest.mark.parametrize("kind", ["f32", "q8_0", "q4_k_m"])
def test_a_gguf_file_makes_the_call(taught: SimpleNamespace, kind: str, tmp_path: Path) -> None:
    files = [taught.here / "merged.gguf", taught.here / "base.gguf"]
    if kind != "f32":
        sources, files = files, [tmp_path / "merged.gguf", tmp_path / "base.gguf"]
        for source, target in zip(sources, files, strict=True):
            quantize(source, target, kind)
        survives(sources[0], files[0], sources[1], files[1], tensors=14)
    calls_and_answers(files[0])


@pytest.fixture(scope="module")
def onnx(taught: SimpleNamespace, onnx_builder: Any) -> Path:
    """Merged model and base as ONNX directories, such as merged-int4."""
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    from mentor_edge.export.onnx.export import export_onnx

    for name, precision in product(("merged", "base"), ("fp32", "int4")):
        export_onnx(taught.here / name, taught.here / f"{name}-{precision}", precision, builder=onnx_builder)
    return Path(taught.here)


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_an_onnx_directory_makes_the_call(onnx: Path, precision: str) -> None:
    calls_and_answers(onnx / f"merged-{precision}")


def test_the_adapter_survives_int4(onnx: Path) -> None:
    paths = [onnx / name for name in ("merged-fp32", "merged-int4", "base-fp32", "base-int4")]
    survives(*paths, tensors=10)  # query, key and value are one tensor there


def survives(tuned: Path, tuned_quantized: Path, base: Path, base_quantized: Path, *, tensors: int) -> None:
    """Check that quantization kept LoRA's changes: those of every linear layer, and none of the embedding."""
    result = measure_survival(tuned, tuned_quantized, base, base_quantized)
    require_survival(result, tuned_quantized)
    assert (result.touched, result.unchanged, result.survived) == (tensors, (), True)
    assert result.projection == pytest.approx(1, abs=0.05)
