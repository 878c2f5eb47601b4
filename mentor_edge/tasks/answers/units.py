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
    "bn": 1e9,
    "trillion": 1e12,
    "lakh": 1e5,
    "crore": 1e7,
}
CURRENCY_NAMES = frozenset({
    "dollar", "euro", "pound", "gbp", "yen", "rupee", "cent", "cad", "aud", "nzd", "hkd", "sgd", "chf", "cny", "krw",
    "brl", "sek", "nok", "dkk", "pln", "mxn", "zar", "rub", "try",
})  # a table  # fmt: skip
_CURRENCIES = {
    f"us{MONEY}": "dollar", f"usd{MONEY}": "dollar", "usd": "dollar", MONEY: "dollar",
    "€": "euro", "eur": "euro", "£": "gbp",
    "¥": "yen", "jpy": "yen", "₹": "rupee", "inr": "rupee", "rs.": "rupee", "rs": "rupee", "¢": "cent",
    f"ca{MONEY}": "cad", f"c{MONEY}": "cad", f"au{MONEY}": "aud", f"a{MONEY}": "aud", f"nz{MONEY}": "nzd",
    f"hk{MONEY}": "hkd", f"s{MONEY}": "sgd", f"r{MONEY}": "brl", "₩": "krw", "₽": "rub", "₺": "try", "rmb": "cny",
} | {name: name for name in CURRENCY_NAMES if len(name) == 3 and name != "yen"}  # a table  # fmt: skip
CURRENCY = "(?:" + "|".join(re.escape(sign) for sign in sorted(_CURRENCIES, key=len, reverse=True)) + ")"
# Without ALL and TOP, which are words, and KGS, which are kilograms.
_CODES = (
    "AED|AFN|AMD|ANG|AOA|ARS|AWG|AZN|BAM|BBD|BDT|BGN|BHD|BIF|BMD|BND|BOB|BSD|BTN|BWP|BYN|BZD|CDF|CLP|COP|CRC|"
    "CUP|CVE|CZK|DJF|DOP|DZD|EGP|ERN|ETB|FJD|FKP|GEL|GHS|GIP|GMD|GNF|GTQ|GYD|HNL|HTG|HUF|IDR|ILS|IQD|IRR|ISK|"
    "JMD|JOD|KES|KHR|KMF|KPW|KWD|KYD|KZT|LAK|LBP|LKR|LRD|LSL|LYD|MAD|MDL|MGA|MKD|MMK|MNT|MOP|MRU|MUR|MVR|MWK|"
    "MYR|MZN|NAD|NGN|NIO|NPR|OMR|PAB|PEN|PGK|PHP|PKR|PYG|QAR|RON|RSD|RWF|SAR|SBD|SCR|SDG|SHP|SLE|SOS|SRD|SSP|"
    "STN|SYP|SZL|THB|TJS|TMT|TND|TTD|TWD|TZS|UAH|UGX|UYU|UZS|VES|VND|VUV|WST|XAF|XCD|XOF|XPF|YER|ZMW|ZWL"
)
CURRENCY = f"(?:(?i:{CURRENCY})|{_CODES})"
"""A pattern for a currency before a number: a sign, or a code such as "USD" or "US$"."""
_MONEY_SCALES = {"k": 1e3, "m": 1e6, "mn": 1e6, "mm": 1e6, "b": 1e9, "bn": 1e9, "t": 1e12, "tn": 1e12}
_SYNONYMS = tuple(
    (re.compile(pattern, re.IGNORECASE), new)
    for pattern, new in (
        (r"(?<=[a-zμω\d}])\s*(?:\\cdot(?![a-z])|\*)\s*(?=[a-zμω])", " "),
        (r"\bper\s+cent\b", "percent"),
        (r"\b(?:us|u\.s\.|american)\s+dollars?\b", "dollars"),
        (r"\bcanadian\s+dollars?\b", "cad"),
        (r"\baustralian\s+dollars?\b", "aud"),
        (r"(?<=[a-z]{2})\.(?=\s|$|/)", ""),
        (r"(?<=[a-z])-(?=[a-z])", " "),
        (r"\bmph\b", "mi/h"),
        (r"\b(?:kmh|kph|kmph)\b", "km/h"),
        (r"\bmi/hr?\b", "mi/h"),
        (r"\bkm/hr?\b", "km/h"),
        (r"\brpm\b", "revolution/min"),
        (r"\bbpm\b", "beat/min"),
        (r"\bparts\s+per\s+million\b", "ppm"),
        (r"\bparts\s+per\s+billion\b", "ppb"),
        (r"\b(mm|cm|dm|m|km|in|ft|yd|mi)([23])(?!\d)", r"\1^\2"),
    )
)
UNIT_NAMES = _CURRENCIES | {
    "buck": "dollar", "pound": "pound", "lbs": "lb", "percent": "%", "pct": "%",
    "percentage": "%", "degree": "°", "deg": "°", "celsius": "c", "fahrenheit": "f", "kilometer": "km",
    "kilometre": "km", "kms": "km", "meter": "m", "metre": "m", "mtr": "m", "centimeter": "cm", "centimetre": "cm",
    "millimeter": "mm", "millimetre": "mm", "micrometer": "μm", "micrometre": "μm", "micron": "μm",
    "nanometer": "nm", "nanometre": "nm", "inch": "in", "inches": "in", "feet": "ft", "foot": "ft", "yard": "yd",
    "yds": "yd", "mile": "mi", "kilogram": "kg", "kilogramme": "kg", "kilo": "kg", "kgs": "kg", "gram": "g",
    "gramme": "g", "gms": "g", "gm": "g", "milligram": "mg", "microgram": "μg", "tonne": "t", "ounce": "oz",
    "liter": "l", "litre": "l", "ltr": "l", "ltrs": "l", "milliliter": "ml", "millilitre": "ml", "gallon": "gal",
    "hour": "h", "hr": "h", "hrs": "h", "minute": "min", "mins": "min", "second": "s", "sec": "s", "secs": "s",
    "millisecond": "ms", "yr": "year", "yrs": "year", "wk": "week", "wks": "week", "mo": "month", "mos": "month",
    "d": "day",
    "volt": "v", "watt": "w", "kilowatt": "kw", "megawatt": "Mw", "milliwatt": "mw", "hertz": "hz", "kilohertz": "khz",
    "megahertz": "Mhz", "gigahertz": "ghz", "newton": "n", "joule": "j", "kilojoule": "kj", "megajoule": "Mj",
    "pascal": "pa", "kilopascal": "kpa", "megapascal": "Mpa", "ampere": "amp", "ohm": "ω", "mole": "mol",
    "milliampere": "ma", "milliamp": "ma", "kilovolt": "kv", "millivolt": "mv", "kilonewton": "kn",
    "kwh": "kw·h", "wh": "w·h", "mwh": "mw·h", "us": "μs", "um": "μm", "ug": "μg", "mcg": "μg", "microsecond": "μs",
    "calorie": "cal", "kilocalorie": "kcal", "megaliter": "Ml", "megalitre": "Ml",
    "kilobyte": "kB", "megabyte": "MB", "gigabyte": "gB", "terabyte": "tB", "megabit": "Mbit",
    "kilobit": "kbit", "gigabit": "gbit", "per": "/",
    "quart": "qt", "pint": "pt", "lumen": "lm", "microfarad": "μf", "uf": "μf", "mah": "ma·h", "mebibyte": "mib",
    "gibibyte": "gib", "kibibyte": "kib", "radian": "rad", "rev": "revolution",
    "atmosphere": "atm", "hectare": "ha", "decibel": "db", "electronvolt": "ev",
    "megaelectronvolt": "Mev", "gigaelectronvolt": "gev", "kiloelectronvolt": "kev",
    "people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mous", "geese": "goos",
    "knives": "knife", "loaves": "loaf", "leaves": "leaf", "shelves": "shelf", "wolves": "wolf", "teeth": "tooth",
}  # a table  # fmt: skip
# One or two letters are a factor ("3x", "2 ab"), unless they are one of _SHORT_UNITS. Letters that touch the number
# must be one of _GLUED_UNITS: "5m" may be a product.
_SHORT_UNITS = frozenset({
    "m", "g", "s", "l", "h", "d", "n", "j", "w", "v", "k", "c", "f", "in", "ft", "yd", "mi", "of", "am", "pm", "hz",
    "pa", "kj", "mj", "mw", "kw", "gb", "mb", "kb", "tb", "pb", "hr", "lb", "oz", "a", "an", "sq", "cu", "gm", "yr",
    "wk", "mo", "ha", "ev", "db", "qt", "pt", "lm", "uf", "μf", "nm", "ms", "t", "μm", "μg", "μs", "us",
    "um", "ug", "ω", "kω", "mω",
})  # a table  # fmt: skip
_GLUED_UNITS = frozenset({
    "km", "cm", "mm", "kg", "mg", "ml", "hz", "ft", "yd", "oz", "lb", "lbs", "hr", "hrs", "min", "sec", "am", "pm",
    "mph", "kmh", "kph", "kmph", "kwh", "usd", "eur", "gbp", "jpy", "inr", "cad", "aud", "chf", "gb", "mb", "kb", "tb",
    "khz", "mhz", "ghz", "μm", "nm", "ω", "kω", "kms", "kgs", "mins", "secs", "yrs", "wks", "percent", "pct", "kj",
    "kw", "gal",
})  # a table  # fmt: skip
# Units that another case would change. MG and MM are mg and mm in capitals: no unit has such symbols.
_CASED = {
    "Nm": "n·m", "NM": "nmi", "A": "amp", "K": "kelvin", "S": "siemens", "H": "henry", "T": "tesla", "G": "gauss",
    "M": "molar", "pA": "pamp", "MG": "mg", "MM": "mm", "Gm": "Gm", "MWh": "Mw·h", "MWH": "Mw·h",
} | {f"{prefix}M": f"{prefix}molar" for prefix in "munpμ"}  # a table  # fmt: skip
_MEGA = re.compile(r"M(?i:[acfghjklmnstvwω]|pa|hz|ah|ev|cal|bar|bit|ohm|mol|va|bq|pc|sv)|P(?i:[fgjw]|hz|ev)")
_SHORT_SYMBOL = re.compile("[mkM][AVN]")
_BITS_OR_BYTES = re.compile(r"[KkMmGgTtPp]([Bb])(ps)?")
# Words after which the number before them is not the whole answer.
_NOT_UNITS = frozenset({
    "and", "or", "no", "not", "half", "quarter", "third", "times", "plus", "minus", "squared", "cubed", "more",
    "less", "than", "over", "under", "point", "to", "from", "between", "by", "with", "remainder", "divided",
    "multiplied", "negative", "if", "when", "unless", "choose", "factorial", "power", "root", "wrong", "either",
    "neither", "but", "except", "versus", "into", "is", "are", "was", "were", "maybe", "only", "sin", "cos", "tan",
    "log", "exp", "sqrt", "mod", "inf", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
})  # a table  # fmt: skip
COMBINED = frozenset({
    "year", "month", "week", "day", "h", "min", "s", "mi", "yd", "ft", "in", "lb", "pound", "oz", "km", "m", "cm", "mm",
    "kg", "g",
})  # a table  # fmt: skip
"""Units of which an amount may have several: "1 h 30 min"."""
_UNIT_PART = re.compile(r"[^\W\d_]+|\^\s*\{?\s*-?[1-3]\s*\}?|\S")
_LONGEST_UNIT = 60


def currency_name(sign: str) -> str:
    """The name of the currency that a sign or code before a number denotes; "" for no sign."""
    return _CURRENCIES.get(sign.lower(), sign.lower())


def money_scale(text: str) -> tuple[float, str] | None:
    """The scale that one or two letters after an amount of money denote: "$1.5M". None for anything else."""
    scale = _MONEY_SCALES.get(text.strip().rstrip(".").lower())
    return None if scale is None else (scale, "")


def _cased(part: str) -> str:
    """The unit that a symbol denotes in this case only: mega and not milli, byte and not bit. Empty for the others."""
    if part in _CASED:
        return _CASED[part]
    if bits := _BITS_OR_BYTES.fullmatch(part):
        prefix = "M" if part[0] in "Mm" else part[0].lower()
        return prefix + ("B" if bits[1] == "B" or part in ("mb", "gb", "tb") else "bit") + ("/s" if bits[2] else "")
    return f"{part[0]}{part[1:].casefold()}" if _MEGA.fullmatch(part) else ""


def _stem(noun: str) -> str:
    """What a noun has in common with its plural without the s: "box" and "boxe", "berry" and "berrie"."""
    noun = re.sub(r"([sxzo]|[cs]h)e$", r"\1", noun) if len(noun) > 3 else noun
    return f"{noun[:-2]}y" if noun.endswith("ie") else noun


def same_unit(first: str, second: str) -> bool:
    """Whether two units are the same. A pound may be one of money or of weight."""
    return any(first.replace("pound", name) == second.replace("pound", name) for name in ("pound", "lb", "gbp"))


def is_known(word: str) -> bool:
    """Whether a word is the name of a unit, rather than any noun."""
    word = word.casefold()
    return len(word) > 2 and not {word, word.removesuffix("s")}.isdisjoint({*UNIT_NAMES, *UNIT_NAMES.values()})


def unit_of(text: str) -> tuple[float, str] | None:
    """The scale and the unit that the text after a number denotes ("" for no unit). None if it is not a unit."""
    rest = text.strip().rstrip(".,;:")
    if len(rest) > _LONGEST_UNIT:
        return None
    if re.fullmatch(CURRENCY, rest):
        return 1.0, currency_name(rest)
    for pattern, new in _SYNONYMS:
        rest = pattern.sub(new, rest)
    scale, square = 1.0, ""
    unit: list[str] = []
    parts = _UNIT_PART.findall(rest)
    for index, symbol in enumerate(parts):
        part = symbol.casefold()
        if part[0].isalpha():
            if part in _SCALES and not unit:
                scale *= _SCALES[part]
                continue
            if part in ("squared", "cubed") and unit and unit[-1] != "/":
                unit.append("^3" if part == "cubed" else "^2")
                continue
            glued = index == 0 and not text[0].isspace()
            if part == "us" != symbol:
                return None
            short = part in _SHORT_UNITS or _SHORT_SYMBOL.fullmatch(symbol)
            known = part in _GLUED_UNITS or (not glued and short)
            if part in _NOT_UNITS or not (known or (len(part) > 2 and not glued)):
                return None
            if part in ("square", "sq", "cubic", "cu"):
                square = "^3" if part.startswith("cu") else "^2"
                continue
            article = symbol != "A" or "".join(parts[index + 1 : index + 2]).isalpha()
            if part in ("a", "an") and article and unit and unit[-1] != "/":  # "dollars a day"
                unit.append("/")
                continue
            if part in ("an", "of", "the") or (part == "a" and article):
                continue
            single = part[:-1] if len(part) > 3 and part.endswith("s") and not part.endswith("ss") else part
            name = _cased(symbol) or UNIT_NAMES.get(part, UNIT_NAMES.get(single, _stem(single)))
            if unit and unit[-1] != "/" and name != "/":
                unit.append("·")
            unit.append(name + square)
            square = ""
        elif part[0] == "^" and unit:
            exponent = "".join(c for c in part if c not in "{} ")
            if exponent.startswith("^-"):  # "m s^-1" is "m/s"
                unit[-2 if unit[-2:-1] == ["·"] else -1 :] = [
                    "/",
                    unit[-1],
                    exponent.replace("-", "").removesuffix("^1"),
                ]
            else:
                unit.append(exponent)
        elif part in "%°/" + MONEY + "€£¥₹¢₩₽₺":
            unit.append(UNIT_NAMES.get(part, part))
        else:
            return None
    return None if parts and not unit and scale == 1 else (scale, "".join(unit))
