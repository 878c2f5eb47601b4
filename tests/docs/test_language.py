"""Phrases that read like a literal translation, kept out of pages, docstrings, comments and messages.

This is not a style guide: it lists a few patterns that have crept in before, each with what to write instead.
"""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.paths import ROOT

PATTERNS = {
    r"(?<!there )\b(?:is|are) no (?!longer\b|more\b|less\b|\w+er than\b)[a-z]+": "is not a ..., is not ...",
    r"\b(?:go|goes|going) on\b(?! to\b)": "continues, resumes",
    r"\banew\b": "again, from scratch",
    r"\bin peace\b": "say what happens",
    r"\bholds? no\b": "does not contain, has no",
    r"\bstands? (?:in(?! for\b)|on|at|beside|behind|there)\b": "is, is in",
    r"\bside by side\b": "in parallel, together",
    r"\bwhat the model says\b": "expected outputs",
    r"\bof a run\b.{0,20}\b(?:said|told)\b": "for a run, the report says",
    r"\b(?:it )?is said (?:that|how|what|why)\b|\bis told (?:so|that)\b": "the message says, the caller learns",
    r"\bin spite of it\b": "still",
    r"\bmended\b": "fixed",
    r"\bgiven up\b": "stopped, abandoned",
    r"\bas \w+ as (?:it|they|he) likes?\b": "say the limit, or that there is none",
}
_WORDS = re.compile("|".join(f"(?:{pattern})" for pattern in PATTERNS), re.IGNORECASE)
_QUOTED = {"CONTRIBUTING.md": "| not | but |", "test_language.py": ""}
"""Files that quote what they warn of: the text before which line counts."""

PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml")),
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name != "api.md"),
    *sorted((ROOT / "recipes" / "configs").glob("*.yaml")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]
FOLDERS = ("mentor_edge", "recipes", "export", "tests", "examples", "benchmarks", "docs")


def phrases(text: str) -> list[str]:
    """The patterns found, line breaks ignored, each with some words around it."""
    flat = " ".join(re.sub(r"\n[ \t]*#", "\n", text).split())
    return [flat[max(0, match.start() - 30) : match.end() + 20] for match in _WORDS.finditer(flat)]


def written(source: Path) -> Iterator[tuple[int, str]]:
    """The string literals (docstrings among them) and blocks of comments of a Python file, with their lines."""
    block: list[tuple[int, str]] = []
    with source.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                block.append((token.start[0], token.string.lstrip("# ")))
            elif token.type not in (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
                if block:
                    yield block[0][0], " ".join(text for _, text in block)
                    block = []
                if token.type == tokenize.STRING:
                    yield token.start[0], token.string


def packages() -> list[str]:
    """Every folder with Python files, relative to the checkout."""
    folders = {source.parent for folder in FOLDERS for source in (ROOT / folder).rglob("*.py")}
    return sorted(str(folder.relative_to(ROOT)) for folder in folders)


def check(found: list[str]) -> None:
    assert found == [], "\n" + "\n".join(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    check(phrases(text.partition(_QUOTED.get(page.name, "\0"))[0]))


@pytest.mark.parametrize("folder", packages())
def test_docstrings_comments_and_messages(folder: str) -> None:
    found = [
        f"{source.relative_to(ROOT)}:{line}: {phrase}"
        for source in sorted((ROOT / folder).glob("*.py"))
        if source.name not in _QUOTED
        for line, text in written(source)
        for phrase in phrases(text)
    ]
    check(found)


@pytest.mark.parametrize(
    "text",
    [
        "A name that is no text names no tool.",
        "With --resume, training goes on\n    where it was.",
        "# the rows stand\n# in FILE.partial",
        "Of a run it is said how many tasks",
        "The directory holds no model",
    ],
)
def test_a_bad_sentence_is_found(text: str) -> None:
    assert phrases(text)


@pytest.mark.parametrize(
    "text",
    [
        "There is no tool of that name.",
        "That is no longer so; F1 stands for a mean.",
        "It goes on to the next stage.",
        "The answer is no.",
    ],
)
def test_a_good_sentence_is_not(text: str) -> None:
    assert phrases(text) == []
