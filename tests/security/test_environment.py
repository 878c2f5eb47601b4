"""Odd environments: streams that are closed, no home, no room, no docstrings, another user."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from helpers.paths import ROOT
from mentor_edge.errors import OutputError, ToolDefinitionError
from mentor_edge.files import cache_directory

PROGRAM = f"'{sys.executable}' -m mentor_edge"


@dataclass(frozen=True)
class Odd:
    """A command line of a shell in an odd environment."""

    line: str
    code: int
    error: str = ""
    """What standard error contains, if it is not closed."""
    environment: dict[str, str] = field(default_factory=dict)


# {} is `mentor-edge`.
ATTACKS = {
    "no standard error": Odd("{} verify nowhere 2>&-", 1),
    "no standard error for a success": Odd("{} tasks validate tasks.jsonl --tools add 2>&-", 0),
    "no standard output": Odd("{} verify nowhere >&-", 1, "is not an artifact"),
    "no standard output for --json": Odd(
        "{} tasks validate tasks.jsonl --tools add --json >&-", 1, "standard output is closed"
    ),
    "no stream at all": Odd("{} verify nowhere <&- >&- 2>&-", 1),
    "no standard input": Odd("{} verify nowhere <&-", 1, "is not an artifact"),
    "a broken pipe": Odd("{ {} --help; echo $? >code; } | true; grep -qx '[01]' code", 0),
    "a broken pipe for errors": Odd("{ {} verify nowhere; } 2>&1 | true", 0),
    "no docstrings": Odd("{} verify nowhere", 1, "unset PYTHONOPTIMIZE", {"PYTHONOPTIMIZE": "2"}),
    "no asserts": Odd("{} tasks validate tasks.jsonl --tools add", 0, "0 failures", {"PYTHONOPTIMIZE": "1"}),
    "ASCII only": Odd(
        "{} tasks validate tasks.jsonl --tools add --json", 0, "0 failures", {"PYTHONIOENCODING": "ascii"}
    ),
    "the C locale": Odd("{} verify größe", 1, "is not an artifact", {"LC_ALL": "C", "PYTHONUTF8": "0"}),
    "a dumb terminal": Odd("{} verify nowhere", 1, "is not an artifact", {"TERM": "dumb"}),
    "one column": Odd("{} verify nowhere", 1, "is not an artifact", {"COLUMNS": "1", "LINES": "1"}),
    "no columns": Odd("{} verify nowhere", 1, "error:", {"COLUMNS": "0"}),
    "columns that are none": Odd("{} verify nowhere", 1, "is not an artifact", {"COLUMNS": "\x1b[2J"}),
    "forced colours": Odd("{} verify nowhere", 1, "is not an artifact", {"FORCE_COLOR": "1"}),
    "no home": Odd("unset HOME; {} verify nowhere", 1, "is not an artifact"),
    "no variables": Odd(f"env -i {PROGRAM} verify nowhere", 1, "is not an artifact"),
    "a directory that is gone": Odd("mkdir gone; cd gone; rmdir ../gone; {} verify nowhere", 1, "error:"),
}


def run(odd: Odd, cwd: Path) -> subprocess.CompletedProcess[str]:
    row = {
        "id": "größe",
        "messages": [{"role": "user", "content": "1 + 2?"}],
        "tools": ["add"],
        "answer": "3",
        "reference": [
            {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1, "b": 2}}}]},
            {"role": "tool", "content": "3"},
            {"role": "assistant", "content": r"\boxed{3}"},
        ],
    }
    (cwd / "tasks.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **odd.environment}
    return subprocess.run(
        ["/bin/bash", "-c", odd.line.replace("{}", PROGRAM)],
        cwd=cwd, env=environment, capture_output=True, text=True, errors="replace", timeout=60,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_a_command_says_what_it_needs(name: str, tmp_path: Path) -> None:
    odd = ATTACKS[name]
    done = run(odd, tmp_path)
    assert done.returncode == odd.code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    assert odd.error in " ".join(done.stderr.split()), done.stderr
    if odd.line.endswith("--json"):
        assert json.loads(done.stdout)["tasks"] == 1


def test_a_closed_stream_is_opened_so_that_no_file_gets_its_number(tmp_path: Path) -> None:
    from mentor_edge.cli.app import _open_closed_streams

    child = os.fork()
    if child == 0:
        os.close(2)
        _open_closed_streams()
        os._exit(0 if os.open(tmp_path, os.O_RDONLY) > 2 and os.readlink("/proc/self/fd/2") == "/dev/null" else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_tool_without_docstring_names_the_reason() -> None:
    code = "from mentor_edge import tool\ndef f(a: int) -> int:\n    'd'\n    return a\ntool(f)"
    done = subprocess.run([sys.executable, "-OO", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ToolDefinitionError.__name__ in done.stderr and "unset PYTHONOPTIMIZE" in done.stderr


def test_a_user_without_a_home_reads_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MENTOR_EDGE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(OutputError, match="no home directory") as caught:
        cache_directory()
    assert "MENTOR_EDGE_CACHE" in str(caught.value)


@pytest.mark.slow
def test_a_lock_has_hashes_and_no_address_and_pip_accepts_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, ROOT / ".ci" / "lock.py", "rich"], capture_output=True, text=True)
    if "No matching distribution" in done.stderr or "Could not find a version" in done.stderr:
        pytest.skip("pip cannot reach a package index")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("rich==") for line in lines)
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+ --hash=sha256:[0-9a-f]{64}", line) for line in lines), lines
    for text, code in ((done.stdout, 0), (re.sub("sha256:....", "sha256:0000", done.stdout), 1)):
        (tmp_path / "requirements.lock").write_text(text)
        checked = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--require-hashes", "--no-deps",
             "-r", tmp_path / "requirements.lock"],
            capture_output=True, text=True,
        )  # fmt: skip
        assert checked.returncode == code, checked.stderr
