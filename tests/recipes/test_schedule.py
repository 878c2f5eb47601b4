"""Every task takes part equally, whatever the number of tasks; a run that took no steps is not a run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.tiny_models import make_student
from mentor_edge.cli.targets import evaluation_target, resolve_target
from mentor_edge.errors import RunError
from mentor_edge.recipes import Coverage, MentorRecipe, Run, SFTRecipe, Training, TrainingJob
from mentor_edge.recipes.schedule import prompt_order


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, and a context that the tools of a prompt fit into."""
    directory = make_student(tmp_path_factory.mktemp("student"))
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 4096}))
    return directory


STEP = {"steps": 2, "prompts_per_step": 3, "rollouts_per_prompt": 2}


def coverage(available: int, per_step: int, steps: int, unit: str = "tasks") -> Coverage:
    return Coverage(unit=unit, available=available, per_step=per_step, steps=steps)


@given(st.integers(1, 40), st.integers(1, 15), st.integers(1, 12), st.integers(0, 3))
def test_any_two_tasks_take_part_equally_often_or_differ_by_one(
    available: int, size: int, steps: int, seed: int
) -> None:
    plan = coverage(available, size, steps)
    order = prompt_order(plan, seed)
    times = Counter(order)
    assert len(order) == size * steps
    assert len(times) == plan.used
    assert max(times.values()) - min(times[task] for task in range(available)) <= 1
    assert order == prompt_order(plan, seed)


@pytest.mark.parametrize(
    ("plan", "note"),
    [
        (coverage(12, 12, 2), None),
        (coverage(13, 12, 2), None),
        (
            coverage(8, 12, 2),
            "8 tasks are fewer than the 12 prompts of a step, so they are repeated: each takes part 3 times",
        ),
        (coverage(7, 12, 2), "each takes part 3 or 4 times"),
        (coverage(30, 12, 2), "2 steps of 12 tasks use 24 of the 30 tasks; the others never take part"),
        (coverage(5, 64, 2, "references"), "each step trains on all 5 references, fewer than the 64 of a batch"),
        (coverage(9, 4, 2, "references"), "use 8 of the 9 references"),
    ],
)
def test_what_is_said_about_the_tasks(plan: Coverage, note: str | None) -> None:
    said = plan.note()
    assert said is None if note is None else said is not None and note in said


def test_fewer_tasks_than_a_step_needs_are_repeated(student: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    run = MentorRecipe(
        student=str(student),
        tasks={"limit": 2},
        output_dir=tmp_path / "run",
        train=STEP,
    ).fit(on_note=notes.append)
    assert [row.step for row in run.training_log()] == [1, 2]
    assert notes[0] == "2 tasks are fewer than the 3 prompts of a step, so they are repeated: each takes part 3 times"
    assert run.training == Training(steps=2, planned=2, coverage=coverage(2, 3, 2))
    assert Run.load(run.directory) == run


@pytest.mark.slow
def test_fewer_references_than_a_batch_train_all_together(student: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    recipe = SFTRecipe(
        student=str(student), tasks={"limit": 3}, output_dir=tmp_path / "run", train={"steps": 2, "batch_size": 64}
    )
    run = recipe.fit(on_note=notes.append)
    assert [row.step for row in run.training_log()] == [1, 2]
    assert notes == ["each step trains on all 3 references, fewer than the 64 of a batch"]


class Lazy(SFTRecipe):
    """A method whose trainer ends without having taken its steps."""

    def train(self, job: TrainingJob) -> Training:
        return Training(steps=0, planned=2, coverage=coverage(3, 2, 2))


def test_a_fit_that_took_too_few_steps_is_not_a_finished_run(student: Path, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "student": str(student),
        "tasks": {"limit": 3},
        "output_dir": tmp_path / "run",
        "train": {"steps": 2, "batch_size": 2},
    }
    with pytest.raises(RunError, match="ended after 0 of 2 steps") as refused:
        Lazy(**arguments).fit()
    assert refused.value.hint == "continue with --resume"
    with pytest.raises(RunError, match="no finished run"):
        Run.load(tmp_path / "run")
    assert SFTRecipe(**arguments).fit(resume=True).training_log()[-1].step == 2


def test_a_solved_training_may_end_early() -> None:
    assert Training(steps=1, planned=9, solved=True, coverage=coverage(3, 2, 9)).finished
    assert not Training(steps=0, planned=9, solved=True, coverage=coverage(3, 2, 9)).finished


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    """What a fit with too few tasks left behind until November 2026."""
    record = {"version": 1, "recipe": "mentor", "student": "nano", "seed": 0, "seconds": 12.0}
    tasks = {"suite": "own", "sha256": "0" * 64, "used": 8, "rejected": 0}
    directory = tmp_path / "old"
    directory.mkdir()
    (directory / "run.json").write_text(json.dumps(record | {"tasks": tasks}))
    return directory


@pytest.mark.parametrize("metrics", [None, ""])
def test_a_run_of_an_older_version_without_steps_is_recognized(untrained: Path, metrics: str | None) -> None:
    if metrics is not None:
        (untrained / "metrics.jsonl").write_text(metrics)
    for opened in (Run.load, lambda path: resolve_target(path, None), lambda path: evaluation_target(str(path), None)):
        with pytest.raises(RunError, match="was never trained: its fit took no step"):
            opened(untrained)


def test_a_lost_metrics_file_is_reported(student: Path, tmp_path: Path) -> None:
    run = SFTRecipe(
        student=str(student), tasks={"limit": 2}, output_dir=tmp_path / "run", train={"steps": 1, "batch_size": 2}
    ).fit()
    (run.directory / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match=r"metrics\.jsonl is missing"):
        Run.load(run.directory).training_log()
