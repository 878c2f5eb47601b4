"""The building blocks of every report: tables as data, Markdown and HTML, pictures. Nothing here prints.

Names of tasks, tools and models, and what a model wrote, may come from anywhere. `markdown_text`, `markdown_code`,
`markdown_block` and `html_text` are the only ways in which they get into a document.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mentor_edge.files import atomic_file
from mentor_edge.messages import Message
from mentor_edge.readable import harmless

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 120


class Strong(str):
    """A table cell to emphasize."""


class Code(str):
    """A table cell that `markdown_code` made."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table. Its first column names the rows."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def markdown_text(text: object) -> str:
    """Text as one line of Markdown that shows it as it is: no HTML, links, pictures or code. LaTeX survives."""
    line = html.escape(harmless(" ".join(str(text).split())), quote=False)
    # Backslashes before an escape would undo it, and those at the end would escape what follows.
    line = re.sub(r"(\\*)(`|\](?=[(\[:]))", lambda found: rf"{2 * found[1]}\{found[2]}", line)
    return line + "\\" * (len(line) - len(line.rstrip("\\")))


def markdown_code(text: object) -> str:
    """Text as code within a line, whatever backticks it contains."""
    line = harmless(" ".join(str(text).split()))
    ticks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if len(ticks) > 1 or not line else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def markdown_block(lines: Iterable[str]) -> list[str]:
    """The lines of a block of code that none of them can end."""
    content = [harmless(line) for text in lines for line in text.split("\n")]
    ticks = "`" * max(3, 1 + max((len(run) for line in content for run in re.findall("`+", line)), default=0))
    return [ticks, *content, ticks]


def html_text(text: str) -> str:
    """Text as HTML, in an element or in a quoted attribute."""
    return html.escape(harmless(text))


def markdown_table(grid: Grid) -> list[str]:
    """The lines of a Markdown table."""
    return [
        _markdown_row(grid.header),
        "|" + "---|" * len(grid.header),
        *map(_markdown_row, grid.rows),
    ]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_markdown_cell, cells)) + " |"


def _markdown_cell(cell: str) -> str:
    text = (cell if isinstance(cell, Code) else markdown_text(cell)).replace("|", r"\|")
    return f"**{text}**" if isinstance(cell, Strong) else text


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
