"""Printing: progress with the time left, and JSON. Everything for people goes to standard error, so that standard
output has nothing but the JSON of `--json`.

The console reads no markup: what a model, a user or a library wrote is printed as it is, brackets, backslashes and
colons included. Commands colour text with `rich.text.Text`. Control characters are printed as escapes, wherever they
come from: only rich itself moves the cursor and changes colours.
"""

from __future__ import annotations

import json
import sys
import threading
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
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
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
_TICK = 1.0
"""Seconds between the looks at the clock."""
_SHORT = 2.0
"""Seconds in which a stage of one unit may end without a line."""
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
        console.print(Text.assemble(("warning:", "bold red"), " ", (text, "red")), soft_wrap=True)


class StageProgress:
    """A `mentor_edge.progress.Progress` with one bar per stage: units done, rate and time left. On a pipe, it prints a
    line when a stage starts, every half minute while it runs, whether or not a unit has ended, and when it ends. A
    stage of one unit that ends at once is not mentioned.

    Use it as a context manager: it prints nothing after its end.
    """

    def __init__(self) -> None:
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<28}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _PaceColumn(),
            console=console,
            transient=False,
        )
        self._tasks: dict[str, TaskID] = {}
        self._stages: dict[str, _Stage] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._timer = threading.Thread(target=self._report_in_time, name="progress", daemon=True)

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        with self._lock:
            if stage not in self._stages:
                self._stages[stage] = _Stage(stage, done, total, now)
                if console.is_terminal and stage not in self._tasks:
                    self._tasks[stage] = self._bars.add_task(stage, total=total, stage=self._stages[stage])
            current = self._stages[stage]
            current.update(done, total, now)
            if console.is_terminal:
                self._bars.update(self._tasks[stage], completed=done, total=total, stage=current)
            else:
                current.print_news(now)
            if done >= total:
                del self._stages[stage]

    def __enter__(self) -> StageProgress:
        if console.is_terminal:
            self._bars.start()
        else:
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if console.is_terminal:
            self._bars.stop()
        else:
            self._timer.join()

    def _report_in_time(self) -> None:
        """Print the lines of stages in which nothing ends for long."""
        while not self._ended.wait(_TICK):
            with self._lock:
                for stage in self._stages.values():
                    stage.print_news(time.monotonic())


class _Stage:
    """How far one stage is, and its lines on a pipe."""

    def __init__(self, name: str, done: int, total: int, now: float) -> None:
        self._name = name
        self._started = self._printed = now
        self._announced = False
        self._before = self._done = done
        self._total = total
        self._first_end: float | None = None
        self._last_end = now

    def update(self, done: int, total: int, now: float) -> None:
        """Note how many units have ended."""
        if done > self._done:
            self._last_end = now
            self._first_end = now if self._first_end is None else self._first_end
        self._done, self._total = done, total

    def pace(self, now: float) -> str:
        """The rate, and the time left; empty while they are unknown.

        Units that run together end together: the first of them ends after the time of all. A rate is known when twice
        that time has passed, and it counts the time up to the last end only.
        """
        ended = self._done - self._before
        if self._first_end is None or ended < 2 or now - self._started < 2 * (self._first_end - self._started):
            return ""
        speed = ended / max(self._last_end - self._started, 1e-9)
        rate = f"{figure(round(speed, 1))}/s" if speed >= 1 else f"{duration(1 / speed)} each"
        left = self._total - self._done
        return f"{rate}, about {duration(left / speed)} left" if left > 0 else rate

    def print_news(self, now: float) -> None:
        """Print that the stage has started or ended, or how far it is if that was not said for long."""
        if not self._announced and (self._total > 1 or now - self._started >= _SHORT):
            self._announced = True
            resumed = f", {self._before:,} done before" if self._before else ""
            console.print(f"{self._name}: started" + (f" ({self._total:,}{resumed})" if self._total > 1 else ""))
        elapsed = duration(now - self._started)
        if not self._announced:
            return
        if self._done >= self._total:
            console.print(f"{self._name}: done in {elapsed}")
        elif now - self._printed >= _EVERY:
            self._printed = now
            state = f"{self._done:,} of {self._total:,}" if self._total > 1 else "not done"
            pace = self.pace(now)
            console.print(f"{self._name}: {state}, {pace}" if pace else f"{self._name}: {state} after {elapsed}")


class _PaceColumn(ProgressColumn):
    """Rate and time left of a stage."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["stage"].pace(time.monotonic()), "dim")
