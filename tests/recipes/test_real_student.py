"""A real pretrained student from a GGUF file to a file that runs: SmolLM2-135M with our tools template."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest

from helpers.real_models import real_model
from mentor_edge import ToolAgent
from mentor_edge.errors import GateFailed, GateInconclusive
from mentor_edge.export import Artifact
from mentor_edge.recipes import MentorRecipe, SFTRecipe
from mentor_edge.tasks import jsonl
from mentor_edge.tools.catalog import load_tools


@pytest.mark.slow
@pytest.mark.models
def test_a_real_student_is_trained_exported_and_run(tmp_path: Path) -> None:
    """About 100 CPU-seconds and 4 GB. The gate has too few tasks to decide; its file is used anyway."""
    rows = [
        {
            "id": f"q{a}",
            "messages": [{"role": "user", "content": f"What is {a} plus 4? Give the answer in \\boxed{{}}."}],
            "tools": ["add"],
            "answer": str(a + 4),
            "reference": [
                {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {"a": a, "b": 4}}}]},
                {"role": "tool", "content": str(a + 4)},
                {"role": "assistant", "content": f"\\boxed{{{a + 4}}}"},
            ],
        }
        for a in range(4)
    ]
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = {"suite": "jsonl", "path": path, "tools": ["add"]}
    sft = SFTRecipe(
        student=str(real_model("smollm2-135m.gguf")),
        template="hermes",
        tasks=tasks,
        output_dir=tmp_path / "sft",
        train={"steps": 6, "batch_size": 2, "learning_rate": 1e-3, "warmup_steps": 1},
    ).fit()
    losses = [row.loss for row in sft.training_log()]
    assert losses[-1] < losses[0] / 2
    run = MentorRecipe(
        from_run=sft.directory,
        tasks=tasks,
        output_dir=tmp_path / "mentor",
        train={"steps": 1, "prompts_per_step": 2, "rollouts_per_prompt": 2, "micro_batch": 2, "learning_rate": 1e-5},
        rollout={"tokens_per_turn": 48, "completion_tokens": 160, "tool_rounds": 2},
    ).fit()
    assert run.training is not None and run.training.steps == 1
    with load_tools(("add",)) as tools, suppress(GateInconclusive, GateFailed):
        run.export(gguf=["q8_0"], suite=jsonl.load(path, tools.by_name), out=tmp_path / "artifact")
    artifact = Artifact.load(tmp_path / "artifact")
    origin = artifact.manifest.source.dequantized
    assert origin is not None and [*origin.kinds] == ["q4_1", "q8_0", "f32"]
    (entry,) = artifact.manifest.entries
    file = tmp_path / "artifact" / entry.path
    with load_tools(("add",)) as tools, ToolAgent.load(file, list(tools.by_name.values())) as agent:
        assert agent.run("What is 2 plus 4? Give the answer in \\boxed{}.").messages
