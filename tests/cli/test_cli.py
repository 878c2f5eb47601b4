"""The command line as a user meets it: exit codes, one-line errors, JSON on standard output, Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.command_line import run_command as run
from helpers.paths import DATA, ROOT
from helpers.tiny_models import make_student

NANO_COMPARE = ROOT / "recipes" / "configs" / "nano-compare.yaml"
NANO_GSM8K = ROOT / "recipes" / "configs" / "nano-gsm8k.yaml"
EXCERPT = DATA / "gsm8k_excerpt.jsonl"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student") / "qwen3")


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['mentor-edge', '--help']\n"
        "from mentor_edge.cli.app import main\n"
        "try: main()\nexcept SystemExit as end: assert end.code == 0\n"
        "print(sorted({'torch', 'transformers', 'trl', 'numpy', 'llama_cpp'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(
        name in done.stdout
        for name in ("quickstart", "fit", "compare", "report", "evaluate", "export", "run", "doctor")
    )


def test_usage_errors_exit_with_2(tmp_path: Path) -> None:
    assert run("fit", cwd=tmp_path).returncode == 2
    assert run("evaluate", "x", "--limit", "none", cwd=tmp_path).returncode == 2
    assert run("conquer", cwd=tmp_path).returncode == 2
    assert run("evaluate", "x", "--threads", "100000", cwd=tmp_path).returncode == 2
    assert run("evaluate", "x", "--report", ".", cwd=tmp_path).returncode == 2


def failure(*arguments: str | Path, cwd: Path) -> str:
    """The message of a command that must fail in one or two lines, without leaving anything behind."""
    before = sorted(cwd.rglob("*"))
    done = run(*arguments, cwd=cwd)
    assert done.returncode == 1, done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr
    assert sorted(cwd.rglob("*")) == before
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) <= 2 and lines[0].startswith("error: "), done.stderr
    return done.stderr


def test_bad_input_is_one_clear_error(tmp_path: Path, student: Path) -> None:
    assert "cannot read none.yaml" in failure("fit", "none.yaml", cwd=tmp_path)
    assert "needs a path" in failure("fit", NANO_GSM8K, cwd=tmp_path)
    here = ("--set", f"tasks.path={EXCERPT}", "--set", f"student={student}")
    missing = failure("fit", NANO_GSM8K, *here[2:], "--set", "tasks.path=no.jsonl", cwd=tmp_path)
    assert "no.jsonl" in missing
    unknown = failure(
        "fit", NANO_GSM8K, *here, "--set", "train.stepz=3", "--set", "lore=1", "--set", "seed=-1", cwd=tmp_path
    )
    assert "3 mistakes" in unknown and all(word in unknown for word in ("stepz", "lore", "seed"))
    assert "no student here" in failure("fit", NANO_GSM8K, *here[:2], "--set", "student=no student here", cwd=tmp_path)
    assert "is not a run, an artifact, a GGUF file" in failure("evaluate", student.parent, cwd=tmp_path)
    assert "there is no suite 'chess'" in failure("evaluate", student, "--suite", "chess", cwd=tmp_path)
    assert "--data PATH" in failure("evaluate", student, "--suite", "bfcl", cwd=tmp_path)
    assert "unknown quantization 'q9'" in failure("export", student, "--gguf", "q9", "--out", "a", cwd=tmp_path)
    assert "there is no run directory nowhere" in failure("export", "nowhere", cwd=tmp_path)
    assert "cannot read none.yaml" in failure("compare", "none.yaml", cwd=tmp_path)
    grid = ("compare", NANO_COMPARE, "--methods", "sft,dpo", "--seeds", "0", "--teacher-noise", "loud")
    wrong = failure(*grid, "--bases", "nano", "--set", "lora.rank=0", cwd=tmp_path)
    assert "4 mistakes" in wrong and all(word in wrong for word in ("dpo", "seeds", "loud", "lora.rank"))
    assert "no student here" in failure("compare", NANO_COMPARE, "--bases", "no student here", cwd=tmp_path)
    assert "cannot read none.json" in failure("report", "none.json", cwd=tmp_path)
    assert "no file and no suite 'chess'" in failure("tasks", "overlap", "nano-train", "chess", cwd=tmp_path)
    wrong = failure("run", student, "hi", "--tools", "hammer", "--tools", "ad,ceil", cwd=tmp_path)
    assert (
        "2 mistakes" in wrong
        and "'hammer' is not a tool" in wrong
        and "'ad' is not a tool (did you mean 'add'?)" in wrong
    )


def test_a_malformed_task_names_its_line_and_field(tmp_path: Path, student: Path) -> None:
    rows = EXCERPT.read_text(encoding="utf-8").splitlines()
    broken = json.loads(rows[3])
    broken["steps"] = "none"
    rows[3] = json.dumps(broken)
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("\n".join(rows), encoding="utf-8")
    message = failure("fit", NANO_GSM8K, "--set", f"tasks.path={tasks}", "--set", f"student={student}", cwd=tmp_path)
    assert "tasks.jsonl:4: steps: expected a list" in message


def test_a_student_without_chat_template_is_refused(tmp_path: Path, student: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(student, bare)
    (bare / "chat_template.jinja").unlink()
    message = failure("fit", NANO_GSM8K, "--set", f"tasks.path={EXCERPT}", "--set", f"student={bare}", cwd=tmp_path)
    assert "has no chat template" in message


def test_an_existing_output_directory_is_left_alone(tmp_path: Path, student: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    assert "out exists already" in failure("quickstart", "--smoke", "--out", "out", cwd=tmp_path)
    assert "out exists already" in failure("export", student, "--out", "out", cwd=tmp_path)
    assert "out/mine.txt exists already" in failure("export", student, "--out", "out/mine.txt", cwd=tmp_path)
    assert "out exists already" in failure(
        "fit",
        NANO_GSM8K,
        "--set",
        f"tasks.path={EXCERPT}",
        "--set",
        f"student={student}",
        "--set",
        "output_dir=out",
        cwd=tmp_path,
    )


@pytest.mark.slow
def test_an_export_that_cannot_be_judged_exits_with_4(tmp_path: Path, student: Path) -> None:
    done = run("export", student, "--gguf", "q8_0", "--limit", "5", "--out", "a", "--json", cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    (file,) = json.loads(done.stdout)["files"]
    assert file["verdict"] == "inconclusive" and file["file"] == "refused/model-q8_0.gguf"
    assert (tmp_path / "a" / file["file"]).stat().st_size == file["bytes"]
    assert "no file of a passed the gate" in run("evaluate", "a", cwd=tmp_path).stderr


def test_doctor_decodes_with_this_llama_cpp(tmp_path: Path) -> None:
    done = run("doctor", "--json", cwd=tmp_path)
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 0 and findings["llama.cpp"]["ok"], done.stderr
    assert "decodes quantized models" in findings["llama.cpp"]["message"]


@pytest.mark.slow
def test_ctrl_c_prints_one_line_that_offers_to_resume(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mentor_edge", "quickstart", "--smoke", "--out", "out"]
    child = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert child.stderr is not None
    assert "warm start: started" in child.stderr.readline()
    time.sleep(1)
    child.send_signal(signal.SIGINT)
    rest = [line for line in child.stderr.read().splitlines() if line.strip()]
    assert child.wait(timeout=60) == 130
    assert rest == ["interrupted; to resume, run the same command with --resume"]
    assert not (tmp_path / "out" / "base").exists() and not list((tmp_path / "out").glob(".*"))


def test_run_offers_the_tools_that_are_named(tmp_path: Path, nano_student: Path) -> None:
    (tmp_path / "mine.py").write_text(
        'def sum_of(a: float, b: float) -> float:\n    """a plus b"""\n    return a + b\n'
    )
    question = "tom has 2 pens. tom gets 3 more. what is the result?"
    done = run(
        "run", nano_student, question, "--tools", "import:mine.py:sum_of", "--tools", "add,ceil", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    answered = json.loads(done.stdout)
    assert answered["messages"][0]["role"] == "assistant" and answered["ending"]
    shown = "no answer: " if answered["answer"] is None else f"answer {answered['answer']}"
    assert shown in done.stderr


@pytest.mark.slow
def test_fit_reports_the_last_step_and_starts_from_another_run(tmp_path: Path, nano_student: Path) -> None:
    (tmp_path / "own.py").write_text("def brevity(trajectory, task):\n    return 1 / (1 + len(trajectory.calls))\n")
    (tmp_path / "recipe.yaml").write_text(
        "recipe: mentor\noutput_dir: a\ntasks: {limit: 12}\n"
        "train: {steps: 1, prompts_per_step: 2, rollouts_per_prompt: 2}\n"
        "reward: {matching: f1, extra: [{function: own.brevity, weight: 0.1}]}\n"
    )
    done = run("fit", "recipe.yaml", "--set", f"student={nano_student}", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        "mentor on 12 tasks" in done.stderr and "last step: step 1, loss " in done.stderr and ", reward " in done.stderr
    )
    assert {"reward", "flat_groups", "tokens"} <= json.loads(done.stdout)["last_step"].keys()
    again = run("fit", "recipe.yaml", "--set", "from_run=a", "--set", "output_dir=b", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "b" / "run.json").read_text())["student"].endswith("a/merged")
    measured = run("evaluate", "b", "--limit", "1", "--report", "b.md", "--json", cwd=tmp_path)
    contamination = json.loads(measured.stdout)["contamination"]
    assert contamination["training"] == 24  # both runs' tasks
    assert contamination["evaluation"] == 8 and contamination["exact"] == 0
    statement = next(line for line in measured.stderr.splitlines() if "overlap with 24 training tasks" in line)
    assert statement in (tmp_path / "b.md").read_text()
