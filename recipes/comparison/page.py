"""The report of a comparison as a Markdown document and as one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from mentor_edge.evaluation.document import Grid, Strong, html_text, markdown_table, markdown_text
from mentor_edge.readable import harmless

from .comparison import Comparison
from .text import PICTURES, TITLE, Block, Bullets, Heading, Paragraph, Picture, Verbatim, document


def comparison_markdown(comparison: Comparison, pictures: Mapping[str, str]) -> str:
    """The report as Markdown. `pictures` maps "accuracy", "differences" and "curves" to their links; a picture
    without a link is left out."""
    lines: list[str] = []
    for block in document(comparison):
        lines += _markdown_block(block, pictures)
    return "\n".join(lines).rstrip() + "\n"


def _markdown_block(block: Block, pictures: Mapping[str, str]) -> list[str]:
    match block:
        case Heading(level, text):
            return [f"{'#' * level} {markdown_text(text)}", ""]
        case Paragraph(text):
            return [markdown_text(text), ""]
        case Bullets(items):
            return [*(f"- {markdown_text(item)}" for item in items), ""]
        case Grid():
            return [*markdown_table(block), ""]
        case Picture(name):
            return [f"![{PICTURES[name]}]({pictures[name]})", ""] if name in pictures else []
        case Verbatim(text):
            return [*(f"    {harmless(line)}" for line in text.split("\n")), ""]


_STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --ground: #ffffff; --line: #d0d0d0; --faint: #f4f4f4; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e4e4; --ground: #161616; --line: #444444; --faint: #222222; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--ground);
  max-width: 70rem; margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: 0.3rem 0.6rem; text-align: left; white-space: nowrap; }
thead th { background: var(--faint); }
img { max-width: 100%; height: auto; background: #ffffff; border-radius: 4px; }
pre { background: var(--faint); padding: 0.8rem; overflow-x: auto; font-size: 0.8rem; }
figure { margin: 1rem 0; }
figcaption { font-size: 0.85rem; }
"""


def comparison_html(comparison: Comparison, pictures_directory: Path) -> str:
    """The report as one HTML page that contains its pictures and loads nothing else.

    The pictures are those that `write_pictures` saved in `pictures_directory`; missing ones are left out.
    Raises: OSError when a picture exists but cannot be read.
    """
    body = "\n".join(filter(None, (_html_block(block, pictures_directory) for block in document(comparison))))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html_text(TITLE)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _html_block(block: Block, directory: Path) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{html_text(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{html_text(text)}</p>"
        case Bullets(items):
            return "<ul>\n" + "\n".join(f"<li>{html_text(item)}</li>" for item in items) + "\n</ul>"
        case Grid(header, rows):
            head = "".join(f'<th scope="col">{html_text(name)}</th>' for name in header)
            lines = "\n".join(_html_row(row) for row in rows)
            return (
                f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table></div>'
            )
        case Picture(name):
            path = directory / f"{name}.png"
            if not path.is_file():
                return ""
            data = base64.b64encode(path.read_bytes()).decode()
            caption = html_text(PICTURES[name])
            image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
            return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
        case Verbatim(text):
            return f"<pre>{html_text(text)}</pre>"


def _html_row(row: Sequence[str]) -> str:
    first, *others = row
    cells = "".join(f"<td>{_html_cell(cell)}</td>" for cell in others)
    return f'<tr><th scope="row">{html_text(first)}</th>{cells}</tr>'


def _html_cell(cell: str) -> str:
    text = html_text(cell)
    return f"<strong>{text}</strong>" if isinstance(cell, Strong) else text
