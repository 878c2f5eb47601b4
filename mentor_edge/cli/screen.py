"""Printing: progress with the time left, and JSON. Everything for people goes to standard error, so that standard
output has nothing but the JSON of `--json`.

The console reads no markup: what a model, a user or a library wrote is printed as it is, brackets, backslashes and
colons included. Commands colour text with `rich.text.Text`. Control characters are printed as escapes, wherever they
come from: only rich itself moves the cursor and changes colours.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text

from mentor_edge.errors import OutputError
from mentor_edge.readable import counted, duration, figure, harmless, harmless_json


class HarmlessConsole(Console):
    """A console whose text cannot control the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of what is printed. rich's own control sequences are marked as such and pass."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(harmless(segment.text), segment.style)


_ON_SCREEN = sys.stderr is not None and sys.stderr.isatty()
console = HarmlessConsole(stderr=True, highlight=False, markup=False, emoji=False, width=None if _ON_SCREEN else 120)

_EVERY = 30.0
"""Seconds between the lines of a stage on a pipe."""
_LONGEST_ERROR = 4000


def print_json(value: Any) -> None:
    """Print a command's result as one line of JSON, on standard output.

    Raises: OutputError when standard output is closed.
    """
    if sys.stdout is None:
        raise OutputError("the result cannot be printed: standard output is closed", "leave out --json, or `>&-`")
    other = not (sys.stdout.encoding or "").lower().startswith("utf")
    print(harmless_json(json.dumps(value, ensure_ascii=other)), flush=True)


def print_error(text: str) -> None:
    """Print an error after the word "error" in red. Of a very long one, such as a library's, print the beginning."""
    if len(text) > _LONGEST_ERROR:
        text = f"{text[:_LONGEST_ERROR]} ... ({counted(len(text) - _LONGEST_ERROR, 'more character')})"
    console.print(Text.assemble(("error:", "red"), f" {harmless(text)}"), soft_wrap=True)


_warned: set[str] = set()


def print_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Say loudly that something does not mean what it seems to; once for each text. Fits `warnings.showwarning`."""
    text = harmless(str(message))
    if text not in _warned:
        _warned.add(text)
        console.print(Text.assemble(("warning:", "bold red"), " ", (harmless(text), "red")), soft_wrap=True)


class _RateColumn(ProgressColumn):
    """Units per second or, for slow stages, seconds per unit."""

    def render(self, task: Task) -> Text:
        return Text(_rate(task.finished_speed or task.speed or 0.0), "dim")


def _rate(per_second: float) -> str:
    if per_second <= 0:
        return ""
    return f"{figure(round(per_second, 1))}/s" if per_second >= 1 else f"{duration(1 / per_second)} each"


class StageProgress:
    """A `mentor_edge.progress.Progress` with one bar per stage: units done, rate and time left. On a pipe, it prints a
    line when a stage starts, every half minute while units finish, and when the stage ends."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description:<28}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=False,
            speed_estimate_period=300,
        )
        self._tasks: dict[str, TaskID] = {}
        self._stages: dict[str, _StageLines] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if not console.is_terminal:
            if stage not in self._stages:
                self._stages[stage] = _StageLines(stage, done, total)
            if self._stages[stage].report(done, total):
                del self._stages[stage]
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, completed=done)
        self._bars.update(self._tasks[stage], completed=done, total=total)

    def __enter__(self) -> StageProgress:
        if console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if console.is_terminal:
            self._bars.stop()


class _StageLines:
    """The lines of one stage on a pipe."""

    def __init__(self, stage: str, done: int, total: int) -> None:
        self._stage = stage
        self._first = done
        self._started = self._printed = time.monotonic()
        resumed = f", {done:,} done before" if done else ""
        console.print(f"{stage}: started ({total:,}{resumed})")

    def report(self, done: int, total: int) -> bool:
        """Print what is new. Returns whether the stage has ended."""
        now = time.monotonic()
        elapsed = now - self._started
        if done >= total:
            console.print(f"{self._stage}: done in {duration(elapsed)}")
            return True
        if done > self._first and now - self._printed >= _EVERY:
            self._printed = now
            speed = (done - self._first) / elapsed
            left = duration((total - done) / speed)
            console.print(f"{self._stage}: {done:,} of {total:,}, {_rate(speed)}, about {left} left")
        return False
