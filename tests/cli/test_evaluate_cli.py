"""`mentor-edge evaluate` as a user meets it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.command_line import run_command, start_command
from helpers.endpoint_server import KEY, Answer, completion, refusal, scripted, serving
from helpers.paths import DATA
from helpers.scripted_engine import call_text
from helpers.tiny_models import make_student
from mentor_edge.engines.open import identity_of
from mentor_edge.evaluation.evaluate import Evaluation

BFCL = DATA / "bfcl"


def run(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"} | environment
    done = run_command("evaluate", *arguments, cwd=cwd, environment=variables)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student") / "qwen3")


@pytest.fixture(scope="module")
def gguf(student: Path) -> Path:
    from mentor_edge.export.gguf.convert import convert

    path = student.parent / "tiny.gguf"
    convert(student, path)
    return path


def test_a_directory_is_measured_in_torch(tmp_path: Path, student: Path) -> None:
    done = run(student, "--limit", "1", "--items", "items.jsonl", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    evaluation = Evaluation.from_jsonl(tmp_path / "items.jsonl")
    assert len(evaluation.outcomes) == 8
    assert json.loads(done.stdout)["identity"] == evaluation.identity == identity_of(student)


def test_a_file_is_measured_once_and_reported(tmp_path: Path, gguf: Path) -> None:
    done = run(gguf, "--limit", "2", "--json", "--report", "out/report.md", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    evaluation = Evaluation.from_jsonl(tmp_path / result["items"])
    assert result["n"] == len(evaluation.outcomes) == 16
    assert result["identity"] == evaluation.identity == identity_of(gguf)
    assert result["splits"] == json.loads(json.dumps(evaluation.to_json()))["splits"] and "correct" not in result
    assert f"rows: {result['items']}" in done.stderr and evaluation.sha256 in done.stderr
    text = (tmp_path / "out" / "report.md").read_text()
    assert evaluation.sha256 in text and evaluation.identity in text
    assert "| ood: irrel | 2 |" in text and "(report.png)" in text
    assert (tmp_path / "out" / "report.png").read_bytes().startswith(b"\x89PNG")

    again = run(gguf, "--limit", "2", "--json", cwd=tmp_path)
    assert "measured before; use --again to measure it again" in again.stderr and json.loads(again.stdout) == result
    repeated = run(gguf, "--limit", "2", "--again", cwd=tmp_path)
    assert repeated.returncode == 0 and "measured before" not in repeated.stderr and "done in" in repeated.stderr
    assert Evaluation.from_jsonl(tmp_path / result["items"]) == evaluation, "greedy decoding yields the same rows"
    other = json.loads(run(gguf, "--limit", "1", "--json", cwd=tmp_path).stdout)
    assert other["items"] != result["items"], "another number of tasks is another suite"


def test_the_identity_of_a_directory_is_that_of_its_model_files(tmp_path: Path, student: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(student, copy)
    (copy / "README.md").write_text("hello")
    assert identity_of(copy) == identity_of(student)
    (copy / "chat_template.jinja").write_text((copy / "chat_template.jinja").read_text() + " ")
    assert identity_of(copy) != identity_of(student)


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_stopped_evaluation_of_a_file_resumes(tmp_path: Path, gguf: Path, sent: signal.Signals, word: str) -> None:
    arguments = (gguf, "--limit", "24", "--items", "items.jsonl")  # 192 tasks, 64 at a time
    partial, outputs = tmp_path / "items.jsonl.partial", tmp_path / "outputs"
    outputs.mkdir()
    child = start_command("evaluate", *arguments, cwd=tmp_path, outputs=outputs)
    while not (partial.is_file() and partial.read_bytes().count(b"\n") > 64):
        assert child.poll() is None, "it ended before it could be stopped"
        time.sleep(0.01)
    child.send_signal(sent)
    assert child.wait(timeout=60) == 128 + sent
    last = (outputs / "stderr").read_text().splitlines()[-1]
    assert last == f"{word}; to resume, run the same command again"
    finished = partial.read_bytes().splitlines()[1:]
    assert 64 <= len(finished) < 192 and not (tmp_path / "items.jsonl").exists()

    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "items.jsonl").read_bytes().splitlines()[1:]
    assert len(rows) == 192 and set(finished) <= set(rows), "seconds included: what was finished was not run again"
    whole = run(gguf, "--limit", "24", "--items", "whole.jsonl", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert Evaluation.from_jsonl(tmp_path / "items.jsonl") == Evaluation.from_jsonl(tmp_path / "whole.jsonl")


def tasks_file(directory: Path, *ids: str) -> Path:
    """A user's tasks file, with a user's tool."""
    schema = {
        "type": "object",
        "properties": {name: {"type": "number"} for name in "ab"},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    add = {"type": "function", "function": {"name": "add", "description": "sum", "parameters": schema}}
    path = directory / "mine.jsonl"
    rows = [{"id": i, "messages": [{"role": "user", "content": i}], "tools": [add], "answer": "5"} for i in ids]
    path.write_text("\n".join(map(json.dumps, rows)))
    (directory / "own.py").write_text('def add(a: float, b: float) -> float:\n    """sum"""\n    return a + b\n')
    return path


def test_an_endpoint_is_evaluated_on_a_users_tasks(tmp_path: Path) -> None:
    tasks = tasks_file(tmp_path, "server", "text", "endless")
    own = ("--suite", tasks, "--tools", "import:own.py:add", "--json")
    with serving(scripted, Answer({"data": [{"id": "tiny/m"}]})) as server:
        done = run(server.url, *own, "--api-key-env", "MY_KEY", cwd=tmp_path, MY_KEY=KEY)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["splits"].keys() and result["domains"].keys() == {"mine"}
        assert (result["domains"]["mine"]["n"], result["domains"]["mine"]["correct"]) == (3, 2)
        assert result["identity"] == f"{server.url} tiny/m" and set(server.keys) == {f"Bearer {KEY}"}
        assert Path(result["items"]).parent == Path("runs/evaluate") and "tiny-m-mine-" in result["items"]
        named = run(server.url, *own, "--model", "other", cwd=tmp_path, OPENAI_API_KEY="sk-default")
        assert named.returncode == 0 and server.requests[-1]["model"] == "other"
        assert server.keys[-1] == "Bearer sk-default"
    written = [path.read_text() for path in tmp_path.rglob("*.jsonl")]
    assert not any(key in text for key in (KEY, "sk-default") for text in (*written, done.stderr, done.stdout))


def test_predictions_are_scored_without_a_model(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "irrelevance_0", "text": "I cannot do that."},
        {"id": "irrelevance_1", "text": "<tool_call>"},
        {"id": "simple_python_0", "text": call_text("calculate_triangle_area", '{"base": 10, "height": 5}')},
    ]
    (tmp_path / "theirs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = run("--predictions", "theirs.jsonl", "--suite", "bfcl", "--data", BFCL, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    domains = json.loads(done.stdout)["domains"]
    assert [(domains[d]["correct"], domains[d]["malformed"]) for d in ("irrelevance", "simple_python")] == [
        (1, 1),
        (1, 0),
    ]
    assert domains["multiple"]["missing"] == domains["multiple"]["n"] > 0
    assert "without a prediction, counted as wrong" in done.stderr
    (items,) = (tmp_path / "runs" / "evaluate").iterdir()
    assert len(Evaluation.from_jsonl(items).outcomes) == json.loads(done.stdout)["n"]


def test_bad_input_is_one_clear_error_and_nothing_is_left(tmp_path: Path, student: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text("{}\n")
    (tmp_path / "no.jsonl").write_text('{"id": "x", "text": "y"}\n')
    before = sorted(tmp_path.rglob("*"))
    predictions = ("--predictions", "no.jsonl", "--suite", "bfcl", "--data", BFCL)
    with serving(lambda body: completion({}), refusal(401, f"bad key {KEY}")) as server:
        gone = server.url.replace("127.0.0.1", "127.0.0.2")
        cases: list[tuple[tuple[str | Path, ...], str]] = [
            ((tmp_path,), "is not a run, an artifact, a GGUF file"),
            ((student, "--suite", "tasks.jsonl"), "tasks.jsonl:1: "),
            ((student, "--items", "tasks.jsonl"), "tasks.jsonl:1: task_id: missing"),
            (predictions, "no.jsonl:1: id: the suite bfcl has no task 'x'"),
            ((server.url,), "refuses the API key: bad key ***"),
            ((gone, "--model", "m"), "cannot reach"),
            ((server.url, "--api-key-env", "NOT_SET"), "the variable NOT_SET is empty or not set"),
            (("http://me:pass@host/v1",), "contains more than host and path"),
        ]
        for arguments, message in cases:
            done = run(*arguments, "--limit", "1", cwd=tmp_path, OPENAI_API_KEY=KEY)
            assert done.returncode == 1 and message in done.stderr, done.stderr
            lines = [line for line in done.stderr.splitlines() if line and "started" not in line]
            assert len(lines) <= 2 and KEY not in done.stderr
            left = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
            assert left == [path for path in before if path.is_file()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "either TARGET or --predictions"),
        (("x", "--predictions", "y"), "either TARGET or --predictions"),
        (("STUDENT", "--tools", "python"), "--tools is for a JSONL file"),
        (("STUDENT", "--model", "m"), "--model and --api-key-env are for endpoints"),
    ],
)
def test_usage_errors_exit_with_2(tmp_path: Path, student: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(*(student if part == "STUDENT" else part for part in arguments), cwd=tmp_path)
    assert done.returncode == 2 and message in " ".join(done.stderr.replace("│", " ").split())
