"""The files of a comparison: NAME.json is the data; NAME.md, NAME.html and NAME/*.png are made of it alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mentor_edge.errors import RunError
from mentor_edge.files import atomic_file, explained_write_errors

from .page import comparison_html, comparison_markdown
from .pictures import write_pictures
from .statistics import Cell, summarise


def read_comparison(path: Path) -> dict[str, Any]:
    """Read a comparison.json; every figure is computed again from its cells.

    Raises: RunError when it is missing, damaged, or says other figures than its cells give.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        cells = [Cell.from_json(cell) for cell in stored["cells"]]
        statistics, core = stored["statistics"], stored["core"]
        settings = {key: statistics[key] for key in ("reference", "confidence", "replicates", "seed")}
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}", "`mentor-edge compare` writes it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is no comparison: {error!r}", "`mentor-edge compare` writes one") from error
    computed = summarise(cells, core=core, header=stored, allow_missing=bool(stored.get("missing")), **settings)
    if json.loads(json.dumps(computed)) != stored:
        raise RunError(f"the figures in {path} are not those of its cells", "make it again with `compare --resume`")
    return computed


def write_comparison(comparison: Mapping[str, Any], directory: Path, name: str = "comparison") -> list[Path]:
    """Write the document, the page and the pictures, and return their paths.

    Raises: OutputError.
    """
    pictures_directory = directory / name
    with explained_write_errors(directory):
        pictures_directory.mkdir(parents=True, exist_ok=True)
        pictures = write_pictures(comparison, pictures_directory)
        links = {path.stem: f"{name}/{path.name}" for path in pictures}
        texts = {
            directory / f"{name}.md": comparison_markdown(comparison, links),
            directory / f"{name}.html": comparison_html(comparison, pictures_directory),
        }
        for path, text in texts.items():
            with atomic_file(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    return [*texts, *pictures]
