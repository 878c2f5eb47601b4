"""Files of outcomes: the finished one, and the journal from which a killed evaluation goes on.

A finished file is JSON lines: `{"evaluation": HEADER}`, then one outcome per task, in the suite's order. HEADER says
what was measured: suite, version, sha256 of the suite, identity of the model, limits, batch size.

PATH.partial is the journal: the same header, then outcomes in the order in which batches ran. Every batch is on the
disk before the next one starts. Going on keeps whole batches and drops what is half-written; batches keep their
boundaries, so that no number depends on where the evaluation was killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from mentor_edge.errors import OutputError, TaskError
from mentor_edge.evaluation.outcome import Outcome
from mentor_edge.files import explained_write_errors, write_jsonl
from mentor_edge.rows import read_rows

FORMAT = 1
_PATIENCE = 1.0

Header = Mapping[str, Any]
"""What was measured, as JSON."""


def write_items(path: Path, header: Header, outcomes: Iterable[Outcome]) -> None:
    """Write a finished file, whole or not at all. Raises: OutputError."""
    write_jsonl(path, [{"evaluation": {"format": FORMAT, **header}}, *(outcome.to_json() for outcome in outcomes)])


def read_items(path: Path) -> tuple[dict[str, Any], list[Outcome]]:
    """The header and the outcomes of a finished file.

    Raises: TaskError when it cannot be read, has no header of this format, or has malformed rows (all told at once).
    """

    def parse(row: Any) -> dict[str, Any] | Outcome:
        return _header(row) if isinstance(row, dict) and "evaluation" in row else Outcome.from_json(row)

    header, *outcomes = read_rows(path, parse, what="items")
    if not isinstance(header, dict) or not all(isinstance(outcome, Outcome) for outcome in outcomes):
        raise TaskError(f"{path} does not begin with one header", "`mentor-edge evaluate` writes such files")
    return header, [outcome for outcome in outcomes if isinstance(outcome, Outcome)]


def _header(row: Any) -> dict[str, Any]:
    """Raises: ValueError for a row that is no header of this format."""
    header = row.get("evaluation") if isinstance(row, dict) else None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"evaluation: no header of format {FORMAT}")
    return {key: value for key, value in header.items() if key != "format"}


class Journal:
    """PATH.partial, open and locked while an evaluation runs. `batches` are the outcomes of those that are finished.

    `task_ids` are those of every batch, in the order in which they run. A journal of another measurement is started
    anew, and `on_note` told so. Used as a context manager; it leaves nothing behind when no batch was finished.

    Raises: OutputError when the file cannot be written or another process is writing it.
    """

    def __init__(
        self, path: Path, header: Header, task_ids: Sequence[Sequence[str]], on_note: Callable[[str], None]
    ) -> None:
        self.path = partial_path(path)
        self.batches: list[list[Outcome]] = []
        with explained_write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
            try:
                self._lock()
                self._resume({"evaluation": {"format": FORMAT, **header}}, task_ids, on_note)
            except BaseException:
                self._close()
                raise

    def _lock(self) -> None:
        # Tool processes inherit the lock; after a kill they need a moment to notice that their caller is gone.
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise OutputError(
                        f"another process is writing {self.path}", "wait for it, or write to another file"
                    ) from error
            time.sleep(_PATIENCE / 20)

    def _resume(
        self, header: dict[str, Any], task_ids: Sequence[Sequence[str]], on_note: Callable[[str], None]
    ) -> None:
        self._file.seek(0)
        lines = self._file.read().splitlines(keepends=True)
        first = json.dumps(header).encode() + b"\n"
        if lines[:1] != [first]:
            if len(lines) > 1:
                on_note(f"{self.path} holds another measurement{_difference(lines[0], header)}; it is started anew")
            self._file.truncate(0)
            self._write(first)
            return
        kept = 1
        for ids in task_ids:
            found = _parsed(lines[kept : kept + len(ids)])
            if [outcome.task_id for outcome in found] != list(ids):
                break
            self.batches.append(found)
            kept += len(ids)
        self._file.truncate(sum(map(len, lines[:kept])))

    def append(self, outcomes: Sequence[Outcome]) -> None:
        """Add a batch; it is on the disk when this returns. Raises: OutputError."""
        with explained_write_errors(self.path):
            self._write(b"".join(json.dumps(outcome.to_json()).encode() + b"\n" for outcome in outcomes))
        self.batches.append(list(outcomes))

    def restart(self) -> None:
        """Forget every batch. Raises: OutputError."""
        with explained_write_errors(self.path):
            self._file.seek(0)
            self._file.truncate(len(self._file.readline()))
        self.batches.clear()

    def remove(self) -> None:
        """Remove the file: its outcomes stand in a finished one."""
        self.path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _close(self) -> None:
        with suppress(OSError):  # what a full disk did not take
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        # The file is asked, not `batches`: Ctrl-C may come when a batch is on the disk and not in the list yet.
        if not self.batches and not self._holds_outcomes():
            self.remove()
        self._close()

    def _holds_outcomes(self) -> bool:
        self._file.seek(0)
        return self._file.read().count(b"\n") > 1


def partial_path(path: Path) -> Path:
    """Where the journal of an items file stands."""
    return path.with_name(f"{path.name}.partial")


def _parsed(lines: Sequence[bytes]) -> list[Outcome]:
    """The outcomes on `lines`, up to the first line that is half-written."""
    outcomes = []
    for line in lines:
        try:
            if not line.endswith(b"\n"):
                break
            outcomes.append(Outcome.from_json(json.loads(line)))
        except ValueError:
            break
    return outcomes


def _difference(line: bytes, header: dict[str, Any]) -> str:
    """Which parts of two headers differ, for a note."""
    try:
        old = _header(json.loads(line))
    except ValueError:
        return ""
    keys = [key for key, value in header["evaluation"].items() if key != "format" and old.get(key) != value]
    return f" ({', '.join(keys)} differ)"
