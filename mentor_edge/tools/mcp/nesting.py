"""Makes JSON readable that is nested more deeply than the parser of mcp reads: one such tool must not cost the others.

What is cut off is not needed. A schema that deep is refused as too deep, and a model reads the start of a result only.
"""

from __future__ import annotations

import re

DEPTH_LIMIT = 180
"""Lists and objects in one another. The parser reads 200, and a schema may have far fewer."""

_TEXT_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


def shallow(written: str) -> str:
    """JSON text in which "nested too deeply" replaces what is nested more deeply than `DEPTH_LIMIT`."""
    parts, depth, kept = [], 0, 0
    for found in _TEXT_OR_BRACKET.finditer(written):
        if found[0] in "[{":
            depth += 1
            if depth == DEPTH_LIMIT + 1:
                parts += [written[kept : found.start()], '"nested too deeply"']
        elif found[0] in "]}":
            if depth == DEPTH_LIMIT + 1:
                kept = found.end()
            depth -= 1
    return "".join([*parts, written[kept:]]) if depth <= DEPTH_LIMIT else "".join(parts)
