r"""Final answers: extracting one from a model's text and comparing it with the accepted one.

When two answers are equal:

- Numbers: the values are equal within a relative 1e-6, however they are written ("1,200", "1e3", "1.2 x 10^-3",
  "\frac{1}{2}", "1½", "1.5 million", "twenty-five", "about 5"). Two integers written out must agree in every digit.
- Units: "18 dollars" is "18" and "5 km" is "5", but "5 km" is not "5 m": units are compared if both sides have one.
  Synonyms are equal ("km/h" and "kph", "USD 5" and "$5"); nothing is converted. Of
  "1 h 30 min", both units must agree. A percent sign is a unit: "40%" is "40", because accepted answers often leave
  the sign out, and it is not "0.4".
- Words: they are the same, ignoring case, spaces, an article before them and a punctuation mark after them.
- Tuples and intervals: the brackets are equal, and the items in order. Sets: the items are equal in any order. A list
  without brackets can be either.
- "x = 5" is "5", but not "y = 5".
- Other mathematics: math-verify decides; see `mentor_edge.tasks.answers.formulas`.
- Dates with the month in words, or as 2020-06-05, are compared as dates. Other dates, scores and ranges are text.

docs/answers.md has a table of equal answers and of near-misses; a test executes it.
"""

from __future__ import annotations

import math
import re

from mentor_edge.tasks.answers import formulas, units
from mentor_edge.tasks.answers.readings import INTEGER, NUMBER, Reading, canonical_digits, finite_number, read, squeezed

_BOX = r"\boxed{"

# Longer answers are compared as text, in one pass. Shorter ones are cached, because rollouts repeat them.
_LONGEST = 1000
_MOST_PAIRED = 6
_TOLERANCE = 1e-6
# For numbers that differ only in rounding: 0.1 + 0.2 - 0.3 is 5.6e-17.
_ZERO = 1e-12
_SYMBOL = re.compile(r"[\d)}]\s*([MP])[A-Za-z]{1,2}$")


def boxed_answer(text: str) -> str | None:
    r"""The stripped content of the last `\boxed{...}`, or None if it is missing, empty or without its closing brace."""
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
    r"""The number that a text represents ("1,200", "$5", "40%", "\frac{1}{2}", "5 km"), or None if there is none.

    Units are dropped, not applied: "40%" is 40.
    """
    bare = text.strip()
    if NUMBER.fullmatch(bare):
        return finite_number(bare)
    return read(bare).number if len(bare) <= _LONGEST else None


def answers_equal(given: str, accepted: str) -> bool:
    """Whether two answers mean the same, by the rules at the top of this module. The comparison is symmetric.

    An empty answer equals nothing. Never raises.
    """
    given, accepted = given.strip(), accepted.strip()
    if not given or not accepted:
        return False
    if given == accepted:
        return True
    if NUMBER.fullmatch(given) and NUMBER.fullmatch(accepted):
        return _same_number(given, accepted)
    if len(given) > _LONGEST or len(accepted) > _LONGEST:
        return squeezed(given).casefold() == squeezed(accepted).casefold()
    return _equal(read(given), read(accepted))


def clear_caches() -> None:
    """Forget all answers compared so far, for measurements."""
    read.cache_clear()
    formulas.clear_caches()


def _same_number(first: str, second: str) -> bool:
    if INTEGER.fullmatch(first) and INTEGER.fullmatch(second):
        return canonical_digits(first) == canonical_digits(second)
    left, right = finite_number(first), finite_number(second)
    return left is not None and right is not None and _close(left, right)


def _close(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=_TOLERANCE, abs_tol=_ZERO)


# Comparison ----------------------------------------------------------------------------------------------------------


def _equal(first: Reading, second: Reading) -> bool:
    if first.unit and second.unit and not units.same_unit(first.unit, second.unit):
        return False
    if first.label and second.label and first.label != second.label:
        return _formulas_equal(first, second) if first.number is None and second.number is None else False
    if first.number is not None and second.number is not None:
        if first.integer and second.integer:
            return first.integer == second.integer
        return _close(first.number, second.number)
    if first.key == second.key:
        return True
    if first.items and second.items:
        return _items_equal(first, second)
    return _formulas_equal(first, second)


def _formulas_equal(first: Reading, second: Reading) -> bool:
    left, right = first.formula, second.formula
    if not left or not right:
        return False
    if left.casefold() == right.casefold() and _prefix(left) != _prefix(right):
        return False
    # "y = x + 1" is "x + 1", but "2x = 10" is not "10".
    if first.label != second.label and ("=" in left or "=" in right or (first.label and second.label)):
        left, right = (f"{side.label}={side.formula}" if side.label else side.formula for side in (first, second))
    return ("=" in left) == ("=" in right) and formulas.symbolically_equal(left, right)


def _prefix(formula: str) -> str:
    """The first letter of what may be a unit after a number. math-verify ignores case: 5 MT would be 5 mT."""
    symbol = _SYMBOL.search(formula)
    return symbol[1] if symbol else ""


def _items_equal(first: Reading, second: Reading) -> bool:
    kinds = {first.brackets, second.brackets}
    if kinds <= {"{}", ","}:
        return _equal_in_any_order(first.items, second.items, same_length="," in kinds)
    if len(kinds) > 1 and kinds not in ({"()", ","}, {"[]", ","}):
        return False
    return len(first.items) == len(second.items) and all(map(_equal, first.items, second.items))


def _equal_in_any_order(first: tuple[Reading, ...], second: tuple[Reading, ...], same_length: bool) -> bool:
    if len(first) == len(second):
        if all(map(_equal, sorted(first, key=_rank), sorted(second, key=_rank))):
            return True
    elif same_length:
        return False
    if max(len(first), len(second)) > _MOST_PAIRED:
        return False
    return all(any(_equal(x, y) for y in second) for x in first) and all(
        any(_equal(x, y) for y in first) for x in second
    )


def _rank(reading: Reading) -> tuple[bool, float, str]:
    return reading.number is None, reading.number or 0.0, reading.key
