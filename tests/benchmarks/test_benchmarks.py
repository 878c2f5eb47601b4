"""The benchmarks start, and the quick one runs at its smallest size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
HEAVY = ("parity", "rollout")  # they import torch, transformers and trl


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.stem, marks=pytest.mark.slow if path.stem in HEAVY else ())
        for path in sorted(BENCHMARKS.glob("*.py"))
    ],
)
def test_a_benchmark_explains_itself(name: str) -> None:
    assert f"python benchmarks/{name}.py" in run(name, "--help")


def test_every_benchmark_is_listed() -> None:
    page = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert all(f"`{path.name}`" in page for path in BENCHMARKS.glob("*.py"))


def test_our_judge_agrees_with_math_verify_on_a_few_answers() -> None:
    result = json.loads(run("rewards", "--items", "60", "--rounds", "1", "--json"))
    assert result["items"] == 60 and result["wrong_verdicts"]["ours"] <= result["wrong_verdicts"]["math_verify"]
    assert result["equal_verdicts"] + result["different_verdicts"] == result["defined_by_both"] > 30
