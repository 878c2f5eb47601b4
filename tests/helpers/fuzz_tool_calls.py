"""Fuzz the parser of assistant turns, guided by coverage.

Run it with `python tests/helpers/fuzz_tool_calls.py -runs=200000`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "core")]  # as pytest does for `helpers` and `test_tool_calls`

with atheris.instrument_imports(include=["mentor_edge.tool_calls"]):
    from test_tool_calls import FRAGMENTS, check_turn


def read_bytes(data: bytes) -> None:
    """One input: fragments of known shapes and arbitrary text, in any order."""
    provider = atheris.FuzzedDataProvider(data)
    pieces = []
    while provider.remaining_bytes():
        choice = provider.ConsumeIntInRange(0, len(FRAGMENTS))
        pieces.append(FRAGMENTS[choice] if choice < len(FRAGMENTS) else provider.ConsumeUnicode(8))
    check_turn("".join(pieces))


if __name__ == "__main__":
    atheris.Setup(sys.argv, read_bytes)
    atheris.Fuzz()
