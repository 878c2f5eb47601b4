"""The files of a comparison. NAME.json is the data; NAME.md, NAME.html and NAME/*.png are made from it alone."""

from __future__ import annotations

import json
from pathlib import Path

from mentor_edge.errors import RunError
from mentor_edge.files import atomic_file, explained_write_errors
from mentor_edge.path_kind import kind_of, wrong_kind

from .cell import Cell
from .comparison import Comparison, IntervalSettings
from .page import comparison_html, comparison_markdown
from .pictures import write_pictures
from .summarise import summarise

_WRITTEN_BY = "`mentor-edge compare` writes such files"


def read_comparison(path: Path) -> Comparison:
    """Read a comparison.json and compute every figure again from its cells.

    Raises: RunError when the file is missing or damaged, or when a figure in it does not follow from its cells.
    """
    if path.is_dir() or kind_of(path).name == "a GGUF file":
        raise RunError(*wrong_kind(path, "a comparison.json"))
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        cells = [Cell.from_json(cell) for cell in stored["cells"]]
        statistics = IntervalSettings(**stored["statistics"])
        core, missing = stored["core"], bool(stored["missing"])
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}", _WRITTEN_BY) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        # The text of a UnicodeDecodeError is short; its representation contains the whole file.
        raise RunError(f"{path} is not a comparison, as it is not JSON: {error}", _WRITTEN_BY) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not a comparison: {type(error).__name__}: {error}", _WRITTEN_BY) from error
    computed = summarise(
        cells,
        focus=statistics.focus,
        core=core,
        settings=Comparison.settings_of(stored),
        allow_missing=missing,
        confidence=statistics.confidence,
        replicates=statistics.replicates,
        seed=statistics.seed,
    )
    if computed.to_json() != stored:
        raise RunError(
            f"the figures in {path} do not follow from its cells", "write the file again with `compare --resume`"
        )
    return computed


def write_comparison(comparison: Comparison, directory: Path, name: str = "comparison") -> list[Path]:
    """Write the Markdown document, the HTML page and the pictures, and return their paths.

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
