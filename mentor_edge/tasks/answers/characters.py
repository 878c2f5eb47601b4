"""Unicode in answers: spaces, digits, signs, exponents and fractions, rewritten as ASCII and LaTeX."""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = (
    "\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062\u2063\u2064"
    "\u2066\u2067\u2068\u2069\ufe0e\ufe0f\ufeff"
)
_HYPHENS = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\u2796"
_SYMBOLS: dict[int, str] = str.maketrans(
    {
        "\u00d7": r"\times ", "\u2715": r"\times ", "\u2716": r"\times ", "\u2a2f": r"\times ", "\u2217": "*",
        "·": r"\cdot ", "⋅": r"\cdot ", "\u2219": r"\cdot ", "÷": "/", "\u2215": "/", "\u2044": "/",
        "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]", "±": r"\pm ",
        "≦": r"\le ", "≧": r"\ge ", "\u2236": ":", "\uffe0": "¢", "\uffe1": "£", "\uffe5": "¥", "\uffe6": "₩",
        "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ",
        "≠": r"\ne ", "≈": r"\approx ", "≃": r"\approx ", "≅": r"\approx ", "\u223c": "~", "\u222a": r"\cup ",
        "∩": r"\cap ", "∈": r"\in ",
        "∅": r"\emptyset ", "θ": r"\theta ", "º": "°", "\u02da": "°", "℃": "°C", "℉": "°F", "\u00b5": "μ", "㎏": "kg",
        "\u2018": "'", "\u2019": "'", "\u2032": "'", "“": '"', "”": '"', "\u2033": '"', "。": ".", "、": ",",
        "\u066b": ".", "\u066c": ",", "\u066a": "%",
    }
    | dict.fromkeys(_INVISIBLE, "")
    | dict.fromkeys(_HYPHENS, "-")
)  # a table  # fmt: skip
_FULL_WIDTH_DOLLAR = "\uff04"
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎", "0123456789+-=()")
_RAISED_RUN, _LOWERED_RUN = "[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ]+", "[₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎]+"
_FRACTION = re.compile(rf"({_RAISED_RUN})[/\u2044\u2215]({_LOWERED_RUN})")
_EXPONENT = re.compile(_RAISED_RUN)
_INDEX = re.compile(_LOWERED_RUN)


def plain(text: str) -> str:
    """The text in ASCII and LaTeX, as far as it contains numbers, signs and spaces. Letters stay as they are."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFC", text)
    text = _FRACTION.sub(lambda m: rf"\frac{{{m[1].translate(_RAISED)}}}{{{m[2].translate(_LOWERED)}}}", text)
    text = _EXPONENT.sub(lambda m: _attached("^", m[0].translate(_RAISED)), text)
    text = _INDEX.sub(lambda m: _attached("_", m[0].translate(_LOWERED)), text)
    return "".join(map(_plain_character, text.translate(_SYMBOLS)))


def _attached(mark: str, content: str) -> str:
    return f"{mark}{content}" if len(content) == 1 else f"{mark}{{{content}}}"


def _plain_character(character: str) -> str:
    if character.isascii() or character == _FULL_WIDTH_DOLLAR:
        return character
    if character.isdecimal():
        return str(int(character))
    category = unicodedata.category(character)
    if category in ("Zs", "Zl", "Zp"):
        return " "
    if category == "No" and unicodedata.decomposition(character).startswith("<fraction>"):
        top, _, bottom = unicodedata.normalize("NFKC", character).partition("\u2044")
        return rf"\frac{{{top}}}{{{bottom}}}" if bottom else character
    if "\uff01" <= character <= "\uff5e":
        return chr(ord(character) - 0xFEE0)
    return character
