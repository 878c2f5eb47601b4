r"""Final answers: taking one out of a model's text and comparing it with the accepted one.

What two answers must share to be equal:

- Numbers: the value, within a relative 1e-6, however it is written ("1,200", "1e3", "\frac{1}{2}", "1 1/2",
  "1.5 million"). Two integers written out must agree in every digit.
- Units: "18 dollars" is "18" and "5 km" is "5", but "5 km" is not "5 m": a unit counts when both sides have one. Units
  are not converted. A percent sign is a unit: "40%" is "40", as accepted answers often leave it out, and not "0.4".
- Words: the same ones, without case, spaces, the article before them and the mark after them.
- Tuples and intervals: the brackets, and the items in order. Sets: the items. A list without brackets is either.
- "x = 5" is "5", but not "y = 5".
- Other mathematics: what math-verify says; see `mentor_edge.tasks.answers.formulas`.
- Dates, scores and ranges ("3-2") are text.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from dataclasses import dataclass, replace
from typing import NamedTuple

from mentor_edge.tasks.answers import formulas as judge
from mentor_edge.tasks.answers import units

# Commas group thousands only ("1,2" is no number), and no two parts can match the same digits: linear on any text.
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_NUMBER = re.compile(rf"[-+]?{_DIGITS}", re.ASCII)
_INTEGER = re.compile(r"[-+]?[\d,]+", re.ASCII)
_BOX = r"\boxed{"

# Longer answers are compared as text, in one pass; answers this short are worth remembering, as rollouts repeat them.
_LONGEST = 1000
_MOST_NESTED = 4
_MOST_PAIRED = 6
_TOLERANCE = 1e-6
# Numbers that differ in rounding alone: 0.1 + 0.2 - 0.3 is 5.6e-17.
_ZERO = 1e-12


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
    r"""The number that a text says ("1,200", "$5", "40%", "\frac{1}{2}", "5 km"), or None when it says something else.

    Units are dropped and not applied: "40%" is 40.
    """
    bare = text.strip()
    if _NUMBER.fullmatch(bare):
        return _finite(bare)
    return _read(bare).number if len(bare) <= _LONGEST else None


def answers_equal(given: str, accepted: str) -> bool:
    """Whether two answers mean the same, by the rules at the top of this module. Order does not matter.

    An empty answer equals nothing. Never raises.
    """
    given, accepted = given.strip(), accepted.strip()
    if not given or not accepted:
        return False
    if given == accepted:
        return True
    if _NUMBER.fullmatch(given) and _NUMBER.fullmatch(accepted):
        return _same_number(given, accepted)
    if len(given) > _LONGEST or len(accepted) > _LONGEST:
        return _squeezed(given).casefold() == _squeezed(accepted).casefold()
    return _equal(_read(given), _read(accepted))


def clear_caches() -> None:
    """Forget all answers compared so far, as measurements need."""
    _read.cache_clear()
    judge.clear_caches()


def _finite(numeral: str) -> float | None:
    value = float(numeral.replace(",", ""))
    return value if math.isfinite(value) else None


def _same_number(first: str, second: str) -> bool:
    if _INTEGER.fullmatch(first) and _INTEGER.fullmatch(second):
        return _canonical(first) == _canonical(second)
    left, right = _finite(first), _finite(second)
    return left is not None and right is not None and _close(left, right)


def _canonical(integer: str) -> str:
    """An integer's digits, as text: no limit of length, and exact."""
    digits = integer.lstrip("+-").replace(",", "").lstrip("0") or "0"
    return f"-{digits}" if integer[0] == "-" and digits != "0" else digits


def _close(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=_TOLERANCE, abs_tol=_ZERO)


# Text ----------------------------------------------------------------------------------------------------------------

_SYMBOLS = str.maketrans(
    {
        "\u2212": "-", "\u2013": "-", "\u2014": "-", "\u00d7": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/",
        "\u2044": "/", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
        "\u222a": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "θ": r"\theta ", "²": "^2", "³": "^3",
        "½": r"\frac12 ", "⅓": r"\frac13 ", "⅔": r"\frac23 ", "¼": r"\frac14 ", "¾": r"\frac34 ", "º": "°",
        "\u2018": "'", "\u2019": "'", "“": '"', "”": '"', "\uff05": "%", "\uff08": "(", "\uff09": ")", "\uff0c": ",",
    }
)  # a table  # fmt: skip
_ESCAPED = re.compile(r"(?<!\\)\\([%$#&_ ])")
_REWRITTEN = [
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits)(?![A-Za-z])\.?|\\!"), ""),
    (re.compile(r"(?<=\d)\\,(?=\d{3})|\{,\}"), ","),
    (re.compile(r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![A-Za-z])"), " "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\^\s*\{?\s*\\circ(?![A-Za-z])\s*\}?|\\degrees?(?![A-Za-z])"), "°"),
    (re.compile(r"\*\*(?=[\d({])"), "^"),
    (re.compile(r"\\?\b(?:infinity|infty|oo|inf)\b"), r"\\infty "),
    (re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"(?<![\\A-Za-z])sqrt(?![A-Za-z])\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
]
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|operatorname|mbox|rm)\s*\{([^{}]*)\}")
_LAST_TEXT = re.compile(_TEXT.pattern + r"(\s*\^\s*\{?-?[1-3]\}?)?\s*\.?$")
_LABEL = re.compile(r"([A-Za-z](?:_\w|'|\([a-z]\))?|\([a-z](?:, ?[a-z])+\))\s*(?:=|\\in(?![A-Za-z]))\s*(?=[^\s=])")
_CONJUNCTION = re.compile(r"\s+(?:and|or)\s+", re.IGNORECASE)
_FIRST_CONJUNCTION = re.compile(r"(?:and|or)\s+", re.IGNORECASE)
_ARTICLE = re.compile(r"(?<!\w)(?:an?|the)\s+(?=\w\w)")


def _squeezed(text: str) -> str:
    """Without spaces, but for one between digits: "1 2" is not "12"."""
    joined = "".join(
        f" {part}" if before[-1:].isdigit() and part[0].isdigit() else part
        for before, part in itertools.pairwise(["", *text.split()])
    )
    return joined or text


def _cleaned(text: str) -> str:
    if not text.isascii():
        text = "".join(str(int(c)) if c.isdecimal() and c > "\x7f" else c for c in text.translate(_SYMBOLS))
    # An escaped dollar is money; other dollars are too, unless they come in pairs, as around LaTeX.
    text = _ESCAPED.sub(lambda found: {"$": units.MONEY, " ": r"\ "}.get(found[1], found[1]), text)
    if text.count("$") % 2 == 0:
        text = text.replace("$", "")
    text = text.replace("$", units.MONEY)
    for ends in (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ('"', '"'), ("`", "`"):
        if len(text) > len("".join(ends)) and text.startswith(ends[0]) and text.endswith(ends[1]):
            text = text[len(ends[0]) : -len(ends[1])].strip()
    for pattern, new in _REWRITTEN:
        text = pattern.sub(new, text)
    return text.strip()


# Numbers -------------------------------------------------------------------------------------------------------------

_QUANTITY = re.compile(
    rf"""(?P<sign>[-+]?)\s*(?P<money>[{units.MONEY}€£¥₹¢]?)\s*(?P<inner_sign>[-+]?)\s*
    (?:(?P<whole>\d+)?\s*\\frac\s*(?:\{{\s*(?P<top>-?{_DIGITS})\s*\}}|(?P<short_top>\d))
       \s*(?:\{{\s*(?P<bottom>{_DIGITS})\s*\}}|(?P<short_bottom>\d))
    |(?:(?P<plain_whole>\d+)\s+)?(?P<plain_top>{_DIGITS})\s*/\s*(?P<plain_bottom>{_DIGITS})
    |(?P<numeral>\d{{1,3}}(?:\ \d{{3}})+(?!\d)|{_DIGITS})
       (?:\s*(?:\\times|\\cdot|[*x])\s*10\s*\^\s*(?:\{{\s*(?P<power>[-+]?\d{{1,3}})\s*\}}|(?P<short_power>\d{{1,3}})))?
    )(?P<rest>.*)""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_POWER_OF_TEN = re.compile(r"10\s*\^\s*(?:\{\s*(-?\d{1,3})\s*\}|(\d{1,3}))", re.ASCII)


class _Quantity(NamedTuple):
    value: float
    integer: str  # canonical digits when written out as an integer
    unit: str
    formula: str  # the value alone, as LaTeX; empty when it cannot be written exactly


def _quantity(text: str) -> _Quantity | None:
    power = _POWER_OF_TEN.fullmatch(text)
    if power:
        ten = float(f"1e{power[1] or power[2]}")
        return _Quantity(ten, "", "", text) if math.isfinite(ten) else None
    found = _QUANTITY.fullmatch(text)
    if not found or (found["sign"] and found["inner_sign"]):
        return None
    ending = units.unit_of(found["rest"])
    if ending is None:
        return None
    scale, unit = ending
    value = _value(found)
    if value is None:
        return None
    negative = "-" in (found["sign"], found["inner_sign"])
    money = units.UNIT_NAMES.get(found["money"], "")
    numeral = (found["numeral"] or "").replace(" ", ",")
    written_out = scale == 1 and not (found["power"] or found["short_power"]) and _INTEGER.fullmatch(numeral)
    integer = _canonical("-" * negative + numeral) if written_out else ""
    value *= -scale if negative else scale
    top, bottom = found["top"] or found["short_top"], found["bottom"] or found["short_bottom"]
    if integer or not top or found["whole"] or scale != 1:
        formula = integer or (f"{value}" if "e" not in f"{value}" else "")
    else:
        formula = rf"{'-' * negative}\frac{{{top}}}{{{bottom}}}"
    return _Quantity(value, integer, unit if unit == money or not money else money + unit, formula)


def _value(found: re.Match[str]) -> float | None:
    """The number that a match of _QUANTITY says, without sign and scale."""
    value: float | None
    if found["numeral"]:
        value = _finite(found["numeral"].replace(" ", ""))
        if value is not None:
            value *= float(f"1e{found['power'] or found['short_power'] or 0}")
    else:
        whole = _finite(found["whole"] or found["plain_whole"] or "0")
        top = _finite(found["top"] or found["short_top"] or found["plain_top"])
        bottom = _finite(found["bottom"] or found["short_bottom"] or found["plain_bottom"])
        if whole is None or top is None or not bottom:
            return None
        mixed = bool(found["whole"] or found["plain_whole"])
        if mixed and not 0 <= top < bottom:  # "2 3/2" is no mixed number
            return None
        value = whole + top / bottom
    return value if value is not None and math.isfinite(value) else None


# Readings ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reading:
    """What an answer was understood as. `number`, `items` and `formula` are empty where it is none of that."""

    key: str  # equal keys are equal answers
    label: str = ""  # the x of "x = 5"
    unit: str = ""
    number: float | None = None
    integer: str = ""
    brackets: str = ""  # "()", "[)", "{}" or ",", around `items`
    items: tuple[_Reading, ...] = ()
    formula: str = ""


@functools.lru_cache(maxsize=8192)
def _read(text: str, nested: int = 0) -> _Reading:
    body, unit = _without_text_unit(text if nested else _cleaned(text))
    body = _TEXT.sub(r" \1 ", body).strip()
    body = body.rstrip(".,;: ") or body
    quantity = _quantity(body)
    if quantity is not None:
        # The unit may stand on both sides: "$5 \text{ dollars}".
        unit = quantity.unit if unit in ("", quantity.unit) else quantity.unit + unit
        return _Reading(
            _squeezed(body), unit=unit, number=quantity.value, integer=quantity.integer, formula=quantity.formula
        )
    if nested < _MOST_NESTED:
        found = _collection(body, nested)
        if found is not None:
            return found
        label = _LABEL.match(body)
        if label:
            last = _read(body[label.end() :].rpartition("=")[2].strip(), nested + 1)
            if last.key:
                return replace(last, label="".join(label[1].split()), unit=unit or last.unit)
    if judge.is_formula(body):
        return _Reading(_squeezed(body), unit=unit, formula=body)
    words = _ARTICLE.sub("", body.replace(",", " ").casefold().strip("'\"*_ ")).rstrip(".!?;:")
    return _Reading(_squeezed(words) or text)


def _without_text_unit(text: str) -> tuple[str, str]:
    r"""A text and the unit of its last `\text{...}`; the whole text and no unit when that holds something else."""
    last = _LAST_TEXT.search(text)
    if last and judge.is_formula(text[: last.start()].strip()):
        ending = units.unit_of(f" {last[1]}{last[2] or ''}")
        if ending is not None and ending[0] == 1:
            return text[: last.start()].strip(), ending[1]
    return text, ""


def _collection(body: str, nested: int) -> _Reading | None:
    """A tuple, interval, set or list without brackets, or what single brackets hold; None for anything else."""
    left, right = (2 if body.startswith("\\{") else 1), (2 if body.endswith("\\}") else 1)
    pieces = None
    if body[:left] in ("(", "[", "{", "\\{") and len(body) >= left + right:
        pieces = _pieces(body[left:-right])
    if pieces is not None and body[-1] in ")]}":
        brackets = body[left - 1] + body[-1]
        if len(pieces) == 1 and brackets in ("()", "{}") and pieces[0]:
            return _read(pieces[0], nested + 1)
        if all(pieces):
            return _Reading(_squeezed(body), brackets=brackets, items=tuple(_read(p, nested + 1) for p in pieces))
        return None
    pieces = _pieces(body)
    if pieces is None or "\\begin" in body:
        return None
    only_numbers = len(pieces) == 1
    if only_numbers:
        pieces = _CONJUNCTION.split(body)
    if len(pieces) < 2 or not all(pieces):
        return None
    items = tuple(_read(_FIRST_CONJUNCTION.sub("", piece), nested + 1) for piece in pieces)
    if all(item.number is not None and not item.unit if only_numbers else item.items or item.formula for item in items):
        return _Reading(_squeezed(body), brackets=",", items=items)
    return None


def _pieces(text: str) -> list[str] | None:
    """A text split at commas and semicolons outside of brackets; None when brackets do not match."""
    pieces, depth, begin = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return None
        if depth == 0 and character in ",;":
            pieces.append(text[begin:position].strip())
            begin = position + 1
    return None if depth else [*pieces, text[begin:].strip()]


# Comparison ----------------------------------------------------------------------------------------------------------


def _equal(first: _Reading, second: _Reading) -> bool:
    if first.unit and second.unit and first.unit != second.unit:
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


def _formulas_equal(first: _Reading, second: _Reading) -> bool:
    left, right = first.formula, second.formula
    if not left or not right:
        return False
    # "y = x + 1" is "x + 1", but "2x = 10" is not "10".
    if first.label != second.label and ("=" in left or "=" in right or (first.label and second.label)):
        left, right = (f"{side.label}={side.formula}" if side.label else side.formula for side in (first, second))
    return ("=" in left) == ("=" in right) and judge.symbolically_equal(left, right)


def _items_equal(first: _Reading, second: _Reading) -> bool:
    kinds = {first.brackets, second.brackets}
    if kinds <= {"{}", ","}:
        return _equal_in_any_order(first.items, second.items, same_length="," in kinds)
    if len(kinds) > 1 and kinds not in ({"()", ","}, {"[]", ","}):
        return False
    return len(first.items) == len(second.items) and all(map(_equal, first.items, second.items))


def _equal_in_any_order(first: tuple[_Reading, ...], second: tuple[_Reading, ...], same_length: bool) -> bool:
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


def _rank(reading: _Reading) -> tuple[bool, float, str]:
    return reading.number is None, reading.number or 0.0, reading.key
