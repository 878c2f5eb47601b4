r"""Replaces halves of surrogate pairs in JSON text, such as `"\ud83d"`, by U+FFFD.

Servers that cut text at a number of UTF-16 units write them. JSON allows them, mcp's reader refuses the whole message,
and no tokenizer accepts them.
"""

from __future__ import annotations

import re

_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a whole pair
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\.",
    re.DOTALL,
)
_UNFINISHED = re.compile(rb"\\(?:u[0-9a-fA-F]{0,3})?\Z|\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u[0-9a-fA-F]{0,3})?)?\Z")


class SurrogateRepair:
    """Repairs a stream of JSON text that arrives in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def __call__(self, piece: bytes) -> bytes:
        """The repaired text so far; an escape that `piece` cuts is held back until the next one."""
        text = self._rest + piece
        self._rest = b""
        if b"\\" not in text:
            return text
        parts, end = [], 0
        for found in _ESCAPE.finditer(text):
            if _UNFINISHED.match(text, found.start()):
                break
            parts += [text[end : found.start()], b"\\ufffd" if found[1] else found[0]]
            end = found.end()
        rest = text[end:]
        if (cut := rest.find(b"\\")) >= 0 and _UNFINISHED.match(rest, cut):
            rest, self._rest = rest[:cut], rest[cut:]
        return b"".join([*parts, rest])

    def end(self) -> bytes:
        """What is left when the stream has ended."""
        rest, self._rest = self._rest, b""
        return rest
