"""The quickstart from end to end in its smoke size; and (slow) the same summary after kills and in a second run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.command_line import run_command
from mentor_edge.agent import ToolAgent
from mentor_edge.evaluation.evaluate import Evaluation
from mentor_edge.files import sha256_of
from mentor_edge.tools.calculator import CALCULATOR

COMMAND = ("quickstart", "--smoke", "--out", "out")


def summary_of(directory: Path) -> Any:
    return json.loads((directory / "out" / "summary.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("quickstart")
    done = run_command(*COMMAND, "--json", cwd=directory, timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == summary_of(directory)
    return directory


def test_the_summary_has_the_promised_shape(finished: Path) -> None:
    summary = summary_of(finished)
    assert isinstance(summary["seed"], int) and summary["student"]["parameters"] < 1_000_000
    assert all(isinstance(seconds, float) for seconds in summary["seconds"].values())
    assert {"base", "traces", "sft", "mentor", "merge", "export", "conversation"} <= summary["seconds"].keys()
    assert summary["accuracy"].keys() == {"base", "sft", "mentor"}
    header = json.loads((finished / "out" / "evaluation-base.jsonl").read_text().splitlines()[0])["evaluation"]
    assert summary["suite"] == {"name": "nano", "version": header["version"], "sha256": header["sha256"]}
    assert "with 60 training tasks: of 140 tasks, 0 equal" in summary["overlap"]
    domains = {"para", "comb", "distract", "names", "long", "irrel", "lookup"}
    for accuracy in summary["accuracy"].values():
        assert accuracy["ood"].keys() == domains
        for counts in (accuracy["id"], *accuracy["ood"].values()):
            assert counts.keys() == {"n", "correct"} and 0 <= counts["correct"] <= counts["n"] > 0
    steps = summary["training"]["mentor"]
    assert [row["step"] for row in steps] == [1, 2, 3]
    assert all({"step", "reward", "accuracy", "zero_variance_groups"} == row.keys() for row in steps)
    wanted = {"format", "quant", "file", "bytes", "sha256", "verdict", "n", "delta", "ci", "malformed"}
    assert [file["quant"] for file in summary["artifacts"]] == ["q8_0", "q4_k_m", "f32", "q2_k"]
    for file in summary["artifacts"]:
        assert wanted <= file.keys() and file["ci"][0] <= file["delta"] <= file["ci"][1]


def test_figures_can_be_traced_to_files_and_items(finished: Path) -> None:
    summary, out = summary_of(finished), finished / "out"
    for file in summary["artifacts"]:
        path = out / "artifact" / file["file"]
        assert (path.stat().st_size, sha256_of(path)) == (file["bytes"], file["sha256"])
    for name, accuracy in summary["accuracy"].items():
        items = Evaluation.from_jsonl(out / f"evaluation-{name}.jsonl")
        assert items.counts(domain="id").model_dump() == accuracy["id"]
        assert items.counts(domain="comb").model_dump() == accuracy["ood"]["comb"]
    report = (out / "report.md").read_text()
    assert all((out / picture).stat().st_size > 5000 for picture in ("training.png", "gate.png") if picture in report)
    assert report.count(".png)") == 2


def test_weights_changed_and_survived_conversion(finished: Path) -> None:
    files = {file["quant"]: file for file in summary_of(finished)["artifacts"]}
    assert files["f32"]["flips"] == 0
    assert files["q2_k"]["bytes"] < files["q4_k_m"]["bytes"] < files["q8_0"]["bytes"] < files["f32"]["bytes"]
    base, merged = (finished / "out" / name / "model.safetensors" for name in ("base", "mentor/merged"))
    assert sha256_of(base) != sha256_of(merged)


def test_an_exported_file_answers_and_its_calls_are_executed(finished: Path) -> None:
    conversation = summary_of(finished)["conversation"]
    assert conversation["messages"][0]["role"] == "assistant"
    with ToolAgent.load(finished / "out" / conversation["file"], CALCULATOR) as agent:
        first, second = (agent.run("tom has 2 pens. tom gets 3 more. what is the result?") for _ in range(2))
    assert first == second and first.messages[0].role == "assistant"


def test_a_finished_quickstart_resumes_to_itself(finished: Path) -> None:
    before = summary_of(finished)
    started = time.monotonic()
    assert run_command(*COMMAND, "--resume", cwd=finished, timeout=120).returncode == 0
    assert summary_of(finished) == before and time.monotonic() - started < 60
    other = run_command(*COMMAND, "--resume", "--seed", "1", cwd=finished)
    assert other.returncode == 1 and "other settings" in other.stderr


def without_seconds(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key != "seconds"}


@pytest.mark.slow
def test_a_second_run_with_the_same_seed_gives_the_same_summary(finished: Path, tmp_path: Path) -> None:
    assert run_command(*COMMAND, cwd=tmp_path, timeout=600).returncode == 0
    assert without_seconds(summary_of(tmp_path)) == without_seconds(summary_of(finished))


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_summary(finished: Path, tmp_path: Path) -> None:
    moments, kills = random.Random(0), 0
    for attempt in range(30):
        resume = ["--resume"] if attempt else []
        child = subprocess.Popen(
            [sys.executable, "-m", "mentor_edge", *COMMAND, *resume], cwd=tmp_path, stderr=subprocess.DEVNULL
        )
        try:
            # Later attempts get longer, so that every stage is finished in the end.
            assert child.wait(timeout=moments.uniform(3, 14) + 2 * attempt) == 0
            break
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            kills += 1
    assert kills >= 3
    assert without_seconds(summary_of(tmp_path)) == without_seconds(summary_of(finished))
