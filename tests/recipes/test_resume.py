"""Resuming after a kill yields the same run as one that was never interrupted."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from helpers.command_line import Forked
from mentor_edge.errors import ConfigError, OutputError, RunError
from mentor_edge.recipes import RECIPES, MentorRecipe, Run, SFTRecipe
from mentor_edge.recipes.run import newest_checkpoint


def adapter_of(run: Run) -> dict[str, Any]:
    return load_file(run.adapter / "adapter_model.safetensors")


SETTINGS: dict[str, dict[str, Any]] = {
    "mentor": {
        "tasks": {"limit": 12},
        "train": {"steps": 5, "prompts_per_step": 3, "rollouts_per_prompt": 4, "save_every": 2},
    },
    "sft": {"tasks": {"limit": 12}, "train": {"steps": 5, "batch_size": 4, "save_every": 2}},
}


def fit_and_die(recipe: str, settings: dict[str, Any], stage: str, moment: int) -> None:
    def progress(name: str, done: int, total: int) -> None:
        if (name, done) == (stage, moment):
            os.kill(os.getpid(), signal.SIGKILL)

    RECIPES[recipe](**settings).fit(progress=progress)


def start_and_kill(recipe: str, settings: dict[str, Any], stage: str, moment: int) -> None:
    """Fit in a child process that is killed at a given moment of a stage and cannot clean up."""
    outputs = settings["output_dir"].parent
    child = Forked(fit_and_die, recipe, settings, stage, moment, cwd=outputs, outputs=outputs)
    assert child.wait(timeout=300) == -signal.SIGKILL, (outputs / "stderr").read_text()[-2000:]


def same_training(run: Run, other: Run) -> bool:
    ours, theirs = adapter_of(run), adapter_of(other)
    return (
        run.training_log() == other.training_log()
        and ours.keys() == theirs.keys()
        and all((ours[name] == theirs[name]).all() for name in ours)
    )


@pytest.mark.parametrize("recipe", [pytest.param("mentor", marks=pytest.mark.slow), "sft"])
def test_a_killed_run_resumes_and_equals_an_uninterrupted_one(nano_student: Path, tmp_path: Path, recipe: str) -> None:
    """Killed in step 4 of 5, after the checkpoint of step 2, when the rows of steps 3 and 4 were already written."""
    kind = MentorRecipe if recipe == "mentor" else SFTRecipe
    settings = {"student": str(nano_student), **SETTINGS[recipe]}
    uninterrupted = kind(**settings, output_dir=tmp_path / "whole").fit()
    assert any(row.loss != 0 for row in uninterrupted.training_log())
    killed = {**settings, "output_dir": tmp_path / "killed"}
    start_and_kill(recipe, killed, "MENTOR" if recipe == "mentor" else "SFT", 4)
    with pytest.raises(RunError, match="no finished run"):
        Run.load(tmp_path / "killed")
    with pytest.raises(OutputError, match="--resume"):
        kind(**killed).fit()
    steps = []
    resumed = kind(**killed).fit(resume=True, progress=lambda stage, done, total: steps.append((stage, done)))
    assert ("MENTOR" if recipe == "mentor" else "SFT", 1) not in steps  # it did not start over
    assert same_training(resumed, uninterrupted)


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_over(nano_student: Path, tmp_path: Path) -> None:
    settings = {
        "student": str(nano_student),
        **SETTINGS["sft"],
        "train": {**SETTINGS["sft"]["train"], "steps": 2},
    }
    start_and_kill("sft", {**settings, "output_dir": tmp_path / "killed"}, "SFT", 1)
    resumed = SFTRecipe(**settings, output_dir=tmp_path / "killed").fit(resume=True)
    assert same_training(resumed, SFTRecipe(**settings, output_dir=tmp_path / "whole").fit())


def test_resuming_needs_the_same_configuration(nano_student: Path, tmp_path: Path) -> None:
    settings = {"student": str(nano_student), "output_dir": tmp_path / "run", "tasks": {"limit": 4}}
    SFTRecipe(**settings, train={"steps": 1, "batch_size": 2}).fit()
    with pytest.raises(ConfigError, match=r"config\.yaml: train\.steps was 1 and is 2 now"):
        SFTRecipe(**settings, train={"steps": 2, "batch_size": 2}).fit(resume=True)


def test_a_finished_run_is_returned_as_it_is(nano_student: Path, tmp_path: Path) -> None:
    recipe = SFTRecipe(
        student=str(nano_student), output_dir=tmp_path / "run", tasks={"limit": 4}, train={"steps": 1, "batch_size": 2}
    )
    run = recipe.fit()
    before = (run.adapter / "adapter_model.safetensors").stat().st_mtime_ns
    assert recipe.fit(resume=True) == run
    assert (run.adapter / "adapter_model.safetensors").stat().st_mtime_ns == before


def test_checkpoints_count_only_with_their_marker(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    for step in (2, 10, 12):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").write_text("half")
    (tmp_path / "checkpoint-2" / "complete").touch()
    (tmp_path / "checkpoint-10" / "complete").touch()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert not (tmp_path / "checkpoint-12").exists()


def test_an_unmarked_checkpoint_is_not_resumed_from(nano_student: Path, tmp_path: Path) -> None:
    """Training resumes from the older, marked one, and the result still equals that of an uninterrupted run."""
    settings = {"student": str(nano_student), **SETTINGS["sft"]}
    uninterrupted = SFTRecipe(**settings, output_dir=tmp_path / "whole").fit()
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "config.yaml").unlink()
    for path in ("run.json", "checkpoints/checkpoint-5/complete"):
        (tmp_path / "cut" / path).unlink()
    (tmp_path / "cut" / "checkpoints" / "checkpoint-5" / "adapter_model.safetensors").write_bytes(b"half")
    steps = []
    resumed = SFTRecipe(**settings, output_dir=tmp_path / "cut").fit(
        resume=True, progress=lambda stage, done, total: steps.append((stage, done))
    )
    assert [done for stage, done in steps if stage == "SFT"] == [4, 5]
    assert same_training(resumed, uninterrupted)
