"""`mentor-edge` as it is typed, in a process of its own that need not load torch and the trainers first.

Loading them takes 5 to 20 CPU seconds. A server loads them once, and each command is a fork of it, with its own memory,
directory, environment, signals and exit code. Tests of what a command loads start real processes.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_LOADED = (
    "mentor_edge.cli.app",
    "mentor_edge.quickstart.run",
    "mentor_edge.engines.torch.engine",
    "mentor_edge.recipes.grpo",
    "mentor_edge.recipes.sft",
    "mentor_edge.recipes.trainer",
    "mentor_edge.export.pipeline",
    "transformers.models.qwen3.modeling_qwen3",
    "trl.trainer.sft_trainer",
    "trl.trainer.grpo_trainer",
)


class Forked:
    """A process that runs a function; the methods are those of `subprocess.Popen`.

    Args:
        function: an importable function.
        arguments: its arguments.
        cwd: its directory.
        outputs: where the files `stdout` and `stderr` are written.
        environment: in place of this process's own.
        own_group: whether it leads a process group, as a command in a terminal does.
    """

    def __init__(
        self,
        function: Callable[..., object],
        *arguments: Any,
        cwd: Path,
        outputs: Path,
        environment: Mapping[str, str] | None = None,
        own_group: bool = False,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(_LOADED))
        variables = dict(os.environ if environment is None else environment)
        self._process = context.Process(target=_run, args=(function, arguments, cwd, outputs, variables, own_group))
        self._process.start()
        self.pid: int = self._process.pid or 0

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def start_command(*arguments: str | Path, cwd: Path, outputs: Path, **options: Any) -> Forked:
    """Start `mentor-edge ARGUMENTS`. The options are those of `Forked`."""
    return Forked(_command, ["mentor-edge", *map(str, arguments)], cwd=cwd, outputs=outputs, **options)


def run_command(
    *arguments: str | Path, cwd: Path, environment: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run `mentor-edge ARGUMENTS` to its end."""
    return _finished(_command, ["mentor-edge", *map(str, arguments)], cwd, timeout, environment)


def run_script(script: Path, *arguments: object, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run `python SCRIPT ARGUMENTS` to its end."""
    return _finished(_script, [str(script), *map(str, arguments)], cwd, timeout)


def _finished(
    function: Callable[[list[str]], object],
    line: list[str],
    cwd: Path,
    timeout: float,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    with TemporaryDirectory() as name:
        outputs = Path(name)
        process = Forked(function, line, cwd=cwd, outputs=outputs, environment=environment)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        stdout, stderr = ((outputs / stream).read_text(encoding="utf-8") for stream in ("stdout", "stderr"))
    return subprocess.CompletedProcess(line, code, stdout, stderr)


def _command(line: list[str]) -> None:
    from mentor_edge.cli.app import main

    sys.argv = line
    main()


def _script(line: list[str]) -> None:
    sys.argv = line
    runpy.run_path(line[0], run_name="__main__")


def _run(
    function: Callable[..., object],
    arguments: tuple[Any, ...],
    cwd: Path,
    outputs: Path,
    variables: dict[str, str],
    own_group: bool,
) -> None:
    if own_group:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        with (outputs / name).open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    try:
        function(*arguments)
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out
