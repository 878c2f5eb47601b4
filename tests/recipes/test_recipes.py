"""Recipes: students, output directories, references."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from helpers.paths import DATA
from helpers.tiny_models import make_student, make_tokenizer
from mentor_edge.engines.torch.engine import TransformersEngine
from mentor_edge.engines.torch.loading import load_student
from mentor_edge.errors import OutputError, RunError, StudentError, TaskError
from mentor_edge.recipes import MentorRecipe, Recipe, Run, SFTRecipe
from mentor_edge.recipes.config import LoraConfig
from mentor_edge.recipes.examples import supervised_examples
from mentor_edge.recipes.student import load_trainable, resolve_student
from mentor_edge.tasks import gsm8k
from mentor_edge.tasks.nano.suites import training_suite

EXCERPT = DATA / "gsm8k_excerpt.jsonl"
QUICK = {"steps": 2, "prompts_per_step": 2, "rollouts_per_prompt": 2, "save_every": 2}


OTHER_FAMILIES = [pytest.param(family, marks=pytest.mark.slow) for family in ("qwen3", "llama")]


@pytest.fixture(scope="module", params=["qwen2", *OTHER_FAMILIES])
def any_student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights. The template prints whole JSON schemas, so the student gets a longer context."""
    directory = make_student(tmp_path_factory.mktemp("student"), request.param)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 4096}))
    return directory


def adapter_of(run: Run) -> dict[str, Any]:
    return load_file(run.adapter / "adapter_model.safetensors")


@pytest.mark.parametrize("recipe", ["mentor", "sft"])
def test_any_hugging_face_directory_trains(any_student: Path, tmp_path: Path, recipe: str) -> None:
    settings = {"student": str(any_student), "tasks": {"limit": 6}, "output_dir": tmp_path / "run"}
    fitted: Recipe = (
        MentorRecipe(**settings, train=QUICK)
        if recipe == "mentor"
        else SFTRecipe(**settings, train={"steps": 2, "batch_size": 2})
    )
    run = fitted.fit()
    assert Run.load(tmp_path / "run") == run
    assert (run.recipe, run.student) == (recipe, str(any_student))
    assert run.tasks.used == 6 and run.tasks.rejected == 0
    assert [row.step for row in run.training_log()] == list(range(1, fitted.config.train.steps + 1))
    adapter = adapter_of(run)
    assert adapter and not any("lm_head" in name or "embed" in name for name in adapter)
    if recipe == "sft":  # a random student earns no reward, but imitation always learns (after the warm-up)
        assert any("lora_B" in name and value.abs().max() > 0 for name, value in adapter.items())


def test_students_that_cannot_be_used_are_refused_with_the_reason(tmp_path: Path) -> None:
    lora = LoraConfig()
    with pytest.raises(StudentError, match=r"the student '.*missing' is not a directory"):
        load_trainable(str(tmp_path / "missing"), lora)
    directory = make_student(tmp_path / "student")
    (directory / "model.safetensors").rename(tmp_path / "weights")
    with pytest.raises(StudentError, match=r"cannot load the weights of .*: there is no model\.safetensors") as refused:
        load_trainable(str(directory), lora)
    assert refused.value.hint is not None and "config.json, model.safetensors and a tokenizer" in refused.value.hint
    (tmp_path / "weights").rename(directory / "model.safetensors")
    load_trainable(str(directory), lora)
    (directory / "chat_template.jinja").unlink()
    with pytest.raises(StudentError, match="has no chat template"):
        load_trainable(str(directory), lora)


@pytest.mark.parametrize("damage", ["config", "weights", "tokenizer"])
def test_damaged_students_are_refused_with_the_reason(tmp_path: Path, damage: str) -> None:
    directory = make_student(tmp_path / "student")
    file = {"config": "config.json", "weights": "model.safetensors", "tokenizer": "tokenizer.json"}[damage]
    (directory / file).write_bytes(b'{"half a file')
    reason = "config.json is damaged: it is not JSON" if damage == "config" else "cannot load the student"
    with pytest.raises(StudentError, match=reason):
        load_student(directory)


def test_an_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    directory = make_student(tmp_path / "student")
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "mystery"}))
    with pytest.raises(StudentError, match="mystery"):
        load_student(directory)


def test_a_template_that_rewrites_the_past_is_imitated_like_any_other(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    engine = TransformersEngine.load(make_student(tmp_path / "student", tokenizer=tokenizer))
    rewriting = supervised_examples(engine.tokenizer, training_suite(2).tasks)
    engine.tokenizer.chat_template = make_tokenizer().chat_template
    taught = [
        [token for token, mask in zip(example["input_ids"], example["assistant_masks"], strict=True) if mask]
        for example in (*rewriting, *supervised_examples(engine.tokenizer, training_suite(2).tasks))
    ]
    assert taught[:2] == taught[2:] and all(taught)


def test_stock_rollouts_need_a_template_that_trl_can_parse(any_student: Path, tmp_path: Path) -> None:
    recipe = MentorRecipe(
        student=str(any_student),
        tasks={"limit": 4},
        output_dir=tmp_path / "run",
        train=QUICK,
        rollout={"engine": "trl"},
    )
    with pytest.raises(
        StudentError, match="does not know how this student's chat template writes tool calls"
    ) as refused:
        recipe.fit()
    assert refused.value.hint is not None and "rollout.engine to edge" in refused.value.hint


def test_the_nano_student_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mentor_edge.recipes import student

    warm_starts = []

    def warm_start(directory: Path, *, student: str, seed: int, progress: Any) -> None:
        warm_starts.append((student, seed))
        (directory / "config.json").write_text("{}")

    monkeypatch.setattr(student, "warm_start", warm_start)
    monkeypatch.setenv("MENTOR_EDGE_CACHE", str(tmp_path / "deep" / "cache"))
    requests = [("nano", 0), ("nano@0", 5), ("nano", 1), ("nano-broad", 1)]
    paths = [resolve_student(name, seed, lambda *_: None) for name, seed in requests]
    assert warm_starts == [("nano", 0), ("nano", 1), ("nano-broad", 1)]
    assert paths[0] == paths[1] and len(set(paths)) == 3
    assert {str(path) for path in (tmp_path / "deep" / "cache").iterdir()} == set(paths)
    assert resolve_student("some/where", 0, lambda *_: None) == "some/where"


def test_a_failed_warm_start_leaves_no_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mentor_edge.recipes import student

    def warm_start(directory: Path, **_: Any) -> None:
        (directory / "config.json").write_text("{}")
        raise OSError("no space left")

    monkeypatch.setattr(student, "warm_start", warm_start)
    monkeypatch.setenv("MENTOR_EDGE_CACHE", str(tmp_path))
    with pytest.raises(OutputError, match="no space left"):
        resolve_student("nano", 0, lambda *_: None)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("MENTOR_EDGE_CACHE", "/dev/null")
    with pytest.raises(OutputError, match="cannot write /dev/null/nano"):
        resolve_student("nano", 0, lambda *_: None)


# Output directories


def test_an_existing_output_directory_is_left_alone(tmp_path: Path, nano_student: Path) -> None:
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(OutputError, match="exists already"):
        MentorRecipe(student=str(nano_student), output_dir=tmp_path).fit()
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_a_file_as_output_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for resume in (False, True):
        with pytest.raises(OutputError, match="exists already"):
            MentorRecipe(output_dir=tmp_path / "file").fit(resume=resume)


def test_an_unfinished_run_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run directory"):
        Run.load(tmp_path / "none")
    with pytest.raises(RunError, match=r"no finished run \(run.json is missing\)"):
        Run.load(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        Run.load(tmp_path)


# GSM8K


def gsm8k_recipe(nano_student: Path, path: Path, directory: Path) -> MentorRecipe:
    return MentorRecipe(
        student=str(nano_student),
        tasks={"suite": "gsm8k", "path": path},
        output_dir=directory,
        train=QUICK,
        rollout={"tokens_per_turn": 16, "completion_tokens": 48, "tool_rounds": 2},
    )


def test_gsm8k_fits_and_lists_what_it_leaves_out(nano_student: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in EXCERPT.read_text().splitlines()]
    rows[3]["steps"][0]["calls"][0]["result"] += 1  # a reference that records a wrong result
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = gsm8k_recipe(nano_student, path, tmp_path / "run").fit()
    rejected = [json.loads(line) for line in (tmp_path / "run" / "rejected.jsonl").read_text().splitlines()]
    by_id = {row["id"]: row["reason"] for row in rejected}
    assert "instead of the recorded" in by_id[rows[3]["id"]]
    assert by_id["gsm8k_train_86"] == "no call returns the answer 6"
    assert run.tasks.rejected == len(rejected) == 2
    assert run.tasks.used + len(rejected) == len(rows)
    assert run.tasks.sha256 == gsm8k.load(path).sha256
    assert [row.step for row in run.training_log()] == [1, 2]


def test_tasks_without_any_valid_reference_are_an_error(nano_student: Path, tmp_path: Path) -> None:
    row = json.loads(EXCERPT.read_text().splitlines()[0])
    row["steps"][0]["calls"][0]["result"] = 99
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(TaskError, match=r"none of the 1 references passed validation.*instead of the recorded 99"):
        gsm8k_recipe(nano_student, path, tmp_path / "run").fit()
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", r"tasks\.jsonl:2: not JSON"),
        ('{"id": "x", "question": "q", "answer": 7, "steps": []}', r"tasks\.jsonl:2: answer: expected text, found 7"),
        ('{"id": "x", "question": "q", "answer": "7", "steps": null}', r"tasks\.jsonl:2: steps: expected a list"),
        (
            '{"id": "x", "question": "q", "answer": "7", "steps": [{"thought": "t", "calls": [{"name": "add"}]}]}',
            r"tasks\.jsonl:2: steps\[0\]\.calls\[0\]\.arguments: missing",
        ),
    ],
)
def test_malformed_tasks_are_named_by_line_and_field(
    nano_student: Path, tmp_path: Path, line: str, problem: str
) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(EXCERPT.read_text().splitlines()[0] + "\n" + line + "\n")
    with pytest.raises(TaskError, match=problem):
        gsm8k_recipe(nano_student, path, tmp_path / "run").fit()


def test_a_run_that_failed_on_its_tasks_can_be_resumed(nano_student: Path, tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    recipe = gsm8k_recipe(nano_student, path, tmp_path / "run")
    with pytest.raises(TaskError, match="cannot read tasks"):
        recipe.fit()
    shutil.copy(EXCERPT, path)
    assert recipe.fit(resume=True).tasks.used == 19
