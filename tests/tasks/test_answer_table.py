"""docs/answers.md: every pair of its tables is judged as the page says."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import pytest

from helpers.paths import ROOT
from mentor_edge.tasks.answers.judge import answers_equal

PAGE = (ROOT / "docs" / "answers.md").read_text(encoding="utf-8")
EQUAL, DIFFERENT = (part.split("\n## ")[0] for part in re.split(r"\n## (?:Equal|Different)\n", PAGE)[1:])


def rows(section: str, sign: str) -> Iterator[object]:
    for line in section.splitlines():
        kind, _, cell = line.strip("| ").partition(" | ")
        answers = [re.sub(r"\\u([0-9a-f]{4})", lambda m: chr(int(m[1], 16)), a) for a in re.findall("`(.+?)`", cell)]
        if answers:
            assert len(answers) == cell.count(f"` {sign} `") + 1 > 1, line
            yield pytest.param(answers, id=kind)


@pytest.mark.parametrize("answers", rows(EQUAL, "="))
def test_answers_of_a_row_are_equal(answers):
    unequal = [(a, b) for a, b in itertools.permutations(answers, 2) if not answers_equal(a, b)]
    assert unequal == []


@pytest.mark.parametrize("answers", rows(DIFFERENT, "≠"))
def test_answers_of_a_row_differ(answers):
    equal = [(a, b) for a, b in itertools.permutations(answers, 2) if answers_equal(a, b)]
    assert equal == []


def test_the_page_has_both_tables():
    assert len(list(rows(EQUAL, "="))) > 50 and len(list(rows(DIFFERENT, "≠"))) > 40
