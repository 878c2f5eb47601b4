"""`mentor-edge doctor`: check this installation."""

from __future__ import annotations

import typer
from rich.text import Text

from mentor_edge.cli.options import Json
from mentor_edge.cli.screen import console, print_json

_COLOUR = {"ok": "green", "note": "yellow", "bad": "red"}


def doctor(as_json: Json = False) -> None:
    """Check this installation.

    Looks at versions, runtimes (with real decodes), threads, telemetry, and what each export format needs. Exits with 1
    if something is broken.
    """
    from mentor_edge.doctor import examine

    findings = examine()
    for finding in findings:
        colour = _COLOUR[finding.state]
        text = Text.assemble((f"{finding.state:<4}", colour), f" {finding.name}: {finding.message}")
        console.print(text, soft_wrap=True)
    if as_json:
        print_json([vars(finding) for finding in findings])
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
