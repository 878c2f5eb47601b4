"""docs/students.md says what was measured, and TRL's templates still do what it says."""

from __future__ import annotations

import sys

import pytest

from helpers.paths import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import generate_students as generator

ROWS = generator.rows()
MUST_BE_THERE = (
    "Qwen2.5", "Qwen2.5-Coder", "Qwen3", "Qwen3-Coder", "Llama 3 ", "Llama 3.1", "Llama 3.2", "Hermes-3", "SmolLM2",
    "SmolLM3", "Gemma 3", "Gemma 4", "Phi-3", "Phi-3.5", "Phi-4-mini", "Mistral", "Granite", "LFM2", "DeepSeek-V3",
    "DeepSeek-R1-Distill", "GLM", "gpt-oss", "Command R", "Nemotron", "FunctionGemma",
)  # a table  # fmt: skip


def test_the_page_agrees_with_the_record() -> None:
    assert generator.PAGE.read_text(encoding="utf-8") == generator.page(ROWS)


def test_the_page_has_every_family() -> None:
    page = generator.PAGE.read_text(encoding="utf-8")
    assert [name for name in MUST_BE_THERE if name not in page] == []
    assert len({row.file for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.source.startswith(("trl ", "tests/"))], ids=lambda row: row.file
)
def test_a_template_at_hand_does_what_the_record_says(row: generator.Row) -> None:
    source = generator.source_of(row, [])
    assert source is not None
    assert generator.measured(row, source) == row
