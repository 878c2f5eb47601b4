"""Hostile chat templates through commands: in a model's directory, and inside a GGUF file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.gguf_files import make_f32
from helpers.tiny_models import TEMPLATE
from mentor_edge import inspect_student
from mentor_edge.errors import MentorEdgeError
from mentor_edge.inspection.student_report import Ability

ATTACKS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a power": "{{ 9 ** (9 ** 9) }}",
    "string doubling": "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "too long": TEMPLATE + "{# " + "x" * (1 << 20) + " #}",
    "only with results": TEMPLATE + "{% if messages[-1].role == 'tool' %}{{ 'x' * 10 ** 10 }}{% endif %}",
    "slow for every message": TEMPLATE + "{% for a in range(30) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
}
LIMIT = 60.0
"""Seconds of a command on a loaded machine. Alone, none takes ten."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("student") / "model"
    make_f32(path)
    return path


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MENTOR_EDGE_TEMPLATE_SECONDS", "0.3")


def with_template(directory: Path, source: str, target: Path) -> Path:
    path = Path(shutil.copytree(directory, target, ignore=shutil.ignore_patterns("*.gguf")))
    (path / "chat_template.jinja").write_text(source)
    return path


@pytest.mark.parametrize("name", ATTACKS)
def test_a_directory_is_inspected(name: str, directory: Path, tmp_path: Path) -> None:
    model, started = with_template(directory, ATTACKS[name], tmp_path / "model"), time.monotonic()
    try:
        report = inspect_student(model)
        problem = report.train.reason if report.train.ability is Ability.NO else ""
    except MentorEdgeError as error:
        problem = error.problem
    assert "chat template" in problem
    assert time.monotonic() - started < LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("command", ["inspect", "run"])
@pytest.mark.parametrize("name", ATTACKS)
def test_a_gguf_file_is_opened(name: str, command: str, directory: Path, tmp_path: Path) -> None:
    from mentor_edge.export.gguf.convert import convert

    model = with_template(directory, ATTACKS[name], tmp_path / "model")
    convert(model, tmp_path / "model.gguf")
    line = [sys.executable, "-m", "mentor_edge", command, str(tmp_path / "model.gguf")]
    line += ["Why?"] if command == "run" else []
    started = time.monotonic()
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr
    assert "template" in done.stdout + done.stderr
    assert time.monotonic() - started < LIMIT
