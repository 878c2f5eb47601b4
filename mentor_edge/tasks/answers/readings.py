"""Reading an answer as a number with a unit, a formula, a collection of answers, or words."""

from __future__ import annotations

import functools
import itertools
import math
import re
from dataclasses import dataclass, replace
from typing import NamedTuple

from mentor_edge.tasks.answers import formulas, units
from mentor_edge.tasks.answers.characters import plain
from mentor_edge.tasks.answers.words import date_in_words, number_in_words

# Commas only group thousands ("1,2" is not a number). No two parts can match the same digits: linear in any text.
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
NUMBER = re.compile(rf"[-+]?{_DIGITS}", re.ASCII)
"""A plain number, with or without commas between thousands."""
INTEGER = re.compile(r"[-+]?[\d,]+", re.ASCII)
"""An integer, given that the text is a `NUMBER`."""
_MOST_NESTED = 4


def finite_number(numeral: str) -> float | None:
    """The value of a plain number, or None if it is too large for a float."""
    value = float(numeral.replace(",", ""))
    return value if math.isfinite(value) else None


def canonical_digits(integer: str) -> str:
    """An integer's digits as text, which are exact at any length."""
    digits = integer.lstrip("+-").replace(",", "").lstrip("0") or "0"
    return f"-{digits}" if integer[0] == "-" and digits != "0" else digits


# Text ----------------------------------------------------------------------------------------------------------------

_ESCAPED = re.compile(r"(?<!\\)\\([%$#&_ ])")
_LOGARITHM = (
    r"(?<![A-Za-z])\\?log\s*_\s*(?:\{(\d{1,3})\}|(\d{1,3}))\s*"
    r"(?:\((\d{1,9})\)|\{(\d{1,9})\}|(?<=[\s}])(\d{1,9}))"
)
_REWRITTEN = [
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits)(?![A-Za-z])\.?|\\!"), ""),
    (re.compile(r"\{\s*\\rm(?![A-Za-z])\s*([^{}]*)\}"), r"\\text{\1}"),
    (re.compile(r"\\rm(?![A-Za-z])\s*(?=[^\s{])"), " "),
    (re.compile(r"(?<=\d)\\,(?=\d{3})|\{,\}|(?<=\d)['_](?=\d{3}(?!\d))"), ","),
    (re.compile(r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![A-Za-z])"), " "),
    (re.compile(r"\\(?:[dtc]|nice|s)frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\^\s*\{?\s*\\circ(?![A-Za-z])\s*\}?|\\degrees?(?![A-Za-z])"), "°"),
    (re.compile(r"\*\*\s*(?=[-+]?[\d({])"), "^"),
    (re.compile(r"(?<![<>=!])>="), r"\\ge "),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r"!="), r"\\ne "),
    (re.compile(r"\\?\b(?:infinity|infty|oo|inf)\b"), r"\\infty "),
    (re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"(?<![\\A-Za-z])(ln|log|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan)(?=\s*\()"), r"\\\1 "),
    (re.compile(r"(?<!\w)\\?exp\s*\(([^()^]*)\)"), r"e^{\1}"),
    (re.compile(r"(?<![\\A-Za-z])sqrt(?=\s*\()"), r"\\sqrt"),
    (re.compile(r"(\\sqrt(?:\[\d\])?)\s*(\d{1,3}(?:,\d{3})+(?![\d.])|\d+(?:\.\d+)?)"), r"\1{\2}"),
    (re.compile(r"(\\sqrt(?:\[\d\])?)\s*(\\frac\{[^{}]*\}\{[^{}]*\})"), r"\1{\2}"),
    (re.compile(r"(?<=[\d)])\s*_\s*(?:\{\s*(\d{1,2})\s*\}|(\d{1,2}))(?!\d)"), r"_{\1\2}"),
    (re.compile(r"\((\d+)\)(?=_\{)"), r"\1"),
    (re.compile(r"(?<![\w:.,])(\d{1,2})(?::00)?\s*([ap])(?:\.\s?)?m(?![a-z])\.?", re.IGNORECASE), r"\1 \2m"),
    (re.compile(_LOGARITHM), r"\\log_{\1\2}(\3\4\5)"),
]
_REPEATING = re.compile(
    r"(?<![\d.])(?P<whole>\d{1,12})\.(?P<start>\d{0,12}?)"
    r"(?:\\(?:overline|bar)\s*\{(?P<period>\d{1,12})\}|"
    r"(?P<digit>\d)(?P=digit){2,12}+(?:\.\.\.|…|\\[lc]?dots(?![A-Za-z])))(?!\d)"
)
_LOSS = re.compile(rf"\(\s*({units.CURRENCY}\s*\d[^()]*)\)")
_SEVERAL_UNITS = re.compile(r"\d[\d.]*\s*[A-Za-z]+\.?(?:(?:,|\s+and)?\s+\d[\d.]*\s*[A-Za-z]+\.?)+", re.ASCII)
_AMOUNT = re.compile(r"\d[\d.]*\s*[A-Za-z]+", re.ASCII)
_ROOT_OF_BRACKET = re.compile(r"\\sqrt(?:\[\d\])?\s*(?=\()")
_MOST_ROOTS = 20
_TEXT_IN_BRACES = r"\{\s*\\(?:text|mathrm)\s*\{\s*([^{}]*)\}\s*(\^\s*\{?\d\}?)?\s*\}"
_FRACTION_OF_UNITS = re.compile(rf"\\frac\s*{_TEXT_IN_BRACES}\s*{_TEXT_IN_BRACES}")
_OPTION = re.compile(r"(?:(?:option|choice)\s+\(?([A-J])\)?|([A-J])\))", re.IGNORECASE)
_NEGATIVE = re.compile(r"(?:minus|negative)\s+(?=[^\s+-])", re.IGNORECASE)
_IN_BASE = re.compile(r"[-+]?\d[\d.,]*_\{\d{1,2}\}", re.ASCII)
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|operatorname|mbox|rm|boldsymbol|bm|emph|mathsf|boxed|fbox)\s*\{([^{}]*)\}"
)
_LAST_TEXT = re.compile(_TEXT.pattern + r"(\s*\^\s*\{?-?[1-3]\}?)?\s*\.?$")
_LABEL = re.compile(r"([A-Za-z](?:_\w|'|\([a-z]\))?|\([a-z](?:, ?[a-z])+\))\s*(?:=|\\in(?![A-Za-z]))\s*(?=[^\s=])")
_CONJUNCTION = re.compile(r"\s+(?:and|or)\s+", re.IGNORECASE)
_FIRST_CONJUNCTION = re.compile(r"(?:and|or)\s+", re.IGNORECASE)
_PREFIX = re.compile(
    r"\s*(?:(?:the\s+)?(?:final\s+|correct\s+)?answer\s*(?:is|:|=)\s*:?|[:=](?![=:]))\s*(?=\S)", re.IGNORECASE
)
_APPROXIMATELY = re.compile(
    r"\s*(?:approximately|approx\.?|about|around|roughly|circa|ca\.|~|\\approx(?![A-Za-z])|\\sim(?![A-Za-z]))\s*"
    rf"(?=[-+]?\s*(?:[{units.MONEY}€£¥₹¢]\s*)?[\d.]|\\d?frac)",
    re.IGNORECASE,
)
_FEET_AND_INCHES = re.compile(r"(\d+)\s*'\s*(\d+)\s*\"", re.ASCII)
_FEET_OR_INCHES = re.compile(r"([-+]?\d[\d.,/ ]*)(['\"])", re.ASCII)
_ABBREVIATED = re.compile(r"\b([ap])\.\s?m\.?(?!\w)", re.IGNORECASE)
_DOT = re.compile(r"\.(?!\d)")
_ARTICLE = re.compile(r"(?<!\w)(?:an?|the)\s+(?=\w\w)")


def squeezed(text: str) -> str:
    """The text without spaces, except for one between digits: "1 2" is not "12"."""
    joined = "".join(
        f" {part}" if before[-1:].isdigit() and part[0].isdigit() else part
        for before, part in itertools.pairwise(["", *text.split()])
    )
    return joined or text


def _cleaned(text: str) -> str:
    text = plain(text).strip()
    text = _PREFIX.sub("", text, count=1) if _PREFIX.match(text) else text
    # An escaped dollar means money. So do other dollars, unless they come in pairs, as around LaTeX.
    text = _ESCAPED.sub(lambda match: {"$": units.MONEY, " ": r"\ "}.get(match[1], match[1]), text)
    if text.count("$") % 2 == 0:
        text = text.replace("$", "")
    text = text.replace("$", units.MONEY)
    for ends in (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ('"', '"'), ("`", "`"):
        if len(text) > len("".join(ends)) and text.startswith(ends[0]) and text.endswith(ends[1]):
            text = text[len(ends[0]) : -len(ends[1])].strip()
    text = _APPROXIMATELY.sub("", text, count=1) if _APPROXIMATELY.match(text) else text
    if feet := _FEET_OR_INCHES.fullmatch(text):
        text = f"{feet[1]} {'ft' if feet[2] == chr(39) else 'in'}"
    elif feet := _FEET_AND_INCHES.fullmatch(text):
        text = f"{feet[1]} ft {feet[2]} in"
    elif loss := _LOSS.fullmatch(text):  # as accountants write it
        text = f"-{loss[1]}"
    text = _REPEATING.sub(_fraction, text)
    for pattern, new in _REWRITTEN:
        text = pattern.sub(new, text)
    text = _FRACTION_OF_UNITS.sub(lambda m: rf" \text{{{m[1]}{m[2] or ''}/{m[3]}{m[4] or ''}}}", text)
    return _braced(text, _ROOT_OF_BRACKET).strip()


def _fraction(repeating: re.Match[str]) -> str:
    r"""A decimal that repeats, such as "0.\overline{3}" or "0.333...", as a fraction."""
    period = repeating["period"] or repeating["digit"]
    before = repeating["whole"] + repeating["start"]
    return rf"\frac{{{int(before + period) - int(before)}}}{{{'9' * len(period) + '0' * len(repeating['start'])}}}"


def _braced(text: str, command: re.Pattern[str]) -> str:
    """The text with braces instead of the round brackets after a command."""
    for match in itertools.islice(reversed(list(command.finditer(text))), _MOST_ROOTS):
        begin, depth = match.end(), 0
        for position in range(begin, len(text)):
            depth += (text[position] == "(") - (text[position] == ")")
            if depth == 0:
                text = f"{text[:begin]}{{{text[begin + 1 : position]}}}{text[position + 1 :]}"
                break
    return text


# Numbers -------------------------------------------------------------------------------------------------------------

_POWER = (
    r"(?:\{\s*(?P<power>[-+]?\d{1,3})\s*\}|\(\s*(?P<round_power>[-+]?\d{1,3})\s*\)|(?P<short_power>[-+]?\d{1,3}(?!\d)))"
)
_QUANTITY = re.compile(
    rf"""(?P<sign>[-+]?)\s*(?P<money>{units.CURRENCY}|)\s*(?P<inner_sign>[-+]?)\s*
    (?:(?P<whole>\d+)?\s*\\frac\s*(?:\{{\s*(?P<top>-?{_DIGITS})\s*\}}|(?P<short_top>\d))
       \s*(?:\{{\s*(?P<bottom>{_DIGITS})\s*\}}|(?P<short_bottom>\d))
    |(?:(?P<plain_whole>\d+)\s+)?(?P<plain_top>{_DIGITS})\s*/\s*(?P<plain_bottom>{_DIGITS})
    |(?P<continental>(?:\d{{1,3}}(?:\.\d{{3}})+|\d{{1,3}}(?:\ \d{{3}})+|\d+),\d\d?(?![\d,]))
    |(?P<indian>\d\d?(?:,\d\d)+,\d{{3}}(?![\d,])(?:\.\d+)?)
    |(?P<numeral>\d{{1,3}}(?:\ \d{{3}})+(?!\d)(?:\.\d+)?|{_DIGITS})
       (?:\s*(?:\\times|\\cdot|[*xX])\s*10\s*\^\s*{_POWER})?
    )(?P<rest>.*)""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_POWER_OF_TEN = re.compile(rf"(?P<sign>[-+]?)\s*10\s*\^\s*{_POWER}(?P<rest>.*)", re.ASCII | re.DOTALL)


class _Quantity(NamedTuple):
    value: float
    integer: str  # canonical digits when written out as an integer
    unit: str
    formula: str  # the value without its unit, as LaTeX; empty if it cannot be written exactly


def _quantity(text: str) -> _Quantity | None:
    power = _POWER_OF_TEN.fullmatch(text)
    if power:
        ten, ending = float(f"{power['sign']}1e{_exponent(power)}"), units.unit_of(power["rest"])
        if ending is not None and math.isfinite(ten):
            formula = text.removesuffix(power["rest"])
            return _Quantity(ten * ending[0], "", ending[1], "" if ending[0] != 1 else formula)
        return None
    match = _QUANTITY.fullmatch(text)
    if not match or (match["sign"] and match["inner_sign"]):
        return None
    money = units.currency_name(match["money"])
    rest = "" if money and match["rest"].strip() in ("/-", "-") else match["rest"]
    ending = units.money_scale(rest) if money else None
    ending = ending or units.unit_of(rest)
    if ending is None:
        return None
    scale, unit = ending
    # Without a currency, "1.234,50" may be a list.
    if match["continental"] and not (money or unit in units.CURRENCY_NAMES):
        return None
    if match["indian"] and "rupee" not in (money, unit):
        return None
    value = _value(match)
    if value is None:
        return None
    negative = "-" in (match["sign"], match["inner_sign"])
    numeral = (match["numeral"] or "").replace(" ", ",")
    written_out = scale == 1 and not _exponent(match) and INTEGER.fullmatch(numeral)
    integer = canonical_digits("-" * negative + numeral) if written_out else ""
    value *= -scale if negative else scale
    top, bottom = match["top"] or match["short_top"], match["bottom"] or match["short_bottom"]
    if integer or not top or match["whole"] or scale != 1:
        formula = integer or (f"{value}" if "e" not in f"{value}" else "")
    else:
        formula = rf"{'-' * negative}\frac{{{top}}}{{{bottom}}}"
    return _Quantity(value, integer, _joined(money, unit), formula)


def _joined(money: str, unit: str) -> str:
    """The unit of an amount that has one on both sides, which may be the same: "$5 dollars"."""
    return money or unit if not money or not unit or units.same_unit(money, unit) else money + unit


def _exponent(match: re.Match[str]) -> str:
    """The exponent of ten in a match of _POWER, empty if there is none."""
    return match["power"] or match["round_power"] or match["short_power"] or ""


def _value(match: re.Match[str]) -> float | None:
    """The number in a match of _QUANTITY, without sign and scale."""
    value: float | None
    if match["numeral"]:
        value = finite_number(match["numeral"].replace(" ", ""))
        if value is not None:
            value *= float(f"1e{_exponent(match) or 0}")
    elif match["continental"]:
        value = finite_number(match["continental"].replace(".", "").replace(" ", "").replace(",", "."))
    elif match["indian"]:
        value = finite_number(match["indian"])
    else:
        whole = finite_number(match["whole"] or match["plain_whole"] or "0")
        top = finite_number(match["top"] or match["short_top"] or match["plain_top"])
        bottom = finite_number(match["bottom"] or match["short_bottom"] or match["plain_bottom"])
        if whole is None or top is None or not bottom:
            return None
        mixed = bool(match["whole"] or match["plain_whole"])
        if mixed and not 0 <= top < bottom:  # "2 3/2" is not a mixed number
            return None
        value = whole + top / bottom
    return value if value is not None and math.isfinite(value) else None


# Readings ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reading:
    """How an answer was read. `number`, `items` and `formula` are empty if it is not of that kind."""

    key: str
    """Answers with equal keys are equal."""
    label: str = ""
    """The x of "x = 5"."""
    unit: str = ""
    number: float | None = None
    integer: str = ""
    """The digits of an integer that is written out."""
    brackets: str = ""
    """The brackets around `items`: "()", "[)", "{}" or, for a list without brackets, ","."""
    items: tuple[Reading, ...] = ()
    formula: str = ""
    """The answer as LaTeX, without its unit."""


@functools.lru_cache(maxsize=8192)
def read(text: str, nested: int = 0) -> Reading:
    """Read an answer. `nested` counts the brackets and labels around it."""
    body, unit = _without_text_unit(text if nested else _cleaned(text))
    body = _TEXT.sub(r" \1 ", body).strip()
    body = body.rstrip(".,;: ") or body
    quantity = _quantity(body)
    if quantity is not None:
        # The unit may be on both sides: "$5 \text{ dollars}".
        unit = _joined(quantity.unit, unit)
        return Reading(
            squeezed(body), unit=unit, number=quantity.value, integer=quantity.integer, formula=quantity.formula
        )
    if (date := date_in_words(body)) is not None:
        return Reading(f"date {date}")
    if (number := number_in_words(body)) is not None:
        return replace(read(number[0], nested + 1), unit=number[1])
    if _SEVERAL_UNITS.fullmatch(body) and (amounts := _amounts(body)):
        return Reading(amounts)
    if (counted := _counted_in_words(body)) is not None:
        return counted
    if (negative := _NEGATIVE.match(body)) and nested < _MOST_NESTED:
        last = read(body[negative.end() :], nested + 1)
        if last.number is not None and last.unit != "th" and not last.label:
            digits = f"-{last.integer}".replace("--", "") if last.integer.strip("0") else last.integer
            formula = f"-{last.formula}" if last.formula else ""
            return replace(last, key=f"-{last.key}", number=-last.number, integer=digits, formula=formula)
    if (option := _OPTION.fullmatch(body)) is not None:
        body = option[1] or option[2]
    if nested < _MOST_NESTED:
        collection = _collection(body, nested)
        if collection is not None:
            return collection
        label = _LABEL.match(body)
        if label:
            last = read(body[label.end() :].rpartition("=")[2].strip(), nested + 1)
            if last.key:
                return replace(last, label="".join(label[1].split()), unit=unit or last.unit)
    if _IN_BASE.fullmatch(body):
        return Reading(squeezed(body), unit=unit)
    if formulas.is_formula(body):
        return Reading(squeezed(body), unit=unit, formula=body)
    words = _DOT.sub("", _ABBREVIATED.sub(r"\1m", body))
    words = _ARTICLE.sub("", words.replace(",", " ").casefold().strip("'\"*_ ")).rstrip("!?;:")
    return Reading(squeezed(words) or text)


def _amounts(body: str) -> str:
    """The key of an amount with several units: "1 h 30 min". Empty if they are not units of one amount."""
    parts = [_quantity(amount) for amount in _AMOUNT.findall(body)]
    if not all(part and part.unit in units.COMBINED for part in parts):
        return ""
    return "; ".join(f"{part.value} {part.unit.replace('pound', 'lb')}" for part in parts if part)


def _counted_in_words(body: str) -> Reading | None:
    """A number in words before a unit: "five dollars". None if the unit is not a known one: "One Direction"."""
    words, _, noun = body.rpartition(" ")
    number = number_in_words(words) if units.is_known(noun) else None
    return None if number is None or number[1] else read(f"{number[0]} {noun}", _MOST_NESTED)


def _without_text_unit(text: str) -> tuple[str, str]:
    r"""A text and the unit in its last `\text{...}`; the whole text and no unit if that contains something else."""
    last = _LAST_TEXT.search(text)
    if last and formulas.is_formula(text[: last.start()].strip()):
        ending = units.unit_of(f" {last[1]}{last[2] or ''}")
        if ending is not None and ending[0] == 1:
            return text[: last.start()].strip(), ending[1]
    return text, ""


def _collection(body: str, nested: int) -> Reading | None:
    """A tuple, interval, set or list without brackets, or the content of single brackets. None for anything else."""
    left, right = (2 if body.startswith("\\{") else 1), (2 if body.endswith("\\}") else 1)
    pieces = None
    if body[:left] in ("(", "[", "{", "\\{") and len(body) >= left + right:
        pieces = _pieces(body[left:-right])
    if pieces is not None and body[-1] in ")]}":
        brackets = body[left - 1] + body[-1]
        if len(pieces) == 1 and brackets in ("()", "{}") and pieces[0]:
            return read(pieces[0], nested + 1)
        if all(pieces):
            return Reading(squeezed(body), brackets=brackets, items=tuple(read(p, nested + 1) for p in pieces))
        return None
    pieces = _pieces(body)
    if pieces is None or "\\begin" in body:
        return None
    only_numbers = len(pieces) == 1
    if only_numbers:
        pieces = _CONJUNCTION.split(body)
    elif "," in body:
        pieces[-1:] = _CONJUNCTION.split(pieces[-1])
    if len(pieces) < 2 or not all(pieces):
        return None
    items = tuple(read(_FIRST_CONJUNCTION.sub("", piece), nested + 1) for piece in pieces)
    if all(item.number is not None and not item.unit if only_numbers else item.items or item.formula for item in items):
        return Reading(squeezed(body), brackets=",", items=items)
    return None


def _pieces(text: str) -> list[str] | None:
    """A text split at commas and semicolons outside of brackets. None if brackets do not match."""
    pieces, depth, begin = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return None
        if depth == 0 and character in ",;":
            pieces.append(text[begin:position].strip())
            begin = position + 1
    return None if depth else [*pieces, text[begin:].strip()]
