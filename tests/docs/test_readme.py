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
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGES = [
    README,
    CONTRIBUTING,
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / "docs/results").glob("*.md"),
]
DOCUMENTS = [*PAGES, *sorted((ROOT / "recipes" / "configs").glob("*.yaml"))]


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


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_commands_of_the_contributors_page_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    text = CONTRIBUTING.read_text(encoding="utf-8")
    named = set(re.findall(r"^make ([a-z-]+)$|`make ([a-z-]+)`", text, flags=re.MULTILINE))
    assert named and {name for pair in named for name in pair if name} <= targets
    for file, word in re.findall(r"pytest (\S+\.py)(?: -k (\w+))?$", text, flags=re.MULTILINE):
        assert not word or word in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [CONTRIBUTING, ROOT / "docs" / "architecture.md"], ids=lambda page: page.name)
def test_named_paths_and_names_exist(page: Path) -> None:
    """Every path in backticks exists, and so does every name that a page attributes to the file before it."""
    for line in page.read_text(encoding="utf-8").splitlines():
        spans = re.findall(r"`([^`\n]+)`", line)
        paths = [span for span in spans if re.fullmatch(r"[\w./-]+/[\w./-]*|[\w-]+\.(md|txt|toml)", span)]
        for path in paths:
            assert (ROOT / path).exists(), f"{page.name} names {path}"
        names = [span.partition(".")[0] for span in spans if re.fullmatch(r"[A-Z]\w+(\.\w+)*|[a-z]+_[a-z]+", span)]
        modules = [ROOT / path for path in paths if path.endswith(".py")]
        if len(modules) == 1 and names and line.startswith("|"):
            source = modules[0].read_text(encoding="utf-8")
            assert [name for name in names if name not in source] == [], f"{page.name}: {line}"


PYTHON = [(path.name, block) for path in PAGES if path.name != "api.md" for block in blocks(path, "python")]


@pytest.mark.parametrize("block", [block for _, block in PYTHON], ids=[name for name, _ in PYTHON])
def test_the_python_of_the_documents_names_things_that_exist(block: str) -> None:
    compile(block, "document", "exec")
    imports = [line for line in block.splitlines() if line.lstrip().startswith("from mentor_edge")]
    assert imports
    exec("\n".join(map(str.strip, imports)), {})


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
