"""What a finished run records about its training: the tasks, from its config.yaml, and run.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.paths import DATA
from mentor_edge.errors import ConfigError, RunError, TaskError
from mentor_edge.recipes import MentorRecipe, Recipe, Run, SFTRecipe, TaskCounts
from mentor_edge.recipes.run_record import Training
from mentor_edge.recipes.schedule import Coverage
from mentor_edge.recipes.training_tasks import tasks_trained_on
from mentor_edge.tasks import gsm8k
from mentor_edge.tasks.nano.suites import training_suite

EXCERPT = DATA / "gsm8k_excerpt.jsonl"


def configured(recipe: Recipe) -> Path:
    """The directory of a run with its config.yaml, as `fit` writes it."""
    directory = recipe.config.output_dir
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(recipe.config.model_dump(mode="json")))
    return directory


def test_the_tasks_are_those_of_the_config(tmp_path: Path) -> None:
    noisy = MentorRecipe(output_dir=tmp_path / "a", seed=3, tasks={"limit": 5, "teacher_noise": "heavy"})
    assert tasks_trained_on(configured(noisy)) == list(training_suite(5, seed=3, noise="heavy").tasks)
    read = SFTRecipe(output_dir=tmp_path / "b", tasks={"suite": "gsm8k", "path": EXCERPT, "limit": 4})
    assert [task.id for task in tasks_trained_on(configured(read))] == [t.id for t in gsm8k.load(EXCERPT).tasks[:4]]


def test_a_run_that_continues_others_was_trained_on_their_tasks_too(tmp_path: Path) -> None:
    first = configured(SFTRecipe(output_dir=tmp_path / "first", seed=1, tasks={"limit": 2}))
    second = configured(
        SFTRecipe(output_dir=tmp_path / "second", from_run=first, tasks={"suite": "gsm8k", "path": EXCERPT, "limit": 1})
    )
    third = configured(MentorRecipe(output_dir=tmp_path / "third", from_run=second, seed=2, tasks={"limit": 3}))
    expected = [
        *training_suite(2, seed=1).tasks,
        *gsm8k.load(EXCERPT).tasks[:1],
        *training_suite(3, seed=2).tasks,
    ]
    assert [task.prompt for task in tasks_trained_on(third)] == [task.prompt for task in expected]
    assert Run(third, "mentor", "nano", 2, COUNTS, 1.0).training_suite().tasks == tuple(tasks_trained_on(third))


@pytest.mark.parametrize(
    ("damage", "error", "problem"),
    [
        ("tasks: {limit: 5}", RunError, r"config\.yaml is damaged: Field required"),
        ("seed: 1\ntasks: {limit: many}\nlora: {}", RunError, "damaged: Input should be a valid integer"),
        ("seed: 1\ntasks: {speed: 5}\nlora: {}", RunError, "damaged: Extra inputs are not permitted"),
        (
            "seed: 1\ntasks: {suite: gsm8k, path: gone.jsonl}\nlora: {}",
            TaskError,
            r"cannot read tasks from gone\.jsonl",
        ),
        ("seed: [1", ConfigError, r"config\.yaml is not YAML"),
        ("- seed", ConfigError, "contains list, not a mapping"),
        (None, ConfigError, r"cannot read .*config\.yaml: No such file"),
    ],
)
def test_a_damaged_config_is_an_error(tmp_path: Path, damage: str | None, error: Any, problem: str) -> None:
    if damage is not None:
        (tmp_path / "config.yaml").write_text(damage)
    with pytest.raises(error, match=problem):
        tasks_trained_on(tmp_path)


def test_a_run_to_continue_from_that_is_gone_is_an_error(tmp_path: Path) -> None:
    directory = configured(MentorRecipe(output_dir=tmp_path / "a", from_run=tmp_path / "gone", tasks={"limit": 1}))
    with pytest.raises(ConfigError, match=r"cannot read .*gone/config\.yaml"):
        tasks_trained_on(directory)


def test_the_adapter_of_the_config_is_read(tmp_path: Path) -> None:
    for base, in_4_bit in (("nf4", True), ("full", False)):
        directory = configured(MentorRecipe(output_dir=tmp_path / base, lora={"base": base}))
        assert Run(directory, "mentor", "nano", 0, COUNTS, 1.0).trained_in_4_bit is in_4_bit


# run.json

COUNTS = TaskCounts(suite="nano-train", sha256="ab", used=12, rejected=1)


def test_a_run_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    coverage = Coverage(unit="tasks", available=12, per_step=6, steps=2)
    run = Run(tmp_path, "mentor", "nano", 3, COUNTS, 1.5, "identity", Training(steps=2, planned=2, coverage=coverage))
    run.save()
    assert Run.load(tmp_path) == run
    assert json.loads((tmp_path / "run.json").read_text()) == {
        "version": 1,
        "recipe": "mentor",
        "student": "nano",
        "seed": 3,
        "tasks": {"suite": "nano-train", "sha256": "ab", "used": 12, "rejected": 1},
        "seconds": 1.5,
        "base_identity": "identity",
        "training": {"steps": 2, "planned": 2, "solved": False, "coverage": coverage.model_dump()},
        "template": None,
        "dequantized": None,
    }


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"version": 2, "new": "key"}, "has version 2; this program reads version 1"),
        ({"version": None}, "is damaged: version: Input should be a valid integer"),
        ({"seed": "one"}, "is damaged: seed: Input should be a valid integer"),
        ({"tasks": {"suite": "nano-train"}}, r"is damaged: tasks\.sha256: Field required"),
        ({"colour": 1}, "is damaged: colour: Extra inputs are not permitted"),
    ],
)
def test_a_damaged_run_is_an_error(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    Run(tmp_path, "mentor", "nano", 3, COUNTS, 1.5).save()
    path = tmp_path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RunError, match=problem):
        Run.load(tmp_path)
