"""`mentor-edge fit`: train a student with a recipe file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mentor_edge.cli.options import Json, Overrides
from mentor_edge.cli.screen import StageProgress, console, print_json
from mentor_edge.readable import duration, figure


def fit(
    config: Annotated[Path, typer.Argument(help="A recipe file, such as recipes/configs/nano-gsm8k.yaml.")],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the last checkpoint.")] = False,
    as_json: Json = False,
) -> None:
    """Train a student with a recipe."""
    from mentor_edge.recipes import recipe_from_yaml

    def note(sentence: str) -> None:
        console.print(f"note: {sentence}")

    recipe = recipe_from_yaml(config, overrides or [])
    with StageProgress() as progress:
        run = recipe.fit(resume=resume, progress=progress, on_note=note)
    rejected = run.tasks.rejected
    console.print(
        f"{run.recipe} on {run.tasks.used} tasks ({rejected} references left out"
        + (f", see {run.directory / 'rejected.jsonl'}" if rejected else "")
        + f"), {duration(run.seconds)}: {run.directory}"
    )
    last = run.training_log()[-1].model_dump()
    numbers = {key: value for key, value in last.items() if isinstance(value, int | float)}
    console.print("last step: " + ", ".join(f"{key} {figure(value)}" for key, value in numbers.items()))
    if as_json:
        tasks = run.tasks.model_dump()
        training = None if run.training is None else run.training.model_dump()
        print_json(
            {
                "run": str(run.directory),
                "tasks": tasks,
                "training": training,
                "seconds": run.seconds,
                "last_step": last,
            }
        )
