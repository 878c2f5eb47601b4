"""The record of the chat template that a student was trained and is shipped with."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mentor_edge.json_object import read_bounded
from mentor_edge.results import Result

TEMPLATE_RECORD = "template.json"
"""The file in a model directory."""

Scalar = bool | int | float | str | None
"""A value of a template argument."""


class TemplateRecord(Result):
    """The chat template that a student was trained and is shipped with, and where it comes from."""

    name: str
    """Its name among the student's own templates ("default", "tool_use"), "hermes", "neutral", or the file's name."""
    sha256: str
    """The hash of the shipped text, arguments included."""
    arguments: dict[str, Scalar] = Field(default_factory=dict)
    """The arguments that are written into it."""
    source_sha256: str
    """The hash of the text without the arguments."""
    student_template: str | None = None
    """The name of the student's own template; None if it has none."""
    student_sha256: str | None = None
    """The hash of the student's own template, without arguments."""

    @classmethod
    def of(cls, directory: Path) -> TemplateRecord | None:
        """The record in a directory; None if it has none or an unreadable one."""
        try:
            return cls.model_validate_json(read_bounded(directory / TEMPLATE_RECORD))
        except (OSError, ValueError):
            return None
