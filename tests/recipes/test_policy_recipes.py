"""The methods that learn from their own rollouts: how they differ, where they start, when they stop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mentor_edge.errors import ConfigError, RewardError, RunError, StalledError
from mentor_edge.messages import Trajectory
from mentor_edge.recipes import (
    RECIPES,
    MentorRecipe,
    Recipe,
    Run,
    SFTRecipe,
    SparseRecipe,
    StrictRecipe,
    Training,
    base,
)
from mentor_edge.tasks.nano.suites import evaluation_suite, training_suite
from mentor_edge.tasks.types import Suite, Task

TRAIN = {"steps": 3, "prompts_per_step": 3, "rollouts_per_prompt": 4, "save_every": 2}
ONE_STEP = {**TRAIN, "steps": 1}


def settings(student: Path, directory: Path, **more: Any) -> dict[str, Any]:
    return {"student": str(student), "tasks": {"limit": 12}, "output_dir": directory, "train": TRAIN} | more


def adapter_of(run: Run) -> dict[str, Any]:
    return load_file(run.adapter / "adapter_model.safetensors")


@pytest.mark.slow
def test_rewards_are_the_only_difference_of_the_policy_methods(nano_student: Path, tmp_path: Path) -> None:
    """The students are the same, so the first step samples the same rollouts. Only the scores differ."""
    first: dict[str, Any] = {}
    kinds: dict[str, type[Recipe]] = {"mentor": MentorRecipe, "sparse": SparseRecipe, "strict": StrictRecipe}
    for name, kind in kinds.items():
        first[name] = kind(**settings(nano_student, tmp_path / name, train=ONE_STEP)).fit().training_log()[0]
    same = [row.model_dump(include={"accuracy", "calls", "sampled_tokens", "tokens"}) for row in first.values()]
    assert same[0] == same[1] == same[2] and same[0]["accuracy"] > 0
    assert len({row.reward for row in first.values()}) == 3


@pytest.mark.slow
def test_a_user_reward_is_added_and_its_failure_is_reported(
    nano_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_rewards.py").write_text(
        "def one(trajectory, task):\n    return 1.0\n\ndef broken(trajectory, task):\n    return 1 / 0\n"
    )
    monkeypatch.chdir(tmp_path)
    plain = MentorRecipe(**settings(nano_student, tmp_path / "plain", train=ONE_STEP)).fit().training_log()[0]
    extra = {"extra": [{"function": "own_rewards.one", "weight": 0.25}]}
    more = (
        MentorRecipe(**settings(nano_student, tmp_path / "more", reward=extra, train=ONE_STEP)).fit().training_log()[0]
    )
    assert more.reward == pytest.approx(plain.reward + 0.25)
    broken = {"extra": [{"function": "own_rewards.broken"}]}
    with pytest.raises(RewardError, match=r"the reward function broken raised ZeroDivisionError on task train-\d+"):
        MentorRecipe(**settings(nano_student, tmp_path / "broken", reward=broken)).fit()


@pytest.mark.slow
def test_training_continues_from_another_run(nano_student: Path, tmp_path: Path) -> None:
    sft = {**settings(nano_student, tmp_path / "sft"), "train": {"steps": 4, "batch_size": 4}}
    with pytest.raises(RunError, match="no run directory"):
        MentorRecipe(from_run=tmp_path / "sft", output_dir=tmp_path / "rl", tasks={"limit": 12}, train=TRAIN).fit()
    assert not (tmp_path / "rl").exists()
    first = SFTRecipe(**sft).fit()
    second = MentorRecipe(from_run=first.directory, output_dir=tmp_path / "rl", tasks={"limit": 12}, train=TRAIN).fit()
    assert second.student == str(first.merged())
    assert (second.merged() / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_learning_curve_is_measured_at_every_checkpoint(nano_student: Path, tmp_path: Path) -> None:
    suite = evaluation_suite({"id": 3, "comb": 2}, seed=9)
    for name, train in (("mentor", TRAIN), ("sft", {"steps": 3, "batch_size": 4, "save_every": 2})):
        recipe = RECIPES[name](**{**settings(nano_student, tmp_path / name), "train": train})
        recipe.fit(validation=suite)
        rows = [json.loads(line) for line in (tmp_path / name / "validation.jsonl").read_text().splitlines()]
        assert [(row["step"], row["n"]) for row in rows] == [(2, 5), (3, 5)]
        assert all(0 <= row["correct"] <= 5 for row in rows)


@pytest.mark.slow
def test_measuring_the_learning_curve_hardly_changes_the_training(nano_student: Path, tmp_path: Path) -> None:
    suite = evaluation_suite({"id": 3}, seed=9)
    without = MentorRecipe(**settings(nano_student, tmp_path / "without")).fit()
    measured = MentorRecipe(**settings(nano_student, tmp_path / "with")).fit(validation=suite)
    theirs = adapter_of(measured)
    assert all((value - theirs[name]).abs().max() < 1e-4 for name, value in adapter_of(without).items())


STALLING = {**TRAIN, "steps": 9, "stop_after_dead_steps": 2, "save_every": 1}


def test_a_training_that_cannot_learn_stops_and_reports_the_rewards(nano_student: Path, tmp_path: Path) -> None:
    """One token per turn is too short for an answer: every rollout is cut off and earns 0."""
    cut = {"rollout": {"tokens_per_turn": 1}, "train": STALLING}
    with pytest.raises(
        StalledError, match=r"stopped at step 2: in 2 steps .* 3 groups earned 0 \(truncated"
    ) as refused:
        MentorRecipe(**{**settings(nano_student, tmp_path / "run"), **cut}).fit()
    assert refused.value.hint is not None and "from_run" in refused.value.hint
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["zero_variance_groups"] for row in rows] == [3] * len(rows)
    (flat,) = rows[0]["flat_groups"]
    assert (flat["reward"], flat["reason"], len(flat["tasks"])) == (0, "truncated", 3)
    with pytest.raises(RunError, match="no finished run"):
        Run.load(tmp_path / "run")


def test_a_training_with_nothing_left_to_learn_finishes(nano_student: Path, tmp_path: Path) -> None:
    """Every rollout earns the maximum: the training is finished, not failed."""
    content = {"reward": {"weights": {"correct": 0, "wrong": 0}}, "train": STALLING}
    run = SparseRecipe(**{**settings(nano_student, tmp_path / "run"), **content}).fit()
    assert [row.step for row in run.training_log()] == [1, 2]
    assert Run.load(run.directory) == run and adapter_of(run)


def without_references(suite: Suite) -> Suite:
    bare = tuple(replace(task, reference=None) if i % 2 else task for i, task in enumerate(suite.tasks))
    return Suite(suite.name, suite.version, bare)


def test_only_methods_that_need_references_ask_for_them(
    nano_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "load_training_suite", lambda *_: without_references(training_suite(12)))
    for kind in (MentorRecipe, StrictRecipe, SFTRecipe):
        recipe = kind(**{**settings(nano_student, tmp_path / "no"), "train": {"steps": 1}})
        with pytest.raises(ConfigError, match=rf"no reference, which the method '{kind.name}' needs \(task train-1, "):
            recipe.fit()
    assert not (tmp_path / "no").exists()
    run = SparseRecipe(**settings(nano_student, tmp_path / "yes", train=ONE_STEP)).fit()
    assert run.tasks.used == 12


def test_all_unusable_tasks_are_refused_at_once(
    nano_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third, *rest = training_suite(6).tasks
    twice = replace(second, tools=(*second.tools, second.tools[0]))
    broken = (replace(first, tools=()), twice, replace(third, reference=None), *rest)
    monkeypatch.setattr(base, "load_training_suite", lambda *_: Suite("nano-train", "x", broken))
    with pytest.raises(ConfigError) as refused:
        MentorRecipe(**settings(nano_student, tmp_path / "run")).fit()
    assert len(refused.value.problems) == 3
    for expected in ("no tools are offered (task train-0)", f"the name {second.tools[0].name!r} (task train-1)"):
        assert any(expected in problem for problem in refused.value.problems)


@pytest.mark.slow
def test_several_references_and_the_shortest_of_them(nano_student: Path, tmp_path: Path) -> None:
    trained_on: dict[str, list[Task]] = {}

    class Recording(SFTRecipe):
        def train(self, job: Any) -> Training:
            trained_on[self.config.tasks.keep_references] = list(job.tasks)
            return super().train(job)

    for keep in ("all", "shortest"):
        tasks = {"limit": 12, "references": 4, "keep_references": keep, "teacher_noise": "heavy"}
        Recording(
            student=str(nano_student), output_dir=tmp_path / keep, tasks=tasks, train={"steps": 1, "batch_size": 2}
        ).fit()
    assert {len(task.references) for task in trained_on["all"]} == {4}
    assert {len(task.references) for task in trained_on["shortest"]} == {1}

    def length(reference: Trajectory) -> int:
        return len(reference.calls)

    for several, shortest in zip(trained_on["all"], trained_on["shortest"], strict=True):
        assert length(shortest.references[0]) == min(map(length, several.references))


def test_questions_are_the_same_under_every_noise() -> None:
    suites = [training_suite(30, noise=noise, references=n) for noise, n in (("clean", 1), ("heavy", 1), ("heavy", 4))]
    assert len({tuple(task.prompt[0].content for task in suite.tasks) for suite in suites}) == 1
    assert suites[1].tasks[7].reference == suites[2].tasks[7].reference
