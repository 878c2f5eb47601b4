"""The building blocks of every report: tables as data, Markdown, pictures. Nothing here prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mentor_edge.files import atomic_file
from mentor_edge.messages import Message

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 120


class Strong(str):
    """A table cell to emphasize."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table. Its first column names the rows."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def markdown_table(grid: Grid) -> list[str]:
    """The lines of a Markdown table. Escape the cells first: this function does not."""
    return [
        _markdown_row(grid.header),
        "|" + "---|" * len(grid.header),
        *map(_markdown_row, grid.rows),
    ]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(f"**{cell}**" if isinstance(cell, Strong) else cell for cell in cells) + " |"


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file atomically. Raises: OutputError."""
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def new_figure(width: float = 7, height: float = 3) -> Figure:
    """An empty picture; sizes are in inches."""
    from matplotlib.figure import Figure  # not pyplot, which opens a window system and keeps global state

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(path: Path, figure: Figure) -> None:
    """Write a picture as PNG, atomically. Raises: OutputError."""
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)


def without_formulas(text: str) -> str:
    """A label for a picture: matplotlib reads text between dollar signs as a formula."""
    return text.replace("$", r"\$")


def message_text(message: Message) -> str:
    """A message on one line: its text, then its calls, such as "add(a=1, b=2)"."""
    calls = (
        f"{call.name}({', '.join(f'{name}={value!r}' for name, value in call.arguments.items())})"
        for call in message.tool_calls
    )
    return " ".join(part for part in (message.content, *calls) if part)
