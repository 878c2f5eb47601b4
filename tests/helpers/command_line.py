"""`mentor-edge` as it is typed, in a process of its own that need not load torch and the trainers first.

Loading them takes 5 to 20 CPU seconds. A server loads them once, and each command is a fork of it, with its own memory,
directory, environment, signals and exit code. Tests of what a command loads, or of how it is killed, start real
processes.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

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


def run_command(
    *arguments: str | Path, cwd: Path, environment: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run `mentor-edge ARGUMENTS` in the directory `cwd`, with `environment` in place of this process's own.

    Raises: TimeoutError, with what it printed, when it does not end within `timeout` seconds.
    """
    line = ["mentor-edge", *map(str, arguments)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_LOADED))
    with TemporaryDirectory() as outputs:
        variables = dict(os.environ if environment is None else environment)
        process = context.Process(target=_command, args=(line, str(cwd), variables, outputs))
        process.start()
        process.join(timeout)
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
        stdout, stderr = (Path(outputs, name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
    if code is None:
        raise TimeoutError(f"{line} did not end within {timeout} s; it printed {stdout!r} and {stderr!r}")
    return subprocess.CompletedProcess(line, code, stdout, stderr)


def _command(line: list[str], directory: str, variables: dict[str, str], outputs: str) -> None:
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        with Path(outputs, name).open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = line
    from mentor_edge.cli.app import main

    try:
        main()
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out
