"""`mentor-edge fit`, stopped by a signal while it trains."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from helpers.command_line import run_command, start_command

RECIPE = """
recipe: mentor
output_dir: out
tasks: {limit: 12}
train: {steps: 4, prompts_per_step: 2, rollouts_per_prompt: 2, save_every: 1}
"""


@pytest.mark.parametrize(
    ("sent", "word"),
    [pytest.param(signal.SIGINT, "interrupted", marks=pytest.mark.slow), (signal.SIGTERM, "terminated")],
)
def test_a_stopped_training_leaves_only_what_resuming_needs(
    nano_student: Path, tmp_path: Path, sent: signal.Signals, word: str
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    arguments = ("fit", "recipe.yaml", "--set", f"student={nano_student}")
    child = start_command(*arguments, cwd=tmp_path, outputs=tmp_path)
    while not list(tmp_path.glob("out/checkpoints/checkpoint-*/complete")):
        assert child.poll() is None, (tmp_path / "stderr").read_text()
        time.sleep(0.01)
    child.send_signal(sent)
    assert child.wait(timeout=60) == 128 + sent
    last = (tmp_path / "stderr").read_text().splitlines()[-1]
    assert last == f"{word}; to resume, run the same command with --resume"
    assert list(tmp_path.rglob("*.partial")) == [] and not (tmp_path / "out" / "run.json").exists()
    resumed = run_command(*arguments, "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "last step: step 4, loss " in resumed.stderr
