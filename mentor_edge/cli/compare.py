"""`mentor-edge compare`: train several methods under the same conditions and compare them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mentor_edge.cli.options import Json, Overrides, parts
from mentor_edge.cli.screen import StageProgress, console, print_json
from mentor_edge.cli.tables import print_comparison


def compare(
    config: Annotated[Path, typer.Argument(help="A recipe file; all methods share its settings.")],
    methods: Annotated[
        str | None, typer.Option(help="Methods, separated by commas; a+b trains with a, then with b.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds per method; they are 0, 1, 2, ...")] = None,
    teacher_noise: Annotated[
        str | None, typer.Option(help="Noise levels of the nano teacher, separated by commas: clean, mild, heavy.")
    ] = None,
    bases: Annotated[str | None, typer.Option(help="Students to start from, such as nano@0,nano-broad@0.")] = None,
    out: Annotated[Path, typer.Option(help="Output directory.")] = Path("runs/compare"),
    overrides: Overrides = None,
    validation: Annotated[
        bool, typer.Option("--validation", help="Measure on the validation draw. Use it to choose settings.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Cells to train in parallel.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Keep finished cells and resume started ones.")] = False,
    as_json: Json = False,
) -> None:
    """Train several methods on the same base and data, for the same number of updates, and compare them."""
    from mentor_edge.recipes.comparison.files import write_comparison
    from mentor_edge.recipes.comparison.plan import ComparisonPlan
    from mentor_edge.recipes.comparison.run import compare as run_comparison

    plan = ComparisonPlan.read(
        config,
        methods=parts(methods),
        seeds=seeds,
        bases=parts(bases),
        teacher_noise=parts(teacher_noise),
        validation=validation,
        overrides=overrides or [],
    )
    with StageProgress() as progress:
        comparison = run_comparison(plan, out, resume=resume, jobs=jobs, progress=progress)
    write_comparison(comparison, out)
    print_comparison(comparison)
    console.print(f"report: {out / 'comparison.html'}, {out / 'comparison.md'}; data: {out / 'comparison.json'}")
    if as_json:
        print_json(comparison.to_json())
