"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Tools = Annotated[
    list[str] | None,
    typer.Option(
        "--tools",
        metavar="SPEC",
        help="Tools with an implementation; repeatable: calculator, the name of one of its tools, python, "
        "mcp:COMMAND or mcp:URL, search:CORPUS.jsonl, import:MODULE:NAME, import:FILE.py:NAME.",
    ),
]
Quant = Annotated[str | None, typer.Option(help="Which exported file of the target to use. Default: the first.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]


def parts(text: str | None) -> list[str] | None:
    """The parts of an option whose values are separated by commas."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]
