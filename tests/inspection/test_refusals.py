"""A template that drops the tools: `fit` and `export` refuse it, `evaluate` and the agent mark what they report."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.changed_templates import REFUSED
from helpers.evaluation_tasks import LIMITS, answer_task
from helpers.scripted_engine import EOS, ScriptedEngine
from helpers.task_rows import ROW, written
from helpers.tiny_models import make_student, make_tokenizer
from mentor_edge import ToolAgent, evaluate
from mentor_edge.chat import ChatTemplate
from mentor_edge.errors import MentorEdgeWarning, StudentError
from mentor_edge.evaluation.evaluate import Evaluation
from mentor_edge.evaluation.report import write_evaluation_report
from mentor_edge.export import export
from mentor_edge.export.gguf.convert import convert
from mentor_edge.messages import Message
from mentor_edge.recipes import MentorRecipe, Run, SFTRecipe, TaskCounts
from mentor_edge.tasks.types import Suite, Task
from mentor_edge.tools.calculator import CALCULATOR


@pytest.fixture(scope="module")
def toolless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student without a tools branch in its template, and without weights: nothing may get as far as those."""
    return without_tools(tmp_path_factory.mktemp("toolless"))


def without_tools(directory: Path) -> Path:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = REFUSED["tools"]
    return make_student(directory, tokenizer=tokenizer, num_hidden_layers=1, head_dim=64, intermediate_size=256)


@pytest.fixture
def weightless(toolless: Path) -> Iterator[Path]:
    weights = toolless / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    yield toolless
    weights.write_bytes(content)


@pytest.mark.parametrize("recipe", [SFTRecipe, MentorRecipe])
def test_fit_refuses_it_before_anything_is_loaded_or_written(weightless, tmp_path, recipe):
    tasks = {"suite": "jsonl", "path": written(tmp_path / "tasks.jsonl", ROW), "tools": ["add"]}
    fitted = recipe(student=str(weightless), tasks=tasks, output_dir=tmp_path / "run")
    with pytest.raises(StudentError, match="drops the offered tools") as raised:
        fitted.fit()
    assert "template: hermes" in raised.value.hint
    assert not (tmp_path / "run").exists()


def test_fit_refuses_to_continue_a_run_with_it(weightless, tmp_path):
    run = tmp_path / "first"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    Run(run, "sft", str(weightless), 0, TaskCounts(suite="s", sha256="0" * 64, used=1, rejected=0), 1.0).save()
    tasks = {"suite": "jsonl", "path": written(tmp_path / "tasks.jsonl", ROW), "tools": ["add"]}
    with pytest.raises(StudentError, match="drops the offered tools"):
        SFTRecipe(from_run=run, tasks=tasks, output_dir=tmp_path / "second").fit()
    assert not (tmp_path / "second").exists()


def test_fit_refuses_a_gguf_file_before_it_is_dequantized(toolless, tmp_path, monkeypatch):
    file = tmp_path / "student.gguf"
    convert(toolless, file)
    monkeypatch.setenv("MENTOR_EDGE_CACHE", str(tmp_path / "cache"))
    tasks = {"suite": "jsonl", "path": written(tmp_path / "tasks.jsonl", ROW), "tools": ["add"]}
    with pytest.raises(StudentError, match="drops the offered tools"):
        SFTRecipe(student=str(file), tasks=tasks, output_dir=tmp_path / "run").fit()
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache").exists()


def test_export_refuses_it_before_anything_is_loaded_or_written(weightless, tmp_path):
    suite = Suite("sums", "1", (answer_task("q"),), LIMITS)
    with pytest.raises(StudentError, match="drops the offered tools") as raised:
        export(weightless, out=tmp_path / "artifact", suite=suite, gguf=["f16"])
    assert "template hermes" in raised.value.hint
    assert not list(tmp_path.iterdir())


def evaluated(template: str, tasks: tuple[Task, ...], **options) -> Evaluation:
    engine = ScriptedEngine({"": [r"\boxed{5}"]})
    engine.template = ChatTemplate(template, EOS)
    return evaluate(engine, Suite("sums", "1", tasks, LIMITS), **options)


def test_an_evaluation_carries_the_warning_everywhere(tmp_path):
    items = tmp_path / "items.jsonl"
    with pytest.warns(MentorEdgeWarning, match="drops tool calls"):
        evaluation = evaluated(REFUSED["calls"], (answer_task("q"),), items=items, identity="model a")
    (warning,) = evaluation.warnings
    assert "--template neutral" in warning  # the scripted engine's tokens are bytes
    assert evaluation.to_json()["warnings"] == [warning]
    assert json.loads(items.read_text().splitlines()[0])["evaluation"]["warnings"] == [warning]
    assert Evaluation.from_jsonl(items) == evaluation
    report, _ = write_evaluation_report(tmp_path / "report.md", evaluation, "a model")
    assert report.read_text().splitlines()[2] == f"**Warning: {warning}**"


def test_a_suite_without_tools_needs_no_warning():
    task = Task("q", (Message("user", "<q>"),), (), "id", "sums", answer="5")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert evaluated(REFUSED["tools"], (task,)).warnings == ()


def test_an_agent_warns_unless_it_has_no_tools():
    engine = ScriptedEngine({})
    engine.template = ChatTemplate(REFUSED["results"], EOS)
    with pytest.warns(MentorEdgeWarning, match="drops tool results"), ToolAgent(engine, CALCULATOR[:1]) as agent:
        assert len(agent.warnings) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ToolAgent(engine, []) as agent:
            assert agent.warnings == ()


def test_an_exported_file_is_checked_by_its_own_template(toolless, tmp_path):
    file = tmp_path / "model.gguf"
    convert(toolless, file)
    with (
        pytest.warns(MentorEdgeWarning, match="drops the offered tools"),
        ToolAgent.load(file, CALCULATOR[:1]) as agent,
    ):
        assert "template hermes" in agent.warnings[0]


def test_a_student_without_chatml_tokens_is_told_to_use_the_neutral_template():
    engine = ScriptedEngine({})
    engine.template = ChatTemplate(REFUSED["tools"].replace("<|im_", "<|turn_"), "<|turn_end|>")
    with pytest.warns(MentorEdgeWarning, match="--template neutral"), ToolAgent(engine, CALCULATOR[:1]):
        pass
