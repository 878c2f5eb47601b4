"""docs/security.md counts the attacks that are tested: the rows of `ATTACKS` in each file of this directory."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path

from helpers.hostile_gguf import HOSTILE
from helpers.paths import DOCS

HERE = Path(__file__).parent
OTHERS = {"GGUF headers": HOSTILE}
"""Tables of attacks that other tests use, too."""


def counted() -> Counter[str]:
    counts = Counter({name: len(table) for name, table in OTHERS.items()})
    for path in sorted(HERE.glob("test_*.py")):
        if path != Path(__file__):
            module = importlib.import_module(path.stem)  # pytest puts this directory on the module path
            counts[path.stem.removeprefix("test_").replace("_", " ")] += len(getattr(module, "ATTACKS", ()))
    return +counts


def table(counts: Counter[str]) -> str:
    rows = "\n".join(f"| {kind} | {number} |" for kind, number in sorted(counts.items()))
    return f"| kind | attacks |\n|---|---|\n{rows}\n| all | {counts.total()} |\n"


def test_the_document_counts_the_attacks() -> None:
    expected = table(counted())
    assert expected in (DOCS / "security.md").read_text(encoding="utf-8"), f"docs/security.md needs\n{expected}"


def test_there_are_at_least_250() -> None:
    assert counted().total() >= 250
