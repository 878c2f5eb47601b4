r"""Regular expressions of JSON Schemas, which are those of JavaScript (ECMA-262), not those of Python.

`matches` translates a pattern for the `regex` library. In comparison with Python's `re`: `\p{L}` works, `$` matches
only at the end, `\d`, `\w` and `\b` know ASCII only, `\/`, `\cJ`, `\u00e9`, `\u{1F600}` and `(?<name>...)` are read.
What authors of Python, Rust and PCRE patterns write and JavaScript lacks is read as they mean it where it has one
meaning: `\A`, `\Z`, `\z`, `(?P<name>...)`, `(?i)`, `[[:alpha:]]`, possessive quantifiers and atomic groups.

Patterns come from other programs, so the time of a search, the length of a pattern and its repetitions are limited.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from mentor_edge.rows import shown
from mentor_edge.tools.schemas.time_limit import TooSlow, seconds_left

SECONDS = 0.5
"""Time that one search may take."""

LENGTH_LIMIT = 4_000
"""Characters of a pattern."""

SIZE_LIMIT = 20_000
"""Size of a pattern when every counted repetition is written out: `regex` needs memory in proportion."""

_DIGIT, _WORD = "0-9", "A-Za-z0-9_"
_SPACE = r"\t\n\v\f\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_CLASSES = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_BOUNDARY = f"(?:(?<=[{_WORD}])(?![{_WORD}])|(?<![{_WORD}])(?=[{_WORD}]))"
_NO_BOUNDARY = f"(?:(?<=[{_WORD}])(?=[{_WORD}])|(?<![{_WORD}])(?![{_WORD}]))"
_OUTSIDE_CLASSES = {"A": r"\A", "Z": r"\Z", "z": r"\Z", "b": _BOUNDARY, "B": _NO_BOUNDARY}
_CONTROLS = {"t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r", "0": "\0"}

_REPEAT = re.compile(r"\{(\d*)(,?)(\d*)\}")
_PROPERTY = re.compile(r"[pP](?:\{\^?[A-Za-z0-9_= ]+\}|[A-Z])")
_HEXADECIMAL = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}")
_LOW_SURROGATE = re.compile(r"\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_GROUP = re.compile(r"\(\?(?::|=|!|<=|<!|>|P?<([A-Za-z_]\w*)>|i\)|i:|-i:)")
_REFERENCE = re.compile(r"k<([A-Za-z_]\w*)>|\(\?P=([A-Za-z_]\w*)\)", re.ASCII)
_POSIX = re.compile(r"\[:\^?[a-z]+:\]")


def pattern_problem(pattern: str) -> str | None:
    """Why text cannot be compared with `pattern`, or None if it can."""
    compiled = _compiled(pattern)
    return compiled if isinstance(compiled, str) else None


def matches(pattern: str, text: str) -> bool:
    """Whether `pattern` is found in `text`. A pattern with a `pattern_problem` matches everything.

    Raises: TooSlow when the search takes longer than `SECONDS`, or than the check that it belongs to may take.
    """
    compiled = _compiled(pattern)
    if isinstance(compiled, str):
        return True
    seconds = min(SECONDS, seconds_left())
    try:
        return compiled.search(text, timeout=seconds) is not None
    except TimeoutError:
        raise TooSlow(f"{shown(text)} cannot be compared with the pattern {pattern!r} within {seconds:.2g} s") from None


@functools.lru_cache(maxsize=4096)
def _compiled(pattern: str) -> Any:
    """The pattern compiled by `regex`, or the problem as text."""
    import regex  # only schemas with patterns need it

    if len(pattern) > LENGTH_LIMIT:
        return f"it has {len(pattern)} characters (limit {LENGTH_LIMIT})"
    try:
        return regex.compile(_Translator(pattern).translated(), regex.VERSION1)
    except (ValueError, regex.error) as error:
        return str(error)
    except RecursionError:
        return "it is nested too deeply"


class _Translator:
    """Reads a pattern from left to right, in linear time."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._sizes = [[0, 0]]
        """Size of each open group, and of its last element, which a quantifier repeats."""

    def translated(self) -> str:
        """The pattern for `regex`. Raises: ValueError for syntax that is not supported."""
        parts = []
        while self._at < len(self._pattern):
            parts.append(self._element())
        return "".join(parts)

    def _element(self) -> str:
        character = self._pattern[self._at]
        if character in "{*+?":
            return self._quantifier(character)
        if character == "(":
            return self._group()
        self._grow(1)
        if character == "[":
            return self._set()
        if character == "\\":
            return self._escape()
        self._at += 1
        if character == ")":
            return self._end_of_group()
        return {".": r"[^\n\r\u2028\u2029]", "$": r"\Z", "}": r"\}", "]": r"\]"}.get(character, character)

    def _grow(self, size: int) -> None:
        self._sizes[-1][0] += size
        self._sizes[-1][1] = size
        if self._sizes[-1][0] > SIZE_LIMIT:
            raise ValueError(f"its repetitions make it larger than {SIZE_LIMIT}")

    def _quantifier(self, character: str) -> str:
        if character != "{":
            self._at += 1
            return character
        repeat = _REPEAT.match(self._pattern, self._at)
        if repeat is None or not (repeat[1] or repeat[3]):
            self._at += 1
            self._grow(1)
            return r"\{"
        if len(repeat[0]) > 12:
            raise ValueError(f"its repetitions make it larger than {SIZE_LIMIT}")
        self._at = repeat.end()
        self._grow(self._sizes[-1][1] * max(int(repeat[1] or 0), int(repeat[3] or 0)))
        return f"{{{repeat[1] or 0}{repeat[2]}{repeat[3]}}}"

    def _group(self) -> str:
        self._sizes.append([0, 0])
        if not self._pattern.startswith("(?", self._at):
            self._at += 1
            return "("
        if reference := _REFERENCE.match(self._pattern, self._at):
            self._at = reference.end()
            self._end_of_group()
            return f"(?P={reference[2]})"
        opening = _GROUP.match(self._pattern, self._at)
        if opening is None:
            raise ValueError(f"{self._pattern[self._at : self._at + 4]!r} is not supported")
        self._at = opening.end()
        if opening[0].endswith("i)"):
            self._end_of_group()
        return f"(?P<{opening[1]}>" if opening[1] else opening[0]

    def _end_of_group(self) -> str:
        if len(self._sizes) > 1:
            size, _ = self._sizes.pop()
            self._grow(size + 1)
        return ")"

    def _escape(self) -> str:
        if reference := _REFERENCE.match(self._pattern, self._at + 1):
            self._at = reference.end()
            return f"(?P={reference[1]})"
        kind = self._pattern[self._at + 1 : self._at + 2]
        if kind in _OUTSIDE_CLASSES and kind:
            self._at += 2
            return _OUTSIDE_CLASSES[kind]
        if kind in _CLASSES and kind:
            self._at += 2
            return f"[{_CLASSES[kind]}]"
        if kind.lower() in _CLASSES and kind:
            self._at += 2
            return f"[^{_CLASSES[kind.lower()]}]"
        if kind in "123456789" and kind:
            digits = re.compile(r"\d+").match(self._pattern, self._at + 1)
            assert digits is not None
            self._at = digits.end()
            return f"(?:\\{digits[0]})"
        return self._character_escape()

    def _character_escape(self) -> str:
        """An escape that means the same inside and outside of `[...]`."""
        self._at += 1
        if found := _PROPERTY.match(self._pattern, self._at):
            self._at = found.end()
            return "\\" + found[0]
        if found := _HEXADECIMAL.match(self._pattern, self._at):
            self._at = found.end()
            code = int(found[1] or found[2] or found[3], 16)
            if 0xD800 <= code < 0xDC00 and (low := _LOW_SURROGATE.match(self._pattern, self._at)):
                self._at = low.end()
                code = 0x10000 + ((code - 0xD800) << 10) + int(low[1], 16) - 0xDC00
            return re.escape(chr(code))
        kind = self._pattern[self._at : self._at + 1]
        self._at += 1
        if kind == "c" and self._pattern[self._at : self._at + 1].isalpha():
            self._at += 1
            return re.escape(chr(ord(self._pattern[self._at - 1]) % 32))
        if kind in _CONTROLS and not self._pattern[self._at : self._at + 1].isdecimal():
            return re.escape(_CONTROLS[kind])
        if not kind or kind.isalnum():
            raise ValueError(f"\\{kind} is not supported")
        return re.escape(kind)

    def _set(self) -> str:
        """A character class. Operators of `regex`, such as `--` and nested sets, are plain characters here."""
        self._at += 1
        negated = self._pattern.startswith("^", self._at)
        self._at += negated
        items: list[str] = []
        while not self._pattern.startswith("]", self._at):
            if self._at >= len(self._pattern):
                raise ValueError("a [ is not closed")
            items.append(self._member())
        self._at += 1
        if not items:
            return r"(?s:.)" if negated else "(?!)"
        return f"[{'^' * negated}{''.join(items)}]"

    def _member(self) -> str:
        first = self._set_atom()
        dash = self._at
        ranged = self._pattern.startswith("-", dash) and not self._pattern.startswith("-]", dash)
        if not ranged or first.startswith("[") or first[:2] in (r"\p", r"\P"):
            return first
        self._at += 1
        last = self._set_atom()
        return f"{first}\\-{last}" if last.startswith("[") or last[:2] in (r"\p", r"\P") else f"{first}-{last}"

    def _set_atom(self) -> str:
        if found := _POSIX.match(self._pattern, self._at):
            self._at = found.end()
            return found[0]
        if self._at >= len(self._pattern):
            raise ValueError("a [ is not closed")
        character = self._pattern[self._at]
        if character != "\\":
            self._at += 1
            return re.escape(character)
        kind = self._pattern[self._at + 1 : self._at + 2]
        if kind and kind.lower() in _CLASSES:
            self._at += 2
            return f"[{_CLASSES[kind]}]" if kind in _CLASSES else f"[^{_CLASSES[kind.lower()]}]"
        if kind == "b":
            self._at += 2
            return r"\x08"
        return self._character_escape()
