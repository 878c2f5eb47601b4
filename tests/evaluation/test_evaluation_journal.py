"""Evaluations that resume after a kill."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.evaluation_tasks import ADD, BFCL, LIMITS, answer_task
from helpers.paths import ROOT
from helpers.scripted_engine import ScriptedEngine
from mentor_edge.engines.base import Conversations
from mentor_edge.errors import EngineError, OutputError, TaskError
from mentor_edge.evaluation.evaluate import Evaluation, evaluate, finished_evaluation
from mentor_edge.tasks.types import Suite


class CountingEngine(ScriptedEngine):
    """Records the size of every requested batch. Runs `at_batch[n]` before the n-th, and `at_turn[n]` before the n-th
    request for turns."""

    def __init__(self, *arguments, at_batch=None, at_turn=None, **options) -> None:
        super().__init__(*arguments, **options)
        self.batches: list[int] = []
        self.at_batch = at_batch or {}
        self.at_turn = at_turn or {}

    @contextmanager
    def open(self, size: int) -> Iterator[Conversations]:
        self.at_batch.get(len(self.batches), lambda: None)()
        self.batches.append(size)
        with super().open(size) as conversations:
            yield _Hooked(self, conversations)


class _Hooked:
    def __init__(self, engine: CountingEngine, conversations: Conversations) -> None:
        self._engine, self._conversations = engine, conversations

    def extend(self, *arguments):
        self._engine.at_turn.get(len(self._engine.temperatures), lambda: None)()
        return self._conversations.extend(*arguments)


def mixed_suite() -> Suite:
    """Tasks that run the whole loop, alternating with tasks that end after the first turn."""
    tasks = [answer_task(f"sum-{i}", answer=str(i)) for i in range(7)]
    for i, name in ((1, "irrelevance_0"), (4, "irrelevance_1"), (6, "parallel_0")):
        tasks.insert(i, BFCL[name])
    return Suite("mixed", "1", tuple(tasks))


MIXED = mixed_suite()
SCRIPT = {f"<sum-{i}>": [ADD, rf"\boxed{{{i % 5}}}"][i == 1 :] for i in range(7)} | {
    task.prompt[0].content: ["No."] for task in MIXED.tasks if task.accepted_calls is not None
}
BATCHES = [3, 3, 1, 3]
"""Seven tasks with the loop, then three of a single turn, three at a time."""


def engine(**options) -> CountingEngine:
    return CountingEngine(SCRIPT, batch_size=3, **options)


def measure(items: Path | None, one: CountingEngine, **options) -> Evaluation:
    options = {"identity": "model", "on_note": pytest.fail} | options
    return evaluate(one, MIXED, limits=LIMITS, items=items, **options)


def test_an_interrupt_while_the_first_batch_reaches_the_disk_loses_nothing(tmp_path, monkeypatch, uninterrupted):
    items, one, fsync = tmp_path / "items.jsonl", engine(), os.fsync

    def interrupted(descriptor: int) -> None:
        fsync(descriptor)
        if one.batches:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(items, one)
    monkeypatch.undo()
    rest = engine()
    assert measure(items, rest) == uninterrupted and rest.batches == BATCHES[1:]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Evaluation:
    path, one = tmp_path_factory.mktemp("whole") / "items.jsonl", engine()
    evaluation = measure(path, one)
    assert one.batches == BATCHES and list(path.parent.iterdir()) == [path]
    return evaluation


def main(items: str, mode: str) -> None:
    """A child process: an evaluation that stops in its third batch, or in the second turn of its first one, until it is
    killed; or that cannot write its third batch."""
    if mode != "full":

        def stop() -> None:
            Path(items).with_name("ready").touch()
            time.sleep(600)
    else:

        def stop() -> None:
            size = Path(f"{items}.partial").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, size + 40))

    try:
        hooks = {"at_turn": {1: stop}} if mode == "kill in batch" else {"at_batch": {2: stop}}
        measure(Path(items), engine(**hooks))
    except OutputError as error:
        sys.exit(f"OutputError: {error}")


def child(items: Path, mode: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, __file__, str(items), mode]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_a_killed_evaluation_resumes_and_repeats_nothing(tmp_path, uninterrupted):
    items, partial = tmp_path / "items.jsonl", tmp_path / "items.jsonl.partial"
    with child(items, "kill") as process:
        while not (tmp_path / "ready").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not items.exists()
    assert len(partial.read_text().splitlines()) == 1 + 6, "a header and two batches"
    done: list[int] = []
    one = engine()
    evaluation = measure(items, one, progress=lambda _, count, total: done.append(count))
    assert evaluation == uninterrupted and evaluation.to_json()["splits"].keys() == {"id", "ood"}
    assert one.batches == BATCHES[2:] and done == [6, 7, 8, 9, 10]
    assert Evaluation.from_jsonl(items) == uninterrupted and not partial.exists()


def test_a_kill_loses_only_the_conversations_in_progress(tmp_path, uninterrupted):
    items, partial = tmp_path / "items.jsonl", tmp_path / "items.jsonl.partial"
    with child(items, "kill in batch") as process:
        while not (tmp_path / "ready").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    _, row = map(json.loads, partial.read_text().splitlines())
    assert row["task_id"] == "sum-1", "the only conversation of the first batch that ends in its first turn"
    one = engine()
    assert measure(items, one) == uninterrupted
    assert one.batches == [2, *BATCHES[1:]], "the batches keep their boundaries"


def test_outcomes_lost_to_a_full_disk_are_measured_again(tmp_path, uninterrupted):
    items = tmp_path / "items.jsonl"
    with child(items, "full") as process:
        stderr = process.stderr.read()
    assert process.returncode == 1 and "OutputError: cannot write" in stderr and "items.jsonl.partial" in stderr
    one = engine()
    assert measure(items, one) == uninterrupted
    assert one.batches == BATCHES[2:]


@pytest.fixture(scope="module")
def journal(tmp_path_factory) -> bytes:
    """The journal just before it is removed, without its last batch's last byte."""
    items = tmp_path_factory.mktemp("journal") / "items.jsonl"
    with pytest.raises(EngineError):
        measure(items, engine(at_batch={3: broken}))
    return items.with_name("items.jsonl.partial").read_bytes()


def broken() -> None:
    raise EngineError("the runtime died")


@settings(max_examples=20)
@given(data=st.data())
def test_a_journal_cut_anywhere_yields_the_same_evaluation(data, journal, uninterrupted, tmp_path_factory):
    items = tmp_path_factory.mktemp("cut") / "items.jsonl"
    content = journal[: data.draw(st.integers(0, len(journal)))]
    items.with_name("items.jsonl.partial").write_bytes(
        content + data.draw(st.sampled_from([b"", b"{", b"\xff\n", b"{}\n"]))
    )
    one = engine()
    assert measure(items, one, on_note=lambda note: None) == uninterrupted
    whole_rows = content.count(b"\n") - 1
    assert sum(one.batches) == 10 - max(0, whole_rows), "nothing is measured twice"
    assert Evaluation.from_jsonl(items) == uninterrupted


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"identity": "another model"}, "identity"),
        ({"limits": replace(LIMITS, tool_rounds=1)}, "limits"),
        ({"suite": Suite("mixed", "2", MIXED.tasks)}, "version, sha256"),
        ({"batch_size": 4}, "batch_size"),
    ],
)
def test_a_journal_of_another_measurement_is_never_mixed_in(tmp_path, journal, change, named):
    items = tmp_path / "items.jsonl"
    items.with_name("items.jsonl.partial").write_bytes(journal)
    options = {"suite": MIXED, "limits": LIMITS, "identity": "model", "batch_size": 3} | change
    one = CountingEngine(SCRIPT, batch_size=options.pop("batch_size"))
    notes: list[str] = []
    evaluation = evaluate(one, items=items, on_note=notes.append, **options)
    assert sum(one.batches) == 10 and len(evaluation.outcomes) == 10
    assert len(notes) == 1 and f"another measurement ({named} differ); starting from scratch" in notes[0]


@pytest.mark.parametrize("row", [b"[" * 100_000, b"null", b'{"task_id": ' + b"9" * 5000 + b"}", b"\xff"])
def test_a_journal_that_somebody_has_edited_is_not_believed(tmp_path, journal, uninterrupted, row):
    items = tmp_path / "items.jsonl"
    for lines in ([row, b"x"], [journal.splitlines()[0], row]):
        items.with_name("items.jsonl.partial").write_bytes(b"\n".join([*lines, b""]))
        assert measure(items, engine(), on_note=lambda note: None) == uninterrupted
        items.unlink()


def test_finished_outcomes_are_read_back_until_a_new_measurement_is_requested(tmp_path, uninterrupted):
    items, partial = tmp_path / "items.jsonl", tmp_path / "items.jsonl.partial"
    measure(items, engine())
    assert measure(items, idle := engine()) == uninterrupted and idle.batches == []
    assert finished_evaluation(items, MIXED, "model", LIMITS) == uninterrupted
    assert finished_evaluation(items, MIXED, "another model", LIMITS) is None
    assert finished_evaluation(tmp_path / "none.jsonl", MIXED, "model", LIMITS) is None

    with pytest.raises(EngineError):
        measure(items, engine(at_batch={2: broken}), again=True)
    assert Evaluation.from_jsonl(items) == uninterrupted, "the old one stays until the new one is whole"
    assert finished_evaluation(items, MIXED, "model", LIMITS) is None, "a newer measurement was begun"
    assert measure(items, later := engine(), again=True) == uninterrupted and later.batches == BATCHES[2:]
    assert not partial.exists()
    assert measure(items, repeated := engine(), again=True) == uninterrupted and repeated.batches == BATCHES

    notes: list[str] = []
    measure(items, other := engine(), identity="another model", on_note=notes.append)
    assert other.batches == BATCHES and "contains another measurement; this one replaces it" in notes[0]
    assert Evaluation.from_jsonl(items).identity == "another model"


def test_two_processes_do_not_write_one_journal(tmp_path):
    items = tmp_path / "items.jsonl"

    def second() -> None:
        with pytest.raises(OutputError, match=r"another process is writing .*items\.jsonl\.partial"):
            measure(items, engine())

    one = engine(at_batch={1: second})
    assert len(measure(items, one).outcomes) == 10 and one.batches == BATCHES


def test_an_evaluation_that_cannot_start_leaves_nothing(tmp_path):
    with pytest.raises(EngineError):
        measure(tmp_path / "items.jsonl", engine(at_batch={0: broken}))
    assert list(tmp_path.iterdir()) == []


def test_files_of_something_else_are_not_overwritten(tmp_path):
    precious = tmp_path / "tasks.jsonl"
    precious.write_text('{"id": "mine"}\n')
    for again in (False, True):
        with pytest.raises(TaskError, match=r"tasks\.jsonl:1: task_id: missing"):
            measure(precious, engine(), again=again)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        measure(tmp_path / "file" / "items.jsonl", engine())
    assert precious.read_text() == '{"id": "mine"}\n'
    with pytest.raises(ValueError, match="identity"):
        measure(tmp_path / "items.jsonl", engine(), identity="")


if __name__ == "__main__":
    main(*sys.argv[1:])
