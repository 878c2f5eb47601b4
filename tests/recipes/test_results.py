"""The published comparisons: their figures follow from their cells, and their text from the figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.paths import DOCS
from mentor_edge.recipes.comparison.files import read_comparison
from mentor_edge.recipes.comparison.page import comparison_markdown

RESULTS = DOCS / "results"
COMPARISONS = sorted(RESULTS.glob("*.json"))


def test_there_are_results() -> None:
    assert RESULTS / "nano.json" in COMPARISONS


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_text_and_json_agree(path: Path) -> None:
    comparison = read_comparison(path)  # refuses figures that do not follow from its cells
    pictures = {picture.stem: f"{path.stem}/{picture.name}" for picture in (RESULTS / path.stem).glob("*.png")}
    assert pictures
    assert path.with_suffix(".md").read_text(encoding="utf-8") == comparison_markdown(comparison, pictures)


def test_the_main_comparison_is_as_wide_as_it_says() -> None:
    comparison = json.loads((RESULTS / "nano.json").read_text(encoding="utf-8"))
    assert set(comparison["methods"]) >= {"base", "sft", "sparse", "strict", "mentor", "mentor-f1", "mentor-overlap"}
    assert len(comparison["bases"]) >= 2 and len(comparison["seeds"]) >= 3
    assert comparison["teacher_noise"] == ["clean", "mild", "heavy"]
    assert comparison["draw"] == "test" and not comparison["missing"]
    # Without the teacher there is one cell for all noises; everything else has its own.
    assert len(comparison["cells"]) == 2 * (1 + 3 * (1 + 5 * 3))
