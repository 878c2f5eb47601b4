"""Tasks files from the command line to training: `mentor-edge tasks validate`, and recipes that train on one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.command_line import run_command
from helpers.paths import DOCS, SERVERS
from helpers.task_rows import CALCULATORS, CALLS_ROW, ROW, changed, written
from mentor_edge.errors import ConfigError
from mentor_edge.recipes import MentorRecipe, SFTRecipe, recipe_from_yaml
from mentor_edge.tasks import jsonl

SERVER = SERVERS / "good.py"
DOCUMENT = DOCS / "tasks.md"


def command(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_command("tasks", *arguments, cwd=cwd)


def test_the_examples_of_the_document_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", document, re.DOTALL))
    (tmp_path / "my_tasks.jsonl").write_text(blocks["jsonl"], encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(blocks["yaml"], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert recipe_from_yaml("mine.yaml").config.tasks.path == Path("my_tasks.jsonl")
    names: dict[str, Any] = {}
    exec(blocks["python"], names)
    assert len(names["suite"].tasks) == 4
    done = command("validate", "my_tasks.jsonl", "--tools", "calculator", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    suite = jsonl.load(tmp_path / "my_tasks.jsonl", CALCULATORS)
    assert report == {
        "file": "my_tasks.jsonl",
        "sha256": suite.sha256,
        "tasks": 4,
        "references": 4,
        "failures": [],
    }
    assert "4 tasks, 4 references, 0 failures" in done.stderr
    for name in jsonl.ROW_SCHEMA["properties"]:
        assert f"| `{name}` |" in document


def test_validate_lists_every_reference_that_fails(tmp_path: Path) -> None:
    wrong_result = changed(ROW, "reference", 1, "content", to="6")
    two = changed(ROW, "reference") | {"id": "two", "references": [ROW["reference"], wrong_result["reference"]]}
    lost = changed(ROW, "reference") | {"id": "lost"}
    path = written(tmp_path / "mine.jsonl", ROW, wrong_result | {"id": "bad"})
    path.write_text(path.read_text() + "\n" + "".join(json.dumps(row) + "\n" for row in (two, lost)))
    done = command("validate", path, "--tools", "add", "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    wrong = 'add({"a": 2, "b": 3}) returns 5 instead of the recorded 6'
    assert json.loads(done.stdout)["failures"] == [
        {"line": 2, "id": "bad", "reference": 1, "reason": wrong},
        {"line": 4, "id": "two", "reference": 2, "reason": wrong},
        {"line": 5, "id": "lost", "reference": None, "reason": "no reference"},
    ]
    assert "instead of the recorded 6" in done.stderr and "4 tasks, 4 references, 3 failures" in done.stderr
    assert command("validate", path, "--tools", "add", "--limit", "1", cwd=tmp_path).returncode == 0


def test_tasks_with_accepted_calls_need_no_reference(tmp_path: Path) -> None:
    row = {"id": "calls", "messages": ROW["messages"], "tools": ["add"]}
    path = written(tmp_path / "mine.jsonl", row | {"accepted_calls": [{"name": "add", "arguments": {"a": 2, "b": 3}}]})
    done = command("validate", path, "--tools", "add", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 tasks, 0 references, 0 failures" in done.stderr or "1 task, 0 references, 0 failures" in done.stderr


def test_validate_executes_tools_with_a_state(tmp_path: Path) -> None:
    (tmp_path / "counting.py").write_text(
        "class Counter:\n    def __init__(self) -> None:\n        self.count = 0\n"
        '    def step(self) -> int:\n        "one more"\n        self.count += 1\n        return self.count\n'
    )
    step = {"role": "assistant", "tool_calls": [{"function": {"name": "step", "arguments": {}}}]}
    counts = [{"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}]
    row = ROW | {"tools": ["step"], "answer": "2"}
    good = [step, counts[0], step, counts[1], {"role": "assistant", "content": r"\boxed{2}"}]
    path = written(tmp_path / "mine.jsonl", *(row | {"id": name, "reference": good} for name in "ab"))
    done = command("validate", path, "--tools", "import:counting.py:Counter", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_validate_reports_a_wrong_file_or_tool_in_one_line(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.jsonl", ROW)
    for arguments, message in [
        ((path,), "tools[0]: tool 'add' has no implementation (known: none)"),
        (("none.jsonl",), "cannot read tasks from none.jsonl"),
        ((path, "--tools", "calculater"), "'calculater' is not a tool (did you mean 'calculator'?)"),
    ]:
        done = command("validate", *arguments, cwd=tmp_path)
        assert done.returncode == 1 and done.stdout == "" and "Traceback" not in done.stderr
        assert message in done.stderr


# Training


def test_configs_take_a_tasks_file_and_tools(tmp_path: Path) -> None:
    tasks = MentorRecipe(tasks="mine.jsonl").config.tasks
    assert (tasks.suite, tasks.path, tasks.tools) == ("jsonl", Path("mine.jsonl"), ())
    specs = ["calculator", {"mcp": "python server.py"}]
    assert MentorRecipe(tasks={"suite": "jsonl", "path": "x", "tools": specs}).config.tasks.tools == tuple(specs)
    assert MentorRecipe(tasks={"suite": "jsonl", "path": "x", "tools": "add"}).config.tasks.tools == ("add",)
    for settings_, message in [
        ({"suite": "jsonl"}, "tasks: suite jsonl needs a path"),
        ({"suite": "jsonl", "path": "x", "references": 2}, "tasks.references: suite jsonl has its own references"),
        ({"suite": "nano", "tools": ["add"]}, "tasks.tools: suite nano has its own tools"),
        ({"suite": "jsonl", "path": "x", "tools": ["ad", {"mpc": "x"}]}, "'ad' is not a tool .*; .*unknown key 'mpc'"),
        ({"suite": "jsonl", "path": "x", "tools": 5}, "tasks.tools: .*got 5"),
    ]:
        with pytest.raises(ConfigError, match=message) as refused:
            MentorRecipe(tasks=settings_)
        assert len(refused.value.problems) == 1


def test_a_student_is_trained_on_a_tasks_file_with_the_tools_of_a_server(nano_student: Path, tmp_path: Path) -> None:
    pytest.importorskip("mcp")
    (tmp_path / "server.py").write_text(
        "import os, runpy\n"
        f"open({str(tmp_path / 'started')!r}, 'a').write(f'{{os.getpid()}} ')\n"
        f"runpy.run_path({str(SERVER)!r}, run_name='__main__')\n"
    )
    rows = [changed(ROW, "id", to=name) for name in ("a", "b")]
    path = written(tmp_path / "sums.jsonl", *rows, changed(ROW, "reference", 1, "content", to="6"))
    recipe = MentorRecipe(
        student=str(nano_student),
        output_dir=tmp_path / "run",
        tasks={"suite": "jsonl", "path": path, "tools": [{"mcp": f"{sys.executable} {tmp_path / 'server.py'}"}]},
        train={"steps": 1, "prompts_per_step": 2, "rollouts_per_prompt": 2, "save_every": 1},
    )
    run = recipe.fit()
    assert (run.tasks.suite, run.tasks.used, run.tasks.rejected) == ("sums", 2, 1)
    assert "returns 5 instead of the recorded 6" in (tmp_path / "run" / "rejected.jsonl").read_text()
    (server,) = (tmp_path / "started").read_text().split()  # one server for references and rollouts; it has ended
    with pytest.raises(ProcessLookupError):
        os.kill(int(server), 0)


def test_methods_that_learn_from_answers_refuse_tasks_that_are_scored_on_calls(
    nano_student: Path, tmp_path: Path
) -> None:
    path = written(tmp_path / "mine.jsonl", CALLS_ROW)
    settings_ = {"student": str(nano_student), "tasks": str(path), "output_dir": tmp_path / "run"}
    with pytest.raises(ConfigError, match=r"no accepted answer, which the method 'mentor' needs \(task rain\)"):
        MentorRecipe(**settings_).fit()
    run = SFTRecipe(**settings_, train={"steps": 1, "batch_size": 1}).fit()
    assert run.tasks.used == 1
