"""The tool `python(code)`: runs code that the model writes, in a fresh interpreter. Never offered unless it is named.

What this covers: time, memory of each process, number of processes, size of files and of printed text; an empty
environment, no standard input, an own temporary directory that is removed, no packages but the standard library; when
the call ends, all processes that the code started are killed.

Where bubblewrap (`bwrap`) is installed and may make namespaces, the interpreter also runs in one: no network, no other
processes to be seen, no files but the interpreter and its libraries, read-only, and a `/tmp` in memory. That is
isolation by the kernel; a bug in the kernel gets around it. Without bubblewrap it is no security boundary: the code has
the rights of the user, can read and write that user's files, use the network and read other processes' memory and
environment.

Only what the model writes is run this way. A user's own functions are not wrapped: they may need files and network.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal

import psutil

from mentor_edge.errors import ToolDefinitionError
from mentor_edge.tools.definition import tool
from mentor_edge.tools.execution import tool_worker as worker
from mentor_edge.tools.execution.process_tree import adopts_orphans, child_ids, kill_children
from mentor_edge.tools.types import Tool, ToolFailure

Isolation = Literal["auto", "process", "bubblewrap"]

OUTPUT_LIMIT = 4096
"""Bytes of printed text and of the report that are read."""

_FILE_BYTES = 1024**2
_TMP_BYTES = 64 * 1024**2
_OPEN_FILES = 64
_PROCESSES = 64
_CPU_SECONDS = 600
"""A back-stop for a process that escaped everything else; the time limit is what ends a call."""

_RUNNER = Path(__file__).with_name("python_runner.py")
# The interpreter below a virtual environment: without its packages, and in one place of the file system.
_INTERPRETER = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def python_tool(
    *, timeout: float | None = None, memory_bytes: int = 512 * 1024**2, isolation: Isolation = "auto"
) -> Tool:
    """The tool `python(code)`.

    Its result is a JSON object: `stdout` is what the code printed (standard error included), `result` the value of the
    last line where that is an expression: JSON, or its repr. An error says type, message and line.

    `timeout` is in seconds; None is nine tenths of what the executor allows, so that what was printed until then can be
    told. `memory_bytes` is the address space of each process. `isolation` "auto" uses bubblewrap
    where it works, "bubblewrap" insists on it, "process" does without. Users other than root are also held to 64
    processes more than they have (in bubblewrap: 64 in all), where the kernel counts so.

    Raises: ToolDefinitionError when bubblewrap is wanted and does not work, or `isolation` is something else.
    """
    if isolation not in ("auto", "process", "bubblewrap"):
        raise ToolDefinitionError(f"isolation {isolation!r}", "it can be auto, process or bubblewrap")
    wrapping: Sequence[str] = ()
    if isolation != "process":
        wrapping, problem = _bubblewrap()
        if problem and isolation == "bubblewrap":
            raise ToolDefinitionError(
                f"bubblewrap does not work here: {problem}",
                "install bubblewrap and allow unprivileged user namespaces, or use isolation='auto'",
            )

    def python(code: str) -> dict[str, Any]:
        """Run Python code (standard library only) and read what it prints and the value of its last line."""
        return _run(code, timeout, memory_bytes, wrapping)

    return tool(python)


def bubblewrap_problem() -> str | None:
    """Why code that the model writes is not run in bubblewrap here; None where it is."""
    return _bubblewrap()[1]


def _run(code: str, timeout: float | None, memory_bytes: int, wrapping: Sequence[str]) -> dict[str, Any]:
    """Raises: ToolFailure with what the model should read."""
    if timeout is None and worker.seconds_per_call is not None:
        timeout = 0.9 * worker.seconds_per_call
    limits = {
        "AS": memory_bytes,
        "CORE": 0,
        "CPU": _CPU_SECONDS,
        "FSIZE": _FILE_BYTES,
        "NOFILE": _OPEN_FILES,
        "NPROC": _PROCESSES if wrapping else _PROCESSES + _own_threads(),
    }
    before = child_ids()
    with (
        tempfile.TemporaryDirectory(prefix="mentor-edge-", ignore_cleanup_errors=True) as directory,
        tempfile.TemporaryFile() as source,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as report,
    ):
        source.write(code.encode(errors="replace"))
        source.seek(0)
        process = subprocess.Popen(
            [*wrapping, *_interpreter(), _RUNNER.read_text(encoding="utf-8"), json.dumps(limits), str(report.fileno())],
            stdin=source,
            stdout=output,  # files, not pipes: RLIMIT_FSIZE stops a flood, and nothing has to be read meanwhile
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={},
            pass_fds=[report.fileno()],
            start_new_session=True,
        )
        try:
            in_time = _wait(process, timeout)
        finally:
            _end(process, before)
        printed, found = _head(output), _head(report)
    if not in_time:
        raise ToolFailure(_after(f"the code did not finish within {timeout:g} s", printed))
    try:
        outcome = json.loads(found)
    except ValueError:
        ending = f"the code ended its interpreter (exit code {process.returncode})"
        raise ToolFailure(_after("the result is too long" if found else ending, printed)) from None
    if "error" in outcome:
        raise ToolFailure(_after(outcome["error"], printed))
    return {"stdout": printed, **outcome}


def _interpreter() -> list[str]:
    # Isolated, without site-packages, unbuffered: what was printed before an abrupt end is not lost.
    return [_INTERPRETER, "-I", "-S", "-u", "-c"]


def _own_threads() -> int:
    """What RLIMIT_NPROC counts: the threads of all processes of this user."""
    count = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            count += process.num_threads() if process.uids().real == os.getuid() else 0
    return count


def _wait(process: subprocess.Popen[bytes], timeout: float | None) -> bool:
    ending = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(ending, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))
    finally:
        os.close(ending)


def _end(process: subprocess.Popen[bytes], before: frozenset[int]) -> None:
    """Kill the interpreter and all that the code started. Outside of a worker, which adopts orphans, daemons escape."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if adopts_orphans():
        kill_children(keep=before)


def _head(file: IO[bytes]) -> str:
    file.seek(0)
    data = file.read(OUTPUT_LIMIT + 1)
    if len(data) <= OUTPUT_LIMIT:
        return data.decode(errors="replace")
    return data[:OUTPUT_LIMIT].decode(errors="replace") + f"... (cut after {OUTPUT_LIMIT} bytes)"


def _after(problem: str, printed: str) -> str:
    return f"{problem}\nprinted before:\n{printed}" if printed else problem


# Bubblewrap -----------------------------------------------------------------------------------------------------------


@cache
def _bubblewrap() -> tuple[tuple[str, ...], str | None]:
    """The command that comes before the interpreter's, or why there is none. Tried once in a process."""
    program = shutil.which("bwrap")
    if program is None:
        return (), "there is no bwrap on the PATH"
    problem = ""
    for size in (("--size", str(_TMP_BYTES)), ()):  # an option since bubblewrap 0.8
        temporary = (*size, "--tmpfs", "/tmp", "--chdir", "/tmp")
        command = (program, *_namespaces(), *temporary, "--remount-ro", "/dev", "--remount-ro", "/")
        try:
            done = subprocess.run(
                [*command, *_interpreter(), "pass"], env={}, capture_output=True, timeout=10, stdin=subprocess.DEVNULL
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return (), str(error)
        if done.returncode == 0:
            return command, None
        problem = problem or done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
    return (), problem


def _namespaces() -> list[str]:
    """Everything unshared, and only the files that the interpreter needs: it, its library, the shared libraries."""
    libraries = [f"{sys.base_prefix}/{name}" for name in ("lib", "lib64")]
    needed = [*libraries, "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache"]
    binds = [part for path in (_INTERPRETER, *needed) for part in ("--ro-bind-try", path, path)]
    return ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", *binds, "--dev", "/dev"]
