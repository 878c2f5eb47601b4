"""Comparing methods: plans checked as a whole, cells that survive a kill, figures that come from the cells alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.paths import ROOT
from mentor_edge.errors import ConfigError, OutputError, RunError, TaskError
from mentor_edge.recipes import MentorWeights, SparseWeights
from mentor_edge.recipes.comparison.comparison import Comparison
from mentor_edge.recipes.comparison.files import read_comparison, write_comparison
from mentor_edge.recipes.comparison.plan import METHODS, ComparisonPlan
from mentor_edge.recipes.comparison.run import compare

NANO_COMPARE = ROOT / "recipes" / "configs" / "nano-compare.yaml"
QUICK: dict[str, Any] = {
    "recipe": "mentor",
    "tasks": {"limit": 12, "teacher_noise": "mild"},
    "train": {"steps": 4, "prompts_per_step": 2, "rollouts_per_prompt": 4},
    "compare": {"evaluation": {"suite": "nano", "limit": 2}},
}


def write(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def config(tmp_path: Path, nano_student: Path) -> Path:
    return write(tmp_path / "quick.yaml", {**QUICK, "student": str(nano_student)})


def settings_of(plan: ComparisonPlan, method: str) -> list[Any]:
    cell = next(cell for cell in plan.cells() if cell.method == method)
    return [
        plan.recipe(cell, stage, start={"student": "nano"}, output_dir=Path("x")).config
        for stage in range(len(cell.stages))
    ]


def test_every_method_starts_at_the_same_base_with_the_same_data_and_updates(config: Path) -> None:
    plan = ComparisonPlan.read(config, methods=[*METHODS, "sft+mentor"], seeds=2, teacher_noise=["clean", "heavy"])
    cells = list(plan.cells())
    assert len({cell.key for cell in cells}) == len(cells)
    for cell in cells:
        stages = [
            plan.recipe(cell, i, start={"student": "nano"}, output_dir=Path("x")).config
            for i in range(len(cell.stages))
        ]
        assert sum(stage.train.steps for stage in stages) == (0 if cell.method == "base" else 4)
        for stage in stages:
            assert (stage.seed, stage.tasks.limit) == (cell.seed, 12)
            assert cell.teacher_noise in (None, stage.tasks.teacher_noise)
    counts = {method: sum(cell.method == method for cell in cells) for method in ("base", "sparse", "sft", "mentor-f1")}
    assert counts == {"base": 1, "sparse": 2, "sft": 4, "mentor-f1": 4}  # sparse has no teacher: one for all noises


def test_methods_differ_as_their_names_say(config: Path) -> None:
    plan = ComparisonPlan.read(config, methods=["mentor-calls", "calls-minimal", "mentor-refs", "sft+strict", "sft"])
    (calls,), (minimal,), (several,) = (
        settings_of(plan, method) for method in ("mentor-calls", "calls-minimal", "mentor-refs")
    )
    assert (calls.reward.matching, calls.tasks.references) == ("calls", 1)
    assert (minimal.reward.matching, minimal.tasks.references, minimal.tasks.keep_references) == (
        "calls",
        4,
        "shortest",
    )
    assert (several.reward.matching, several.tasks.references, several.tasks.keep_references) == ("set", 4, "all")
    first, second = settings_of(plan, "sft+strict")
    assert (first.recipe, second.recipe) == ("sft", "strict")
    # A learning rate for policy gradients is not one for imitation.
    assert settings_of(plan, "sft")[0].train.batch_size == 64


def test_the_shipped_comparison_overrides_methods_by_name(tmp_path: Path) -> None:
    values = yaml.safe_load(NANO_COMPARE.read_text())
    values["compare"]["methods"] = {"sft": {"train": {"learning_rate": 0.5}}, "mine": {"recipe": "sparse"}}
    plan = ComparisonPlan.read(write(tmp_path / "own.yaml", values))
    assert settings_of(plan, "sft")[0].train.learning_rate == 0.5
    assert settings_of(plan, "mine")[0].recipe == "sparse"
    assert plan.bases == ("nano@0", "nano-broad@0")


def test_all_mistakes_of_a_plan_are_reported_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path / "bad.yaml",
        {**QUICK, "compare": {"evaluation": {"suite": "chess"}, "colour": "red", "methods": {"mine": {"recipe": "x"}}}},
    )
    with pytest.raises(ConfigError) as refused:
        ComparisonPlan.read(path, methods=["sft", "dpo", "mine"], seeds=99, teacher_noise=["loud"])
    problems = "\n".join(refused.value.problems)
    for expected in (
        "compare.colour: unknown key",
        "method 'dpo' is unknown (known: sft, sparse",
        "method 'mine' is unknown",
        "seeds: expected a number from 1 to 10, got 99",
        "teacher noise 'loud'",
        "compare.evaluation",
    ):
        assert expected in problems
    wrong = write(tmp_path / "wrong.yaml", {**QUICK, "lora": {"rank": 0}, "train": {"steps": 4, "learn_rate": 1}})
    with pytest.raises(ConfigError) as refused:
        ComparisonPlan.read(wrong, methods=["mentor", "sparse"])
    assert [problem.split(":")[0] for problem in refused.value.problems] == ["lora.rank", "train.learn_rate"]
    own = {
        **QUICK,
        "compare": {"methods": {"sft": {"train": {"batch_size": 0}}, "mentor": {"reward": {"matching": 3}}}},
    }
    with pytest.raises(ConfigError) as refused:
        ComparisonPlan.read(write(tmp_path / "own.yaml", own))
    assert [problem.split(":")[:2] for problem in refused.value.problems] == [
        ["mentor", " reward.matching"],
        ["sft", " train.batch_size"],
    ]


def test_other_suites_must_name_their_evaluation_suite(tmp_path: Path) -> None:
    gsm8k = {"recipe": "mentor", "tasks": {"suite": "gsm8k", "path": "tasks.jsonl"}}
    with pytest.raises(ConfigError, match=r"compare\.evaluation: name what to measure on") as refused:
        ComparisonPlan.read(write(tmp_path / "g.yaml", gsm8k), teacher_noise=["mild"])
    assert "setting of the nano tasks" in str(refused.value)
    complete = {**gsm8k, "compare": {"evaluation": {"suite": "gsm8k", "data": "dev.jsonl", "limit": 5}}}
    plan = ComparisonPlan.read(write(tmp_path / "g.yaml", complete), methods=["sft", "sparse"], seeds=1)
    assert [cell.key for cell in plan.cells()] == ["nano-base", "nano-sft-seed0", "nano-sparse-seed0"]
    with pytest.raises(TaskError, match=r"dev\.jsonl"):
        compare(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_extra_rewards_apply_to_every_method_and_weights_only_to_their_own(tmp_path: Path) -> None:
    own = {**QUICK, "reward": {"weights": {"correct": 0.5}, "extra": [{"function": "operator.eq", "weight": 0.1}]}}
    plan = ComparisonPlan.read(write(tmp_path / "own.yaml", own), methods=["mentor-f1", "sparse"])
    (mentor,), (sparse,) = settings_of(plan, "mentor-f1"), settings_of(plan, "sparse")
    assert (mentor.reward.matching, mentor.reward.weights) == ("f1", MentorWeights(correct=0.5))
    assert sparse.reward.weights == SparseWeights() and len(mentor.reward.extra) == len(sparse.reward.extra) == 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, nano_student: Path) -> tuple[ComparisonPlan, Path, Comparison]:
    directory = tmp_path_factory.mktemp("comparison")
    config = write(directory / "quick.yaml", {**QUICK, "student": str(nano_student)})
    plan = ComparisonPlan.read(config, methods=["sft+mentor"], seeds=1)
    reports: list[tuple[int, int]] = []
    summary = compare(plan, directory / "out", progress=lambda stage, done, total: reports.append((done, total)))
    assert reports[0] == (0, 4) and reports[-1] == (4, 4)
    return plan, directory / "out", summary


@pytest.mark.slow
def test_a_comparison_trains_evaluates_and_accounts_for_every_cell(finished: Any) -> None:
    _, out, summary = finished
    assert json.loads((out / "comparison.json").read_text()) == json.loads(json.dumps(summary.to_json()))
    assert summary.methods == ("base", "sft+mentor")
    cells = {cell.method: cell for cell in summary.cells}
    assert {split: len(bits) for split, bits in cells["base"].right.items()} == dict.fromkeys(
        ("id", "para", "comb", "distract", "names", "long", "irrel", "lookup"), 2
    )
    trained = cells["sft+mentor"]
    assert trained.updates == 4 and trained.cpu_seconds > 0
    assert cells["base"].rollout_tokens == 0 < trained.rollout_tokens < trained.tokens
    assert [step for step, _ in trained.curve] == [1, 2, 3, 4]
    assert not list(out.glob("cells/*/stage-*/checkpoints"))
    lineage = json.loads((out / "cells" / cells_key(out, "sft+mentor") / "stage-1" / "run.json").read_text())
    assert lineage["student"].endswith("stage-0/merged")


def cells_key(out: Path, method: str) -> str:
    return next(path.name for path in (out / "cells").iterdir() if f"-{method}-" in path.name)


@pytest.mark.slow
def test_finished_cells_are_kept_and_a_comparison_can_grow(finished: Any, nano_student: Path, tmp_path: Path) -> None:
    plan, out, summary = finished
    with pytest.raises(OutputError, match="--resume"):
        compare(plan, out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/result.json")}
    assert compare(plan, out, resume=True) == summary
    config = write(tmp_path / "quick.yaml", {**QUICK, "student": str(nano_student)})
    grown = ComparisonPlan.read(config, methods=["sft+mentor", "strict"], seeds=1)
    assert compare(grown, out, resume=True).methods[-1] == "strict"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    other = write(tmp_path / "other.yaml", {**QUICK, "student": str(nano_student), "lora": {"rank": 4}})
    with pytest.raises(ConfigError, match="was made with other settings"):
        compare(ComparisonPlan.read(other, methods=["sft+mentor"], seeds=1), out, resume=True)


@pytest.mark.slow
def test_a_killed_comparison_resumes(config: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mentor_edge",
        "compare",
        str(config),
        "--methods",
        "sparse,mentor",
        "--seeds",
        "1",
        "--out",
        "out",
    ]
    child = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob("cells/*-sparse-*/stage-0/checkpoints/*/complete")):
        assert child.poll() is None, child.stderr.read() if child.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
    assert not list(tmp_path.glob("out/cells/*-sparse-*/result.json"))
    done = subprocess.run([*command, "--resume", "--json"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert [cell["method"] for cell in summary["cells"]] == ["base", "sparse", "mentor"]
    assert all(cell["updates"] == 4 for cell in summary["cells"][1:])
    assert {path.name for path in (tmp_path / "out").glob("comparison*")} == {
        "comparison",
        "comparison.json",
        "comparison.md",
        "comparison.html",
    }


@pytest.mark.slow
def test_a_report_follows_from_the_json_alone_and_refuses_other_figures(finished: Any, tmp_path: Path) -> None:
    _, out, _ = finished
    source = out / "comparison.json"
    first = write_comparison(read_comparison(source), tmp_path / "a")
    again = write_comparison(read_comparison(source), tmp_path / "b")
    assert [path.name for path in first] == [path.name for path in again]
    assert first[0].read_text() == again[0].read_text()
    values = json.loads(source.read_text())
    values["accuracy"][0]["estimate"] += 0.1
    forged = tmp_path / "forged.json"
    forged.write_text(json.dumps(values))
    with pytest.raises(RunError, match="do not follow from its cells"):
        read_comparison(forged)
    forged.write_text("{")
    with pytest.raises(RunError, match="is not a comparison"):
        read_comparison(forged)
    with pytest.raises(RunError, match="cannot read"):
        read_comparison(tmp_path / "none.json")


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(config: Path, tmp_path: Path) -> None:
    """Otherwise they would keep writing to the directories of a resumed comparison."""
    command = [
        sys.executable,
        "-m",
        "mentor_edge",
        "compare",
        str(config),
        "--methods",
        "mentor",
        "--set",
        "train.steps=400",
    ]
    child = subprocess.Popen([*command, "--out", "out"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "out" / "cells"
    deadline = time.monotonic() + 120
    while not list(metrics.glob("*/stage-0/metrics.jsonl")):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    child.kill()
    child.wait()
    time.sleep(1)
    (log,) = metrics.glob("*/stage-0/metrics.jsonl")
    size = log.stat().st_size
    time.sleep(2)
    assert log.stat().st_size == size
