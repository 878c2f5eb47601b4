"""What may import what, and what an import costs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.paths import ROOT

HEAVY = (
    "torch", "transformers", "trl", "llama_cpp", "peft", "datasets", "matplotlib", "bitsandbytes", "onnxruntime_genai",
    "mcp", "openai",
)  # a table  # fmt: skip
LIGHT = (
    "mentor_edge", "mentor_edge.agent", "mentor_edge.cli", "mentor_edge.cli.app", "mentor_edge.evaluation.evaluate",
    "mentor_edge.engines.llama_cpp.engine", "mentor_edge.engines.onnx.engine", "mentor_edge.engines.open",
    "mentor_edge.inspection.template", "mentor_edge.inspection.tool_use", "mentor_edge.preflight",
    "mentor_edge.recipes", "mentor_edge.recipes.comparison.files", "mentor_edge.recipes.comparison.plan",
    "mentor_edge.recipes.comparison.summarise", "mentor_edge.rewards", "mentor_edge.tasks.answers.judge",
    "mentor_edge.tasks.bfcl", "mentor_edge.tasks.gsm8k", "mentor_edge.tasks.jsonl", "mentor_edge.tasks.registry",
    "mentor_edge.tools.catalog", "mentor_edge.tool_calls",
)  # a table  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The packages as an installation lays them out: static tools do not follow the mapping in pyproject.toml."""
    site = tmp_path_factory.mktemp("site")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "mentor_edge", site / "mentor_edge", ignore=ignored)
    for part in ("recipes", "export"):
        shutil.copytree(ROOT / part, site / "mentor_edge" / part, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", site)
    return site


def lint(site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"],
        cwd=site,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )


CYCLES = """
import sys
from graphlib import CycleError, TopologicalSorter
import grimp
graph = grimp.build_graph("mentor_edge", cache_dir=None)
imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
try:
    TopologicalSorter(imports).prepare()
except CycleError as error:
    print(" -> ".join(error.args[1]))
    sys.exit(1)
"""


def cycles(site: Path) -> subprocess.CompletedProcess[str]:
    """Exit code 1 when files import each other, with one cycle on standard output."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", CYCLES]
    return subprocess.run(command, cwd=site, env=environment, capture_output=True, text=True)


@contextmanager
def changed(module: Path, line: str) -> Iterator[None]:
    """`line` at the end of a file, for as long as the context is open."""
    source = module.read_text()
    module.write_text(f"{source}\n{line}\n")
    try:
        yield
    finally:
        module.write_text(source)


def test_every_package_is_installed():
    """An editable installation works even if pyproject.toml forgets a package; a wheel does not."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    top = {"mentor_edge": "mentor_edge", "recipes": "mentor_edge.recipes", "export": "mentor_edge.export"}
    found = [
        ".".join((name, *file.parent.relative_to(ROOT / folder).parts))
        for folder, name in top.items()
        for file in (ROOT / folder).rglob("__init__.py")
    ]
    assert sorted(listed) == sorted(found)


def test_imports_point_down(installed):
    done = lint(installed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("messages.py", "import mentor_edge.recipes"),
        ("tasks/registry.py", "from mentor_edge.agent import run_conversations"),
        ("recipes/config.py", "from mentor_edge.cli.screen import console"),
        ("evaluation/report.py", "from mentor_edge.export import export"),
    ],
)
def test_an_import_that_points_up_is_seen(installed, file, line):
    with changed(installed / "mentor_edge" / file, line):
        done = lint(installed)
    assert done.returncode == 1 and "imports point down BROKEN" in done.stdout


def test_a_module_without_a_layer_is_seen(installed):
    module = installed / "mentor_edge" / "stray.py"
    module.write_text("")
    try:
        done = lint(installed)
    finally:
        module.unlink()
    assert done.returncode == 1 and "stray" in done.stdout


def test_no_files_import_each_other(installed):
    done = cycles(installed)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_cycle_between_files_of_one_package_is_seen(installed):
    with changed(installed / "mentor_edge" / "recipes" / "run.py", "from .base import Recipe"):
        done = cycles(installed)
    assert done.returncode == 1 and "mentor_edge.recipes.run" in done.stdout


def test_light_modules_load_nothing_heavy():
    code = (
        f"import importlib, sys\nfor module in {LIGHT}:\n    importlib.import_module(module)\n"
        f"    print(module, *[name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, list(LIGHT), "")
