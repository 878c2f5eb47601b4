"""The templates that come with mentor-edge. They are its own code, so they are rendered without limits."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_DIRECTORY = Path(__file__).parent / "templates"


@cache
def own_template(name: str) -> str:
    """The source of "hermes", "neutral" or "nano", the embedded student's."""
    return (_DIRECTORY / f"{name}.jinja").read_bytes().decode()


@cache
def own_templates() -> frozenset[str]:
    """The sources of all of them."""
    return frozenset(own_template(path.stem) for path in _DIRECTORY.glob("*.jinja"))
