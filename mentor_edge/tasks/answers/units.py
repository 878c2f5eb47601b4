"""Units in answers: the scale and the unit that the words after a number denote."""

from __future__ import annotations

import re

# Replaces a dollar sign that means money. Those that delimit LaTeX have been removed by then.
MONEY = "\uff04"
_SCALES = {
    "dozen": 12.0,
    "hundred": 1e2,
    "thousand": 1e3,
    "million": 1e6,
    "billion": 1e9,
    "trillion": 1e12,
}
UNIT_NAMES = {
    "$": "dollar", MONEY: "dollar", "usd": "dollar", "buck": "dollar", "€": "euro", "eur": "euro", "£": "pound",
    "gbp": "pound", "lb": "pound", "lbs": "pound", "¥": "yen", "₹": "rupee", "¢": "cent", "percent": "%", "pct": "%",
    "percentage": "%", "degree": "°", "deg": "°", "celsius": "c", "fahrenheit": "f", "kelvin": "k", "kilometer": "km",
    "kilometre": "km", "meter": "m", "metre": "m", "centimeter": "cm", "centimetre": "cm", "millimeter": "mm",
    "millimetre": "mm", "inch": "in", "inches": "in", "feet": "ft", "foot": "ft", "yard": "yd", "mile": "mi",
    "kilogram": "kg", "gram": "g", "milligram": "mg", "ounce": "oz", "liter": "l", "litre": "l", "milliliter": "ml",
    "millilitre": "ml", "hour": "h", "hr": "h", "hrs": "h", "minute": "min", "second": "s", "sec": "s", "per": "/",
    "people": "person", "men": "man", "women": "woman", "children": "child",
}  # a table  # fmt: skip
# One or two letters are a factor ("3x", "2 ab"), unless they are one of _SHORT_UNITS. Letters that touch the number
# must be one of _GLUED_UNITS: "5m" may be a product.
_SHORT_UNITS = frozenset({
    "m", "g", "s", "l", "h", "n", "j", "w", "v", "k", "c", "f", "in", "ft", "yd", "mi", "of", "am", "pm", "hz", "pa",
    "kj", "mw", "kw", "gb", "mb", "tb", "hr", "lb", "oz", "a", "an",
})  # a table  # fmt: skip
_GLUED_UNITS = frozenset({
    "km", "cm", "mm", "kg", "mg", "ml", "hz", "ft", "yd", "oz", "lb", "lbs", "hr", "hrs", "min", "sec", "am", "pm",
    "mph", "kmh", "kph", "kwh", "usd", "eur", "gbp", "gb", "mb",
})  # a table  # fmt: skip
# Words after which the number before them is not the whole answer.
_NOT_UNITS = frozenset({
    "and", "or", "no", "not", "half", "quarter", "third", "times", "plus", "minus", "squared", "cubed", "more",
    "less", "than", "over", "under", "point", "to", "from", "between", "by", "with", "remainder", "divided",
    "multiplied", "negative", "if", "when", "unless", "choose", "factorial", "power", "root", "wrong", "either",
    "neither", "but", "except", "versus", "into", "is", "are", "was", "were", "maybe", "only", "sin", "cos", "tan",
    "log", "exp", "sqrt", "mod", "inf", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
})  # a table  # fmt: skip
_UNIT_PART = re.compile(r"[^\W\d_]+|\^\s*\{?\s*-?[1-3]\s*\}?|\S")
_LONGEST_UNIT = 60


def unit_of(text: str) -> tuple[float, str] | None:
    """The scale and the unit that the text after a number denotes ("" for no unit). None if it is not a unit."""
    rest = text.strip().rstrip(".,;:")
    if len(rest) > _LONGEST_UNIT:
        return None
    scale, square = 1.0, ""
    unit: list[str] = []
    parts = _UNIT_PART.findall(rest.casefold())
    for index, part in enumerate(parts):
        if part[0].isalpha():
            if part in _SCALES and not unit:
                scale *= _SCALES[part]
                continue
            glued = index == 0 and not text[0].isspace()
            known = part in _GLUED_UNITS or (not glued and part in _SHORT_UNITS)
            if part in _NOT_UNITS or not (known or (len(part) > 2 and not glued)):
                return None
            if part in ("square", "sq", "cubic"):
                square = "^3" if part == "cubic" else "^2"
                continue
            if part in ("a", "an", "of", "the"):
                continue
            single = part[:-1] if len(part) > 3 and part.endswith("s") and not part.endswith("ss") else part
            unit.append(UNIT_NAMES.get(part, UNIT_NAMES.get(single, single)) + square)
            square = ""
        elif part[0] == "^" and unit:
            unit.append("".join(c for c in part if c not in "{} "))
        elif part in "%°/" + MONEY + "€£¥₹¢":
            unit.append(UNIT_NAMES.get(part, part))
        else:
            return None
    return None if parts and not unit and scale == 1 else (scale, "".join(unit))
