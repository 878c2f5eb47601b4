"""What is printed is what was written: no markup, no control characters; and a line of progress on a pipe."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from mentor_edge.cli import screen, tables
from mentor_edge.evaluation.document import Grid, Strong
from mentor_edge.messages import Message, ToolCall
from mentor_edge.progress import announced


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


def reported(monkeypatch, total, *calls):
    """Report to a stage at given times: (seconds, units done)."""
    progress = screen.StageProgress()
    for seconds, done in calls:
        monkeypatch.setattr(screen.time, "monotonic", lambda now=seconds: now)
        progress("gate", done, total)


def test_progress_on_a_pipe_has_a_rate_and_the_time_left(printed, monkeypatch):
    reported(monkeypatch, 1020, (0.0, 20), (10.0, 21), (31.0, 26), (40.0, 27), (65.0, 33), (100.0, 1020))
    assert printed().splitlines() == [
        "gate: started (1,020, 20 done before)",
        "gate: 26 of 1,020, 5.2 s each, about 1 h 26 min left",
        "gate: 33 of 1,020, 5 s each, about 1 h 22 min left",
        "gate: done in 1 min 40 s",
    ]


def test_no_time_left_is_estimated_while_the_first_tasks_run_together(printed, monkeypatch):
    wave = [(93.0 + 2 * done, done) for done in range(1, 9)]
    reported(monkeypatch, 32, (0.0, 0), *wave, (140.0, 8), (190.0, 8), (204.0, 9))
    assert printed().splitlines() == [
        "gate: started (32)",
        "gate: 1 of 32 after 1 min 35 s",
        "gate: 8 of 32 after 2 min 20 s",
        "gate: 8 of 32, 14 s each, about 5 min 27 s left",
    ]


def test_stages_in_which_nothing_ends_are_reported_until_the_end_of_the_command(printed, monkeypatch):
    for name, seconds in {"_EVERY": 0.01, "_TICK": 0.01, "_SHORT": 0.3}.items():
        monkeypatch.setattr(screen, name, seconds)

    def wait_for(text: str) -> None:
        deadline = time.monotonic() + 20
        while text not in printed() and time.monotonic() < deadline:
            time.sleep(0.01)

    with screen.StageProgress() as progress:
        with announced(progress, "check"):
            pass
        with announced(progress, "load"):
            wait_for("load: not done")
        progress("evaluate", 0, 4)
        wait_for("evaluate: 0 of 4")
    last = printed()
    time.sleep(0.05)
    assert printed() == last and "check" not in last
    lines = last.splitlines()
    assert lines[0] == "load: started" and lines[1].startswith("load: not done after ")
    assert "evaluate: started (4)" in lines and lines[-1].startswith("evaluate: 0 of 4 after ")


def test_a_table_on_a_pipe_is_as_wide_as_it_needs(monkeypatch):
    console = Console(file=io.StringIO(), width=40)
    monkeypatch.setattr(tables, "console", console)
    tables.print_grid(Grid(["malformed and more", "time"], [["1.0", "1 min 33 s / 1 min 52 s / 1 min 53 s"]]), "title")
    lines = console.file.getvalue().splitlines()
    assert "malformed and more" in lines[2] and "1 min 33 s / 1 min 52 s / 1 min 53 s" in lines[4]
