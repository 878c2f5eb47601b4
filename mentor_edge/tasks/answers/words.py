"""Numbers and dates in words: "twenty-five", "two thirds", "3rd", "June 5th, 2020"."""

from __future__ import annotations

import re

_ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # a table  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_VALUES = {word: value for value, word in enumerate(_ONES)} | {word: 10 * (i + 2) for i, word in enumerate(_TENS)}
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_ORDINALS = {
    "first": "one", "second": "two", "third": "three", "fifth": "five", "eighth": "eight", "ninth": "nine",
    "twelfth": "twelve",
}  # a table  # fmt: skip
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10,
}  # a table  # fmt: skip
_ORDINAL_DIGITS = re.compile(r"(\d{1,9}|\d{1,3}(?:,\d{3}){1,2})(st|nd|rd|th)")
_LONGEST = 80

_MONTHS = [
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
]  # a table  # fmt: skip
_MONTH = "(?P<month>" + "|".join(f"{month[:3]}(?:{month[3:]})?\\.?" if month != "may" else "may" for month in _MONTHS)
_MONTH = _MONTH.replace("sep(?:tember)?", "sep(?:t|tember)?") + ")"
_DAY, _YEAR = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?", r"(?P<year>\d{4})"
_DATES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_MONTH} {_DAY}(?:,? {_YEAR})?",
        rf"(?:the )?{_DAY} (?:of )?{_MONTH}(?:,? {_YEAR})?",
        rf"{_MONTH},? {_YEAR}",
        r"(?P<year>\d{4})-(?P<number>0[1-9]|1[0-2])-(?P<day>\d{2})",
    )
)


def number_in_words(text: str) -> tuple[str, str] | None:
    """The number that words denote, written in digits, and its unit: "th" for an ordinal, else "". None for other text.

    The words must be the whole text: "One Direction" is a name. A fraction is written as "2/3".
    """
    words = text.casefold().replace("-", " ").split()
    if not words or len(text) > _LONGEST:
        return None
    if len(words) == 1 and (digits := _ORDINAL_DIGITS.fullmatch(words[0])):
        number = digits[1].replace(",", "")
        return (number, "th") if digits[2] == _suffix(int(number)) else None
    if words in (["dozen"], ["a", "dozen"], ["one", "dozen"]):
        return "12", ""
    if words == ["half"]:
        return "1/2", ""
    if "and" in words[1:-1]:  # "two and a half"
        end = len(words) - 1 - words[::-1].index("and")
        whole, rest = _value(words[:end]), number_in_words(" ".join(words[end + 1 :]))
        if whole and rest is not None and "/" in rest[0]:
            return f"{whole} {rest[0]}", ""
    parts = _PARTS.get(words[-1].removesuffix("s") if words[-1] != "halves" else "halves")
    if parts is not None and len(words) > 1:
        count = 1 if words[:-1] == ["a"] else _value(words[:-1])
        if count is not None and 0 < count < parts:
            return f"{count}/{parts}", ""
    if words[-1] in _ORDINALS or words[-1].endswith("th"):
        last = _ORDINALS.get(words[-1]) or words[-1].removesuffix("th")
        last = f"{last.removesuffix('ie')}y" if last.endswith("ie") else last
        value = _value([*words[:-1], last])
        return None if value is None else (str(value), "th")
    value = _value(words)
    return None if value is None else (str(value), "")


def _suffix(number: int) -> str:
    return "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


def _value(words: list[str]) -> int | None:
    """The value of cardinal words. None if they are not one number: "five six" is two."""
    total, group, room = 0, 0, 1_000_000
    scale_limit = 10**12
    if words[:1] == ["a"] and len(words) > 1 and words[1] in _SCALES:
        words = ["one", *words[1:]]
    for index, word in enumerate(words):
        if word == "and" and 0 < index < len(words) - 1 and words[index - 1] in _SCALES:
            continue
        if word in _SCALES:
            scale = _SCALES[word]
            if group == 0 or scale >= scale_limit:
                return None
            if scale == 100:
                if (group > 9 and group % 10 == 0) or group > 99:
                    return None
                group, room = group * 100, 100
            else:
                total, group, room, scale_limit = total + group * scale, 0, 1_000_000, scale
            continue
        value = _VALUES.get(word)
        # Each word must be smaller than what the words before it left open: "twenty five", "hundred five".
        if value is None or value >= room or (value == 0 and len(words) > 1):
            return None
        group, room = group + value, 10 if value >= 20 else 1
    return total + group


def date_in_words(text: str) -> str | None:
    """A date with the month in words, or in ISO form, as "2020-06-05"; unknown parts are "?". None for other text.

    "6/5/2020" stays text: people differ on which number is the month.
    """
    if len(text) > _LONGEST or not any(character.isdigit() for character in text):
        return None
    text = " ".join(text.casefold().split())
    for pattern in _DATES:
        if match := pattern.fullmatch(text):
            parts = match.groupdict()
            month = int(parts.get("number") or 1 + [name[:3] for name in _MONTHS].index(parts["month"][:3]))
            day = int(parts.get("day") or 0)
            if not 0 <= day <= 31:
                return None
            return f"{parts.get('year') or '?'}-{month:02}-{f'{day:02}' if day else '?'}"
    return None
