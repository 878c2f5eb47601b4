"""Fitting students with other chat templates than their own: what is trained, merged, converted and recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trl

from helpers.tiny_models import TEMPLATE, make_student, make_tokenizer
from mentor_edge.chat.setting import TemplateSetting
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.engines.onnx.engine import OnnxEngine
from mentor_edge.engines.torch.engine import TransformersEngine
from mentor_edge.engines.torch.loading import load_tokenizer, template_record
from mentor_edge.errors import StudentError, TaskError
from mentor_edge.export.gguf.convert import convert
from mentor_edge.export.onnx.export import export_onnx
from mentor_edge.export.source import Source
from mentor_edge.recipes import MentorRecipe, Run, SFTRecipe

THEIRS = Path(trl.__file__).parent / "chat_templates"
TRAIN = {"steps": 2, "batch_size": 2}
PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"
LISTED = [{"name": "default", "template": PLAIN}, {"name": "tool_use", "template": TEMPLATE}]


def base_model(directory: Path, template: str | None = PLAIN, end: str = "<|endoftext|>") -> Path:
    """A tiny student whose end token does not end turns, as in base models."""
    tokenizer = make_tokenizer()
    tokenizer.eos_token, tokenizer.chat_template = end, template
    return make_student(directory, tokenizer=tokenizer)


def listed_model(directory: Path) -> Path:
    """A tiny student with two templates in tokenizer_config.json."""
    make_student(directory)
    (directory / "chat_template.jinja").unlink()
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": LISTED}))
    return directory


def test_a_run_trains_and_ships_the_template_that_is_set(tmp_path: Path) -> None:
    student = base_model(tmp_path / "base")
    recipe = SFTRecipe(
        student=str(student), template="hermes", tasks={"limit": 4}, output_dir=tmp_path / "run", train=TRAIN
    )
    run = recipe.fit()
    assert Run.load(tmp_path / "run") == run and run.student == str(student)
    assert run.template is not None and (run.template.name, run.template.student_template) == ("hermes", "default")
    assert load_tokenizer(student).eos_token == "<|endoftext|>"  # the student itself is unchanged
    merged = run.merged()
    assert template_record(merged) == run.template
    engine = TransformersEngine.load(merged)
    convert(merged, tmp_path / "model.gguf")
    with LlamaCppEngine(tmp_path / "model.gguf") as exported:
        for open_model in (engine, exported):
            assert open_model.template.sha256 == run.template.sha256
            assert open_model.template.eos_token == "<|im_end|>"
            assert open_model.end_ids == {0, 2}


def test_every_runtime_uses_the_template_that_is_asked_for(tmp_path: Path) -> None:
    student = base_model(tmp_path / "base")
    convert(student, tmp_path / "base.gguf")
    hermes = TransformersEngine.load(student, template=TemplateSetting("hermes"))
    with LlamaCppEngine(tmp_path / "base.gguf", template=TemplateSetting("hermes")) as exported:
        assert exported.template.source == hermes.template.source
        assert exported.end_ids == hermes.end_ids == {0, 2}
    with pytest.raises(StudentError, match="enable_thinking is not read"):
        LlamaCppEngine(tmp_path / "base.gguf", template=TemplateSetting(None, {"enable_thinking": False}))


def test_a_run_is_exported_with_its_own_template_only(tmp_path: Path) -> None:
    source = Source({"16-bit": tmp_path}, "base", tmp_path / "adapter")
    assert source.with_template(TemplateSetting(), tmp_path / "x") is source
    with pytest.raises(Exception, match="the chat template that it was trained with"):
        source.with_template(TemplateSetting("hermes"), tmp_path / "x")


def test_of_several_templates_one_is_trained_on_and_shipped(tmp_path: Path) -> None:
    student = listed_model(tmp_path / "student")
    assert load_tokenizer(student).chat_template == TEMPLATE
    assert template_record(student).name == "tool_use"
    unnamed = make_student(tmp_path / "unnamed")
    (unnamed / "chat_template.jinja").unlink()
    (unnamed / "additional_chat_templates").mkdir()
    (unnamed / "additional_chat_templates" / "rag.jinja").write_text(PLAIN)
    with pytest.raises(StudentError, match="none is named tool_use or default"):
        load_tokenizer(unnamed)
    assert "<tools>" in load_tokenizer(unnamed, TemplateSetting("hermes")).chat_template
    convert(student, tmp_path / "model.gguf")
    with LlamaCppEngine(tmp_path / "model.gguf") as exported:
        assert exported.template.source == TEMPLATE


@pytest.mark.slow
def test_of_several_templates_one_is_shipped_in_onnx(tmp_path: Path) -> None:
    export_onnx(listed_model(tmp_path / "student"), tmp_path / "onnx", "fp32")
    assert (tmp_path / "onnx" / "chat_template.jinja").read_text() == TEMPLATE
    assert not (tmp_path / "onnx" / "additional_chat_templates").exists()
    assert "chat_template" not in json.loads((tmp_path / "onnx" / "tokenizer_config.json").read_text())
    with OnnxEngine(tmp_path / "onnx", template=TemplateSetting("hermes")) as exported:
        assert exported.template.eos_token == "<|im_end|>" and "<tools>" in exported.template.source


@pytest.mark.slow
def test_references_that_the_template_refuses_are_left_out(tmp_path: Path) -> None:
    picky = TEMPLATE.replace(
        "{{ message.content }}",
        "{% if '7' in message.content %}{{ raise_exception('no sevens') }}{% endif %}{{ message.content }}",
        1,
    ).replace("<tool_response>{{ message.content }}", "<tool_response>{{ message.content }}")
    tokenizer = make_tokenizer()
    tokenizer.chat_template = picky
    student = str(make_student(tmp_path / "student", tokenizer=tokenizer))
    run = SFTRecipe(student=student, tasks={"limit": 12}, output_dir=tmp_path / "run", train=TRAIN).fit()
    rows = [json.loads(line) for line in (tmp_path / "run" / "rejected.jsonl").read_text().splitlines()]
    refused = [row for row in rows if "no sevens" in row["reason"]]
    assert refused and run.tasks.used + len(refused) <= 12
    never = TEMPLATE.replace("{{ message.content }}", "{{ raise_exception('never') if not loop.first }}", 1)
    (tmp_path / "student" / "chat_template.jinja").write_text(never)
    with pytest.raises((TaskError, StudentError), match="cannot"):
        SFTRecipe(student=student, tasks={"limit": 4}, output_dir=tmp_path / "none", train=TRAIN).fit()


TRAINABLE = ("qwen2_5", "qwen3", "qwen3_instruct_2507", "llama3_1", "llama3_2")
REFUSED = ("gemma3", "phi3", "llama3", "lfm2", "cohere2", "deepseekv3")


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINABLE + REFUSED)
def test_stock_templates_are_trained_with_or_refused(tmp_path: Path, name: str) -> None:
    source = (THEIRS / f"{name}.jinja").read_text(encoding="utf-8")
    for token in ("<|eot_id|>", "<end_of_turn>", "<|end|>", "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>"):
        source = source.replace(token, "<|im_end|>")
    student = str(base_model(tmp_path / "student", source, end="<|im_end|>"))
    shared: dict[str, Any] = {"student": student, "tasks": {"limit": 8}}
    recipes = [
        SFTRecipe(**shared, output_dir=tmp_path / "sft", train=TRAIN),
        MentorRecipe(
            **shared,
            output_dir=tmp_path / "mentor",
            train={"steps": 2, "prompts_per_step": 2, "rollouts_per_prompt": 2},
            rollout={"tokens_per_turn": 8, "completion_tokens": 64},
        ),
    ]
    for recipe in recipes:
        if name in TRAINABLE:
            assert recipe.fit().template is not None
        else:
            with pytest.raises(StudentError, match="cannot be used with tools"):
                recipe.fit()
