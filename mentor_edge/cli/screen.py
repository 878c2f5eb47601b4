"""Printing: progress with the time left, and JSON. Everything for people goes to standard error, so that standard
output has nothing but the JSON of `--json`."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 120)


def print_json(value: Any) -> None:
    """Print a command's result as one line of JSON, on standard output."""
    print(json.dumps(value, ensure_ascii=False))


def escaped(text: object) -> str:
    """Text in which rich finds no markup."""
    return str(text).replace("[", "\\[")


_warned: set[str] = set()


def print_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Say loudly that something does not mean what it seems to; once for each text. Fits `warnings.showwarning`."""
    text = str(message)
    if text not in _warned:
        _warned.add(text)
        console.print(f"[bold red]warning:[/bold red] [red]{escaped(text)}[/red]", soft_wrap=True)


class StageProgress:
    """A `mentor_edge.progress.Progress` with one bar per stage; on a pipe, a line when a stage starts and ends."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=False,
        )
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if not console.is_terminal:
            self._print_lines(stage, done, total)
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)

    def _print_lines(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage not in self._started:
            self._started[stage] = now
            console.print(f"{stage}: started ({total})")
        if done == total:
            console.print(f"{stage}: done in {now - self._started.pop(stage):.1f} s")

    def __enter__(self) -> StageProgress:
        if console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if console.is_terminal:
            self._bars.stop()
