"""What the documentation tells people to type is accepted, and (slow) works from the first command to the last."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from helpers.paths import DATA, ROOT
from mentor_edge.cli.app import app

README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "recipes" / "configs").glob("*.yaml")), *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def documented_commands() -> Iterator[str]:
    """Command lines in the shell blocks of documents and in the comments of recipe files."""
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        lines = re.findall(r"^# +(.*)$", text, flags=re.MULTILINE) if path.suffix == ".yaml" else []
        for block in blocks(path, "sh"):
            lines += block.splitlines()
        yield from (line for line in lines if line.startswith("mentor-edge "))


@pytest.mark.parametrize("line", sorted(set(documented_commands())))
def test_a_documented_command_has_valid_arguments(line: str) -> None:
    program, name, *arguments = shlex.split(line)
    assert program == "mentor-edge"
    command = typer.main.get_command(app).commands[name]
    command.make_context(name, arguments)  # raises on unknown options, missing arguments and wrong types


def test_the_readme_names_the_two_commands_that_the_makefile_has() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = set(re.findall(r"^make ([a-z-]+)$", README.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert named == {"quickstart", "test"} and named <= targets


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links and not [link for link in links if not (ROOT / link).exists()]


PYTHON = [(path.name, block) for path in DOCUMENTS if path.suffix == ".md" for block in blocks(path, "python")]


@pytest.mark.parametrize("block", [block for _, block in PYTHON], ids=[name for name, _ in PYTHON])
def test_the_python_of_the_documents_names_things_that_exist(block: str) -> None:
    compile(block, "document", "exec")
    imports = [line for line in block.splitlines() if line.lstrip().startswith("from mentor_edge")]
    assert imports
    subprocess.run([sys.executable, "-c", "\n".join(map(str.strip, imports))], check=True, cwd="/")


def test_the_tools_of_the_documents_work() -> None:
    code = blocks(ROOT / "docs" / "tools.md", "python")[0] + (
        "from mentor_edge import ToolCall\n"
        "from mentor_edge.tools.execution.executor import ToolExecutor\n"
        "by_name = {tool.name: tool for tool in tools}\n"
        "with ToolExecutor() as executor, executor.session() as session:\n"
        "    for name, arguments in (\n"
        "        ('forecast', {'place': {'city': 'Rome'}, 'days': 2}), ('write', {'text': 'a'}),\n"
        "        ('write', {'text': 'b'}), ('read', {}),\n"
        "    ):\n"
        "        print(executor.run(ToolCall(name, arguments), by_name, session).content)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd="/", capture_output=True, text=True)
    assert done.stdout.splitlines() == ['{"day 1": 21}', "1", "2", '["a", "b"]']


@pytest.mark.slow
def test_the_readme_works_from_the_first_command_to_the_last(tmp_path: Path) -> None:
    """A full quickstart, then every `mentor-edge` command of the README that needs no data of its own."""
    program = [sys.executable, "-m", "mentor_edge"]
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")  # the README is read in the project's folder
    subprocess.run([*program, "quickstart"], check=True, cwd=tmp_path)
    lines = [line for block in blocks(README, "sh") for line in block.splitlines() if line.startswith("mentor-edge ")]
    runnable = [line for line in lines if "PATH" not in line]
    assert len(runnable) >= 4
    for line in runnable:
        done = subprocess.run([*program, *shlex.split(line)[1:]], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode in ((0, 4) if " export " in line else (0,)), done.stderr
    data = DATA
    gsm8k = [*program, "fit", str(ROOT / "recipes" / "configs" / "nano-gsm8k.yaml")]
    subprocess.run(
        [*gsm8k, "--set", f"tasks.path={data / 'gsm8k_excerpt.jsonl'}", "--set", "student=runs/quickstart/base"],
        check=True,
        cwd=tmp_path,
    )
