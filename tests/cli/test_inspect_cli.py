"""`mentor-edge inspect` as it is typed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from helpers.changed_templates import NOTED, REFUSED
from helpers.command_line import run_command
from helpers.tiny_models import make_student


def inspect(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = run_command("inspect", *arguments, cwd=Path.cwd())
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student") / "model", num_hidden_layers=1)


def with_template(student: Path, source: str) -> Path:
    (student / "chat_template.jinja").write_text(source)
    return student


def test_the_page_shows_what_reaches_the_model_and_what_to_do_next(student: Path) -> None:
    done = inspect(student, "--json")
    assert done.returncode == 0, done.stderr
    for words in (
        "Qwen3ForCausalLM", "512 tokens", "<|im_end|>", "offered tools", "✓", '{"name": "marker_first"',
        f"next: mentor-edge evaluate {student}",
    ):  # fmt: skip
        assert words in done.stderr
    report = json.loads(done.stdout)
    assert report["usable"] and report["target"] == str(student) and report["train"]["ability"] == "yes"


def test_a_student_that_would_be_refused_exits_with_1_and_a_hint(student: Path) -> None:
    own = (student / "chat_template.jinja").read_text()
    done = inspect(with_template(student, REFUSED["calls"]))
    assert done.returncode == 1
    assert "✗ dropped" in done.stderr and "it drops tool calls" in done.stderr and "template: hermes" in done.stderr
    noted = inspect(with_template(student, NOTED["one call only"]))
    assert noted.returncode == 0 and "refused: single calls only" in noted.stderr
    with_template(student, own)


def test_what_cannot_be_inspected_is_one_line(student: Path, tmp_path: Path) -> None:
    (tmp_path / "short.gguf").write_bytes(b"GGUF\x03\x00")
    for target, words in {
        tmp_path / "nowhere": "there is no file or directory",
        tmp_path: "config.json is missing",
        tmp_path / "short.gguf": "it is truncated or damaged",
    }.items():
        done = inspect(target)
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr and len(done.stderr.splitlines()) <= 2
    (student / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    done = inspect(student)
    assert done.returncode == 1 and "has no tokenizer" in done.stderr
