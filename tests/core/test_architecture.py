"""What may import what, and what an import costs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT

HEAVY = (
    "torch", "transformers", "trl", "llama_cpp", "peft", "datasets", "matplotlib", "bitsandbytes", "onnxruntime_genai",
    "mcp", "openai",
)  # a table  # fmt: skip
LIGHT = (
    "mentor_edge", "mentor_edge.agent", "mentor_edge.cli", "mentor_edge.cli.app", "mentor_edge.evaluation.evaluate",
    "mentor_edge.recipes", "mentor_edge.recipes.comparison.files", "mentor_edge.recipes.comparison.plan",
    "mentor_edge.recipes.comparison.statistics", "mentor_edge.rewards", "mentor_edge.tasks.answers.judge",
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


def test_imports_point_one_way(installed):
    done = lint(installed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_a_wrong_import_would_be_seen(installed):
    module = installed / "mentor_edge" / "messages.py"
    source = module.read_text()
    module.write_text(source + "\nimport mentor_edge.recipes\n")
    try:
        done = lint(installed)
    finally:
        module.write_text(source)
    assert done.returncode == 1 and "the core imports neither recipes nor export BROKEN" in done.stdout


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_nothing_heavy(module):
    code = f"import sys, {module}; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [], "")
