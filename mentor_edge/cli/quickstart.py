"""`mentor-edge quickstart`: the whole loop on the embedded nano student."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mentor_edge.cli.options import Json
from mentor_edge.cli.screen import StageProgress, print_json
from mentor_edge.cli.tables import print_quickstart


def quickstart(
    out: Annotated[Path, typer.Option(help="Output directory; must not exist yet.")] = Path("runs/quickstart"),
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Run every stage for a few steps only: less than 90 s.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted quickstart.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random choices.")] = 0,
    teacher_noise: Annotated[
        str, typer.Option(help="How often the programmatic teacher is wrong: clean, mild or heavy.")
    ] = "mild",
    as_json: Json = False,
) -> None:
    """Train, export, gate and run the embedded nano student on this machine's CPU. Nothing is simulated."""
    from mentor_edge.quickstart.run import run_quickstart

    with StageProgress() as progress:
        summary = run_quickstart(
            out, smoke=smoke, resume=resume, seed=seed, teacher_noise=teacher_noise, progress=progress
        )
    print_quickstart(summary, out)
    if as_json:
        print_json(summary.model_dump(mode="json"))
