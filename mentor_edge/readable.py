"""Figures and foreign text as people read them: durations, sizes, counts, characters that cannot be seen."""

from __future__ import annotations

import json
import re

_UNSEEN = re.compile(
    # C0 and C1 controls except tabs and line feeds; line separators; bidirectional embeddings, overrides and isolates;
    # lone surrogates, which no stream can encode.
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_UNITS = ("B", "KB", "MB", "GB", "TB")


def duration(seconds: float) -> str:
    """A duration with two units at most: "42 ms", "0.42 s", "4.2 s", "42 s", "7 min 3 s", "2 h 5 min"."""
    if 0.0005 <= seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms"
    if 0.0995 <= seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two_units(whole, 60, "min", "s")
    minutes = round(seconds / 60)
    return _two_units(minutes, 60, "h", "min")


def _two_units(amount: int, size: int, large: str, small: str) -> str:
    whole, rest = divmod(amount, size)
    return f"{whole:,} {large}" + (f" {rest} {small}" if rest else "")


def size(count: int) -> str:
    """A number of bytes in decimal units: "812 B", "1.2 GB"."""
    value = float(count)
    for unit in _UNITS:
        if round(value) < 1000 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.2g} {unit}"


def figure(value: float) -> str:
    """A number with four significant digits: "12,345", "0.4213", "2e-05"; large ones have no exponent."""
    if abs(value) < 1000:
        return f"{value:.4g}"
    return f"{value:,.0f}"


def counted(count: int, noun: str) -> str:
    """A number with its noun, in the plural with "s" unless the number is 1: "1 prompt", "12,345 tokens"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def harmless(text: str) -> str:
    """Text of a model, a server or a file without characters that move the cursor, change colours, reorder what is on
    the screen or hide in it: they are shown as escapes, such as "\\x1b". Everything else stays as it is."""
    return _UNSEEN.sub(_escape, text.replace("\r\n", "\n"))


def one_line(text: str, limit: int) -> str:
    """Text of others as part of a message: at most about `limit` characters, with every character that cannot be
    printed as an escape, line feeds and tabs included."""
    half = limit // 2
    cut = text if len(text) <= limit else f"{text[: half - 5]} ... {text[-half:]}"
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in cut)


def has_surrogates(text: str) -> bool:
    """Whether a text contains half of a surrogate pair. JSON can spell it, but no file and no tokenizer accepts it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def harmless_json(text: str) -> str:
    """JSON with such characters as JSON escapes. Its value does not change."""
    return _UNSEEN.sub(lambda match: json.dumps(match[0])[1:-1], text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
