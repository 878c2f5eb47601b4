r"""Final answers: taking one out of a model's text and comparing it with the accepted one."""

from __future__ import annotations

import math
import re

# Commas group thousands only ("1,2" is no number), and no two parts can match the same digits: linear on any text.
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
_BOX = r"\boxed{"


def boxed_answer(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` with balanced braces, stripped; None when there is none or it is empty."""
    start = text.rfind(_BOX)
    if start < 0:
        return None
    depth, begin = 1, start + len(_BOX)
    for position in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position].strip() or None
    return None


def as_number(text: str) -> float | None:
    """The number that a text says ("1,200", "$5", "40%"), or None when it says something else."""
    bare = text.strip().strip("$%").strip()
    if not _NUMBER.fullmatch(bare):
        return None
    value = float(bare.replace(",", ""))
    return value if math.isfinite(value) else None


def answers_equal(given: str, accepted: str) -> bool:
    """Whether two answers mean the same: as numbers (relative tolerance 1e-6) or as text without case and spaces."""
    given_number, accepted_number = as_number(given), as_number(accepted)
    if given_number is not None and accepted_number is not None:
        return math.isclose(given_number, accepted_number, rel_tol=1e-6, abs_tol=1e-9)
    return "".join(given.split()).casefold() == "".join(accepted.split()).casefold()
