"""The examples run as a newcomer would run them, at their smallest size."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from helpers.command_line import run_script
from helpers.paths import ROOT
from helpers.tiny_models import make_student
from mentor_edge.export.gguf.convert import convert

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, with room for the long prompts that its template makes of tool schemas."""
    directory = make_student(tmp_path_factory.mktemp("student"))
    config = directory / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 4096}))
    return directory


def run_example(name: str, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return run_script(EXAMPLES / name, *arguments, cwd=folder)


def test_every_example_is_tested() -> None:
    tested = set(re.findall(r'run_example\("(\w+\.py)"', Path(__file__).read_text(encoding="utf-8")))
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


@pytest.mark.slow
def test_fit_and_export(student: Path, tmp_path: Path) -> None:
    sizes = ("--steps", 1, "--tasks", 12, "--gate-tasks", 2, "--quant", "f32")
    done = run_example("fit_and_export.py", "--student", student, *sizes, folder=tmp_path)
    assert done.returncode == 4, done.stderr  # a student that solves nothing has nothing to lose
    assert "after 1 steps: mean reward" in done.stdout and "not shipped: gguf f32" in done.stdout
    assert (tmp_path / "runs/example/artifact/refused/model-f32.gguf").is_file()


def test_own_tools_and_tasks(student: Path, tmp_path: Path) -> None:
    done = run_example("own_tools_and_tasks.py", "--model", student, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "3 of 3 references are valid"
    assert [line.partition(":")[0] for line in lines[1:]] == ["pens", "lamp", "thanks", "shop_tasks", "no-call"]
    assert lines[4] == "shop_tasks: 0 of 2 right"


def test_agent_on_a_file(student: Path, tmp_path: Path) -> None:
    convert(student, tmp_path / "model.gguf")
    done = run_example("agent_on_a_file.py", "model.gguf", "what is 2 plus 3?", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("answer: None (")


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    done = run_example("agent_on_a_file.py", folder=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "runs/quickstart/artifact/model-q8_0.gguf" in done.stderr
