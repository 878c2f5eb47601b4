"""`mentor-edge report`: write a comparison's report again from its data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mentor_edge.cli.options import Json
from mentor_edge.cli.screen import console, print_json
from mentor_edge.cli.tables import print_comparison


def report(
    comparison: Annotated[Path, typer.Argument(help="A comparison.json.")],
    out: Annotated[Path | None, typer.Option(help="Output directory. Default: the one with the JSON file.")] = None,
    as_json: Json = False,
) -> None:
    """Write the tables, pictures and page of a comparison again, from its JSON file alone."""
    from mentor_edge.recipes.comparison.files import read_comparison, write_comparison

    figures = read_comparison(comparison)
    paths = write_comparison(figures, out or comparison.parent, name=comparison.stem)
    print_comparison(figures)
    console.print("written: " + ", ".join(map(str, paths)))
    if as_json:
        print_json({"written": [str(path) for path in paths]})
