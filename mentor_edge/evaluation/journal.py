"""Files of outcomes: the finished file, and the journal that lets a killed evaluation resume.

A finished file is JSON lines: `{"evaluation": HEADER}`, then one outcome per task, in the suite's order. `Header`
records what was measured.

PATH.partial is the journal: the same header, then outcomes in the order in which conversations ended. Each is written
when its conversation ends, and a whole batch is on the disk before the next one starts: a kill loses the conversations
in progress, a power failure at most a batch. Resuming drops a half-written row and keeps the batches. Only the
interrupted batch runs with fewer rows, which can change the last digits of a logit.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from mentor_edge.errors import OutputError, TaskError
from mentor_edge.evaluation.outcome import Outcome
from mentor_edge.files import explained_write_errors, write_jsonl
from mentor_edge.results import Result
from mentor_edge.rows import read_rows
from mentor_edge.tasks.types import AgentLimits

FORMAT = 1
_LOCK_SECONDS = 1.0


class Header(Result):
    """What was measured."""

    suite: str
    """Name of the suite."""
    version: str
    """Version of the suite."""
    sha256: str
    """Hash of the suite."""
    identity: str
    """Which model was measured."""
    limits: AgentLimits | None
    """Limits of every conversation; None if no engine ran."""
    batch_size: int | None
    """Tasks that ran at the same time; None if no engine ran."""
    warnings: tuple[str, ...] = ()
    """Why the figures do not mean what they seem to, such as a chat template that drops the tools."""
    context_length: int | None = None
    """Tokens that one conversation could have; None if the engine does not know."""
    threads: int | None = None
    """Processor threads of the engine; None if it does not know."""

    def to_json(self) -> dict[str, Any]:
        """The header as a dictionary."""
        return self.model_dump(mode="json")


def _header_row(header: Header) -> dict[str, Any]:
    return {"evaluation": {"format": FORMAT, **header.to_json()}}


def write_items(path: Path, header: Header, outcomes: Iterable[Outcome]) -> None:
    """Write a finished file, whole or not at all. Raises: OutputError."""
    write_jsonl(path, [_header_row(header), *(outcome.to_json() for outcome in outcomes)])


def read_items(path: Path) -> tuple[Header, list[Outcome]]:
    """The header and the outcomes of a finished file.

    Raises: TaskError when the file cannot be read, has no header of this format, or has malformed rows (the first five
    are listed together).
    """

    def parse(row: Any) -> Header | Outcome:
        return _header(row) if isinstance(row, dict) and "evaluation" in row else Outcome.from_json(row)

    header, *outcomes = read_rows(path, parse, what="items")
    if not isinstance(header, Header) or not all(isinstance(outcome, Outcome) for outcome in outcomes):
        raise TaskError(f"{path} does not begin with one header", "`mentor-edge evaluate` writes such files")
    return header, [outcome for outcome in outcomes if isinstance(outcome, Outcome)]


def _header(row: Any) -> Header:
    """Raises: ValueError for a row that is not a header of this format."""
    values = row.get("evaluation") if isinstance(row, dict) else None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"evaluation: expected a header of format {FORMAT}")
    try:
        return Header(**{key: value for key, value in values.items() if key != "format"})
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"evaluation: the header is malformed ({first['loc'][0]}: {first['msg']})") from error


class Journal:
    """PATH.partial, open and locked while an evaluation runs. `outcomes` has the finished ones by task.

    `task_ids` are the ids of the suite's tasks. A journal of another measurement is emptied, and `on_note` is called.
    Use it as a context manager; it removes the file if no task was finished.

    Raises: OutputError when the file cannot be written or another process is writing it.
    """

    def __init__(self, path: Path, header: Header, task_ids: Sequence[str], on_note: Callable[[str], None]) -> None:
        self.path = partial_path(path)
        self.outcomes: dict[str, Outcome] = {}
        with explained_write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
            try:
                self._lock()
                self._resume(header, task_ids, on_note)
            except BaseException:
                self._close()
                raise

    def _lock(self) -> None:
        # Tool processes inherit the lock. After a kill they need a moment to notice that their parent is gone.
        until = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise OutputError(
                        f"another process is writing {self.path}", "wait for it, or write to another file"
                    ) from error
            time.sleep(_LOCK_SECONDS / 20)

    def _resume(self, header: Header, task_ids: Sequence[str], on_note: Callable[[str], None]) -> None:
        self._file.seek(0)
        lines = self._file.read().splitlines(keepends=True)
        first = json.dumps(_header_row(header)).encode() + b"\n"
        if lines[:1] != [first]:
            if len(lines) > 1:
                on_note(
                    f"{self.path} contains another measurement{_difference(lines[0], header)}; starting from scratch"
                )
            self._file.truncate(0)
            self._write(first)
            return
        missing = set(task_ids)
        for outcome in _parsed(lines[1:]):
            if outcome.task_id not in missing:
                break
            missing.remove(outcome.task_id)
            self.outcomes[outcome.task_id] = outcome
        self._file.truncate(sum(map(len, lines[: 1 + len(self.outcomes)])))

    def append(self, outcome: Outcome) -> None:
        """Add an outcome; it survives the end of this process when this returns. Raises: OutputError."""
        with explained_write_errors(self.path):
            self._write(json.dumps(outcome.to_json()).encode() + b"\n")
        self.outcomes[outcome.task_id] = outcome

    def sync(self) -> None:
        """Wait until the outcomes are on the disk. Raises: OutputError."""
        with explained_write_errors(self.path):
            os.fsync(self._file.fileno())

    def restart(self) -> None:
        """Forget every outcome. Raises: OutputError."""
        with explained_write_errors(self.path):
            self._file.seek(0)
            self._file.truncate(len(self._file.readline()))
        self.outcomes.clear()

    def remove(self) -> None:
        """Remove the file, after a finished file has replaced it."""
        self.path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()

    def _close(self) -> None:
        with suppress(OSError):  # closing flushes, which fails on a full disk
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        # Look at the file, too: Ctrl-C may come between writing an outcome and remembering it.
        if not self.outcomes and not self._has_outcomes():
            self.remove()
        self._close()

    def _has_outcomes(self) -> bool:
        self._file.seek(0)
        return self._file.read().count(b"\n") > 1


def partial_path(path: Path) -> Path:
    """The path of an items file's journal."""
    return path.with_name(f"{path.name}.partial")


def _parsed(lines: Sequence[bytes]) -> list[Outcome]:
    """The outcomes on `lines`, up to the first half-written line."""
    outcomes = []
    for line in lines:
        try:
            if not line.endswith(b"\n"):
                break
            outcomes.append(Outcome.from_json(json.loads(line)))
        except (ValueError, RecursionError):
            break
    return outcomes


def _difference(line: bytes, header: Header) -> str:
    """Which parts of two headers differ, for a note."""
    try:
        old = _header(json.loads(line)).to_json()
    except (ValueError, RecursionError):
        return ""
    keys = [key for key, value in header.to_json().items() if old[key] != value]
    return f" ({', '.join(keys)} differ)"
