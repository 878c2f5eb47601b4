"""The tool `python(code)`: runs code that the model writes, in a fresh interpreter. Never offered unless you name it.

What is limited: time, memory of each process, number of processes, number and size of files, and printed text. The code
gets an empty environment, no standard input, a temporary directory that is removed afterwards, even if the process that
runs the call is killed, and only the standard library. When the call ends, all processes that the code started are
killed.

If bubblewrap (`bwrap`) is installed and may create namespaces, the interpreter also runs in one: it has no network,
cannot see other processes, and sees no files but the interpreter and its libraries, read-only, and a `/tmp` in memory.
The kernel enforces this isolation; a kernel bug can defeat it.

Without bubblewrap this is not a security boundary: the code has the rights of the user, can read and write that user's
files, use the network and read other processes' memory and environment. A warning and the description of the tool say
so. The limits on files hold for the temporary directory, which is looked at 20 times a second: not for other
directories, and not for deleted files that are still open.

Only code that the model writes runs this way. Your own functions are not confined: they may need files and network.
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
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal

import psutil

from mentor_edge.errors import MentorEdgeWarning, ToolDefinitionError
from mentor_edge.tools.definition import tool
from mentor_edge.tools.execution import tool_worker
from mentor_edge.tools.execution.limits import CODE_PROCESSES, CODE_TMP_BYTES, code_limits
from mentor_edge.tools.execution.process_tree import adopts_orphans, child_ids, kill_children
from mentor_edge.tools.execution.scratch import excess, remove_tree
from mentor_edge.tools.types import Tool, ToolFailure

Isolation = Literal["auto", "process", "bubblewrap"]

OUTPUT_LIMIT = 4096
"""Bytes that are read from the printed text, and from the report."""

_LOOK_SECONDS = 0.05
"""How often the files and processes of the code are counted."""

_RUNNER = Path(__file__).with_name("python_runner.py")
_LATE = "the code did not finish"
_NOT_ISOLATED = "The code is not isolated from this machine."
# The interpreter that a virtual environment was made from: it sees no packages, and all of it is in one directory tree.
_INTERPRETER = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def python_tool(
    *, timeout: float | None = None, memory_bytes: int = 512 * 1024**2, isolation: Isolation = "auto"
) -> Tool:
    """Make the tool `python(code)`.

    The call returns a JSON object. `stdout` is what the code printed (standard error included). `result` is the value
    of the last line if that is an expression: as JSON, or its repr. An error has type, message and line.

    Users other than root are also limited to 64 more processes than they have (in bubblewrap: 64 in all), if the
    kernel counts them. For root, the processes of the code are counted while it runs.

    Args:
        timeout: seconds per call. None: nine tenths of the executor's limit, so that the error can still report what
            the code printed.
        memory_bytes: address space of each process.
        isolation: "auto" uses bubblewrap if it works, otherwise it warns; "bubblewrap" requires it, "process" does not
            use it.

    Raises:
        ToolDefinitionError: `isolation` is unknown, or it is "bubblewrap" and bubblewrap does not work.
    """
    if isolation not in ("auto", "process", "bubblewrap"):
        raise ToolDefinitionError(f"unknown isolation {isolation!r}", "use auto, process or bubblewrap")
    wrapping: Sequence[str] = ()
    if isolation != "process":
        wrapping, problem = _bubblewrap()
        if problem and isolation == "bubblewrap":
            raise ToolDefinitionError(
                f"bubblewrap does not work here: {problem}",
                "install bubblewrap and allow unprivileged user namespaces, or use isolation='auto'",
            )
        if problem:
            _warn(problem)

    def python(code: str) -> dict[str, Any]:
        """Run Python code (standard library only) and read what it prints and the value of its last line."""
        return _run(code, timeout, memory_bytes, wrapping)

    made = tool(python)
    return made if wrapping else replace(made, description=f"{made.description} {_NOT_ISOLATED}")


@cache
def _warn(problem: str) -> None:
    """Say once that the code is not isolated."""
    warnings.warn(
        f"code that the model writes runs with your rights, because bubblewrap does not work here: {problem}",
        MentorEdgeWarning,
        stacklevel=3,
    )


def bubblewrap_problem() -> str | None:
    """Why code that the model writes does not run in bubblewrap on this machine, or None if it does."""
    return _bubblewrap()[1]


def _run(code: str, timeout: float | None, memory_bytes: int, wrapping: Sequence[str]) -> dict[str, Any]:
    """Raises: ToolFailure with what the model should read."""
    if timeout is None and tool_worker.seconds_per_call is not None:
        timeout = 0.9 * tool_worker.seconds_per_call
    deadline = None if timeout is None else time.monotonic() + timeout
    limits = code_limits(memory_bytes, own_user_namespace=bool(wrapping))
    before = child_ids()
    with (
        _scratch_directory() as directory,
        tempfile.TemporaryFile() as source,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as report,
    ):
        source.write(code.encode(errors="replace"))
        source.seek(0)
        process = subprocess.Popen(
            [*wrapping, *_interpreter(), _RUNNER.read_text(encoding="utf-8"), json.dumps(limits), str(report.fileno())],
            stdin=source,
            stdout=output,  # a file, not a pipe: RLIMIT_FSIZE stops a flood, and nothing needs to be read meanwhile
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={} if wrapping else {"TMPDIR": directory},  # in bubblewrap, /tmp is its own
            pass_fds=[report.fileno()],
            start_new_session=True,
        )
        try:
            problem = _wait(process, deadline, directory)
        finally:
            _terminate(process, before)
        printed, reported = _read_start(output), _read_start(report)
    if problem:
        raise ToolFailure(_with_output(f"{problem} within {timeout:g} s" if problem == _LATE else problem, printed))
    try:
        outcome = json.loads(reported)
        if not isinstance(outcome, dict):  # the code can write a report of its own
            raise ValueError
    except (ValueError, RecursionError):
        exited = f"the code ended its interpreter (exit code {process.returncode})"
        raise ToolFailure(_with_output("the result is too long" if reported else exited, printed)) from None
    if "error" in outcome:
        raise ToolFailure(_with_output(outcome["error"], printed))
    return {"stdout": printed, **outcome}


def _interpreter() -> list[str]:
    # Isolated, without site-packages, unbuffered: what the code printed before an abrupt end is not lost.
    return [_INTERPRETER, "-I", "-S", "-u", "-c"]


@contextmanager
def _scratch_directory() -> Iterator[str]:
    """A new directory for the code. In a tool worker it is inside that of the worker, which others remove, too."""
    try:
        if tool_worker.scratch_directory is not None:
            os.makedirs(tool_worker.scratch_directory, mode=0o700, exist_ok=True)
        directory = tempfile.mkdtemp(prefix="mentor-edge-", dir=tool_worker.scratch_directory)
    except OSError as error:
        raise ToolFailure(f"there is no temporary directory for the code: {error.strerror}") from None
    try:
        yield directory
    finally:
        remove_tree(directory)


def _wait(process: subprocess.Popen[bytes], deadline: float | None, directory: str) -> str | None:
    """Wait for the exit. Returns why the code must be ended before: the deadline (monotonic seconds) or a limit."""
    descriptor, threads = os.pidfd_open(process.pid), _threads()
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while True:
            left = _LOOK_SECONDS if deadline is None else max(0.0, min(_LOOK_SECONDS, deadline - time.monotonic()))
            if poll.poll(left * 1000):
                return None
            if problem := excess(directory):
                return problem
            if os.geteuid() == 0 and _threads() - threads > CODE_PROCESSES and _descendants() > CODE_PROCESSES:
                return f"the code started more than {CODE_PROCESSES} processes"
            if deadline is not None and time.monotonic() >= deadline:
                return _LATE
    finally:
        os.close(descriptor)


def _descendants() -> int:
    """Takes milliseconds, so `_threads` tells when to ask."""
    return len(psutil.Process().children(recursive=True))


def _threads() -> int:
    """How many threads there are, as far as this process can see."""
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])


def _terminate(process: subprocess.Popen[bytes], before: frozenset[int]) -> None:
    """Kill the interpreter and everything that the code started.

    `before` are this process's earlier children. A tool worker adopts orphans; in any other process, daemons escape.
    """
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if adopts_orphans():
        kill_children(keep=before)


def _read_start(file: IO[bytes]) -> str:
    file.seek(0)
    data = file.read(OUTPUT_LIMIT + 1)
    if len(data) <= OUTPUT_LIMIT:
        return data.decode(errors="replace")
    return data[:OUTPUT_LIMIT].decode(errors="replace") + f"... (cut after {OUTPUT_LIMIT} bytes)"


def _with_output(problem: str, printed: str) -> str:
    return f"{problem}\nprinted before:\n{printed}" if printed else problem


# Bubblewrap -----------------------------------------------------------------------------------------------------------


@cache
def _bubblewrap() -> tuple[tuple[str, ...], str | None]:
    """The words that go before the interpreter's command, or why bubblewrap does not work. Tried once per process."""
    program = shutil.which("bwrap")
    if program is None:
        return (), "there is no bwrap on the PATH"
    problem = ""
    for size in (("--size", str(CODE_TMP_BYTES)), ()):  # bubblewrap has --size since 0.8
        temporary = (*size, "--tmpfs", "/tmp", "--chdir", "/tmp")  # noqa: S108 (a new one, in memory)
        command = (program, *_namespaces(), *temporary, "--remount-ro", "/dev", "--remount-ro", "/")
        try:
            probe = subprocess.run(
                [*command, *_interpreter(), "pass"], env={}, capture_output=True, timeout=10, stdin=subprocess.DEVNULL
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return (), str(error)
        if probe.returncode == 0:
            return command, None
        problem = problem or probe.stderr.decode(errors="replace").strip() or f"exit code {probe.returncode}"
    return (), problem


def _namespaces() -> list[str]:
    """Unshare every namespace, and bind only the interpreter, its library and the shared libraries."""
    libraries = [f"{sys.base_prefix}/{name}" for name in ("lib", "lib64")]
    needed = [*libraries, "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache"]
    binds = [part for path in (_INTERPRETER, *needed) for part in ("--ro-bind-try", path, path)]
    return ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", *binds, "--dev", "/dev"]
