"""Exports that are killed, interrupted or run out of disk, as real processes: nothing looks finished, no child
survives, and the same command then yields what an uninterrupted one yields."""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from helpers.command_line import Forked, start_command
from mentor_edge.evaluation.evaluate import Evaluation
from mentor_edge.manifest import MANIFEST, Manifest, verify

DEADLINE = 120.0
MARK = "MENTOR_EDGE_TEST"
GGUF = ("--gguf", "q8_0")


def command(student: Path, out: Path, formats: tuple[str, ...] = GGUF, limit: int = 24) -> list[str]:
    return ["export", str(student), *formats, "--limit", str(limit), "--margin", "0.5", "--out", str(out)]


@contextmanager
def started(arguments: list[str], directory: Path) -> Iterator[Forked]:
    """Run the command in its own process group: Ctrl-C in a terminal is a signal to that group."""
    outputs, environment = outputs_of(directory), os.environ | {MARK: str(directory)}
    outputs.mkdir(exist_ok=True)
    process = start_command(*arguments, cwd=directory, outputs=outputs, environment=environment, own_group=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=DEADLINE)


def outputs_of(directory: Path) -> Path:
    return directory.parent / f"{directory.name}.outputs"


def stderr_of(directory: Path) -> str:
    return (outputs_of(directory) / "stderr").read_text()


def finish(arguments: list[str], directory: Path) -> int:
    with started(arguments, directory) as process:
        return process.wait(timeout=DEADLINE)


def wait_for(condition: Callable[[], object], process: Forked | subprocess.Popen[bytes] | None = None) -> None:
    """Raises: AssertionError when it takes too long, or the process ends first."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert process is None or process.poll() is None, "it ended first"
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.002)


def descendants(directory: Path) -> list[psutil.Process]:
    """Every process started, directly or indirectly, by a command for this directory, including orphans."""
    processes = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(directory) and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
    return processes


def assert_nothing_looks_finished(directory: Path) -> None:
    assert not (directory / "out").exists()
    visible = [path for path in directory.rglob("*") if not path.relative_to(directory).parts[0].startswith(".")]
    assert visible == []
    for manifest in directory.rglob(MANIFEST):
        assert manifest.relative_to(directory).parts[0].endswith(".partial")


def rows(out: Path) -> dict[str, Evaluation]:
    return {path.name: Evaluation.from_jsonl(path) for path in sorted((out / "gate").iterdir())}


@pytest.fixture(scope="module")
def uninterrupted(nano_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("uninterrupted")
    assert finish(command(nano_student, directory / "out"), directory) in (0, 3, 4), stderr_of(directory)
    return directory / "out"


MOMENTS = {
    "conversion": (signal.SIGKILL, ".out.{pid}.partial/.model-f32.gguf.*.partial", 1),
    "conversion, terminated": (signal.SIGTERM, ".out.{pid}.partial/.model-f32.gguf.*.partial", 1),
    "quantization": (signal.SIGINT, ".out.{pid}.partial/*model-q8_0.gguf*", 0),
    "gate, source": (signal.SIGKILL, ".out.gate/source.jsonl.partial", 20_000),
    "gate, file": (signal.SIGINT, ".out.gate/gguf-q8_0.jsonl.partial", 20_000),
    "packaging": (signal.SIGKILL, ".out.{pid}.partial/gate", 0),
}
"""The signal to send, and when: once a file that matches the pattern has at least this many bytes."""


def wait_for_moment(moment: str, directory: Path, process: Forked | subprocess.Popen[bytes]) -> None:
    _, pattern, size = MOMENTS[moment]

    def reached() -> bool:
        with suppress(FileNotFoundError):  # it was removed after the listing
            return any(path.stat().st_size >= size for path in directory.glob(pattern.format(pid=process.pid)))
        return False

    wait_for(reached, process)


def assert_one_line_was_printed(directory: Path, word: str = "interrupted") -> None:
    *progress, last = stderr_of(directory).strip().splitlines()
    assert last == f"{word}; run the same command again: it reuses what its gate has measured"
    news = re.compile(r": started( \(|$)|: done in | left$")  # a stage of one unit is named if it takes 2 s
    assert [line for line in progress if not news.search(line)] == []


def test_a_killed_export_looks_unfinished_and_the_same_command_finishes_it(
    nano_student: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """One command, killed or interrupted at every stage in turn."""
    delays, out = random.Random(0), tmp_path / "out"
    arguments = command(nano_student, out)
    measured: dict[str, str] = {}
    for moment, (sent, *_) in MOMENTS.items():
        with started(arguments, tmp_path) as process:
            wait_for_moment(moment, tmp_path, process)
            if not moment.startswith(("gate", "packaging")):  # these end too soon for a delay
                time.sleep(delays.uniform(0, 0.05))
            os.killpg(process.pid, sent) if sent is signal.SIGINT else process.send_signal(sent)
            code = process.wait(timeout=30)
        wait_for(lambda: not descendants(tmp_path))
        if moment == "packaging" and out.exists():  # it ended before the signal arrived
            assert verify(out) == []
            shutil.rmtree(out)
            measured.clear()
            continue
        assert_nothing_looks_finished(tmp_path)
        left = {path.name for path in tmp_path.iterdir()} - {".out.gate"}  # the measured outcomes
        if sent is not signal.SIGKILL:
            assert (code, left) == (128 + sent, set()), moment
            assert_one_line_was_printed(tmp_path, "terminated" if sent is signal.SIGTERM else "interrupted")
        else:  # the leftovers of earlier attempts are gone
            assert code == -signal.SIGKILL and left <= {f".out.{process.pid}.partial"}, moment
        measured = {path.name: path.read_text() for path in tmp_path.glob(".out.gate/*.jsonl")}
    assert finish(arguments, tmp_path) in (0, 3, 4), stderr_of(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert verify(out) == [] and not descendants(tmp_path)
    assert rows(out) == rows(uninterrupted)
    assert Manifest.read(out).entries == Manifest.read(uninterrupted).entries
    for name, text in measured.items():  # seconds included: it was not measured again
        assert (out / "gate" / name).read_text() == text


@pytest.mark.slow
def test_ctrl_c_at_the_gate_does_not_wait_for_its_files(nano_student: Path, tmp_path: Path) -> None:
    """A process of its own: in a fork, a signal does not always wake a main thread that waits for others."""
    arguments = [sys.executable, "-m", "mentor_edge", *command(nano_student, tmp_path / "out", limit=400)]
    outputs_of(tmp_path).mkdir()
    with (outputs_of(tmp_path) / "stderr").open("w") as stderr:
        process = subprocess.Popen(arguments, stderr=stderr, start_new_session=True)
        try:
            wait_for_moment("gate, file", tmp_path, process)
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(timeout=30) == 130
        finally:
            process.kill()
    assert_one_line_was_printed(tmp_path)
    assert {path.name for path in (tmp_path / ".out.gate").iterdir()} == {"source.jsonl", "gguf-q8_0.jsonl.partial"}


@pytest.mark.slow
def test_the_builder_of_onnx_ends_with_a_killed_export(nano_student: Path, tmp_path: Path) -> None:
    def builds() -> bool:
        with suppress(psutil.Error):
            return any(
                "mentor_edge.export.onnx.builder_worker" in process.cmdline() for process in descendants(tmp_path)
            )
        return False

    with started(command(nano_student, tmp_path / "out", ("--onnx", "int4")), tmp_path) as process:
        wait_for(builds, process)
        time.sleep(0.5)  # while it imports
        process.kill()
        process.wait()
    wait_for(lambda: not descendants(tmp_path))
    assert_nothing_looks_finished(tmp_path)


@pytest.mark.slow
def test_a_full_disk_of_the_onnx_builder_is_one_error(nano_student: Path, tmp_path: Path) -> None:
    """A real limit of the operating system on the size of files. (GGUF: see test_export.py.)"""
    limit = 4_000_000
    done = subprocess.run(
        [sys.executable, "-m", "mentor_edge", *command(nano_student, tmp_path / "out", ("--onnx", "int4"))],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    *progress, error = done.stderr.strip().splitlines()
    assert done.returncode == 1 and progress[-1] == "ONNX: export, parity: started (2)"
    assert re.search("^error: conversion: .* writing .* as fp32: .*File too large$", error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_exports_of_both_formats_killed_anywhere_end_the_same(nano_student: Path, tmp_path: Path) -> None:
    formats, delays = ("--gguf", "q8_0,q4_k_m", "--onnx", "int4"), random.Random(0)
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    uninterrupted.mkdir()
    killed.mkdir()
    begun = time.monotonic()
    assert finish(command(nano_student, uninterrupted / "out", formats), uninterrupted) in (0, 3, 4), stderr_of(
        uninterrupted
    )
    duration = time.monotonic() - begun
    arguments = command(nano_student, killed / "out", formats)
    for _ in range(8):
        with started(arguments, killed) as process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=delays.uniform(0.1, 0.95) * duration)
            process.kill()
            process.wait()
        wait_for(lambda: not descendants(killed))
        if (killed / "out").exists():  # the machine is less busy than before
            break
        assert_nothing_looks_finished(killed)
    else:
        assert finish(arguments, killed) in (0, 3, 4), stderr_of(killed)
    assert [path.name for path in killed.iterdir()] == ["out"] and verify(killed / "out") == []
    assert rows(killed / "out") == rows(uninterrupted / "out")
