"""`mentor-edge verify`: compare an artifact with its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from mentor_edge.cli.options import Json
from mentor_edge.cli.screen import console, print_json


def verify(
    directory: Annotated[Path, typer.Argument(help="An exported artifact: the directory with manifest.json.")],
    as_json: Json = False,
) -> None:
    """Compare every file of an artifact with its manifest (exit 1 if one is missing, changed or unknown)."""
    from mentor_edge.manifest import Manifest
    from mentor_edge.manifest import verify as find_problems

    problems = find_problems(directory)
    for problem in problems:
        console.print(Text.assemble(("bad", "red"), f" {problem}"), soft_wrap=True)
    if not problems:
        console.print(f"all {len(Manifest.read(directory).sha256)} files of {directory} match its manifest")
    if as_json:
        print_json({"artifact": str(directory), "ok": not problems, "problems": problems})
    if problems:
        raise typer.Exit(1)
