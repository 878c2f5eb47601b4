"""Warnings on the screen."""

from __future__ import annotations

import warnings

from mentor_edge.cli import screen
from mentor_edge.errors import MentorEdgeWarning


def test_each_warning_is_printed_once_and_without_markup(monkeypatch):
    monkeypatch.setattr(screen, "_warned", set())
    with screen.console.capture() as printed, warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", screen.print_warning)
        for text in ("tool 'a': [bold] is not checked", "tool 'a': [bold] is not checked", "tool 'b'"):
            warnings.warn(text, MentorEdgeWarning, stacklevel=1)
        screen.print_warning("tool 'b'")
    assert printed.get().splitlines() == ["warning: tool 'a': [bold] is not checked", "warning: tool 'b'"]
