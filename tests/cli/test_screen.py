"""What is printed is what was written: no markup, no control characters; and a line of progress on a pipe."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mentor_edge.cli import screen, tables
from mentor_edge.evaluation.document import Grid, Strong
from mentor_edge.messages import Message, ToolCall


@pytest.fixture
def printed(monkeypatch):
    """The text that the console has printed so far."""
    console = Console(file=io.StringIO(), highlight=False, markup=False, emoji=False, width=400)
    for module in (screen, tables):
        monkeypatch.setattr(module, "console", console)
    return console.file.getvalue


WRITTEN = [
    r"so \[ x = \frac{1}{2} \] and \(y\)", r"\[x\]", r"a\[b]", "a [b]bold[/b] word", "[/]", ":smile: at 12:30:15",
    "end\\", "[1, 2][0]", r"\\[bold]",
]  # a table  # fmt: skip


@pytest.mark.parametrize("text", WRITTEN)
def test_model_text_survives_the_screen(printed, text):
    tables.print_conversation(text, [Message("assistant", text, (ToolCall("f", {"x": text}),))])
    tables.print_grid(Grid(["name", text], [[text, Strong(text)]]), text)
    screen.print_error(text)
    screen.print_warning(text)
    lines = printed().splitlines()
    assert lines[0] == f"       user  {text}"
    assert lines[1] == f"  assistant  {text} f(x={text!r})"
    assert sum(text in line for line in lines) >= 6


def test_control_characters_are_shown_not_obeyed(printed):
    tables.print_conversation("\x1b[2J\x07", [Message("assistant", "a\r\nb\tc\x9b1m")])
    assert "\x1b" not in printed() and "\x9b" not in printed() and "\\x1b[2J" in printed()


def test_progress_on_a_pipe_has_a_rate_and_the_time_left(printed, monkeypatch):
    clock = iter([0.0, 0.0, 10.0, 31.0, 40.0, 65.0, 100.0])
    monkeypatch.setattr(screen.time, "monotonic", lambda: next(clock))
    progress = screen.StageProgress()
    for done in (20, 21, 26, 27, 33, 1020):
        progress("gate", done, 1020)
    assert printed().splitlines() == [
        "gate: started (1,020, 20 done before)",
        "gate: 26 of 1,020, 5.2 s each, about 1 h 26 min left",
        "gate: 33 of 1,020, 5 s each, about 1 h 22 min left",
        "gate: done in 1 min 40 s",
    ]
