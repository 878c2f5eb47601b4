"""Conversion to GGUF by llama.cpp's own script, for families that `convert` refuses.

The script `convert_hf_to_gguf.py` is in llama.cpp's source tree and in the source archive of llama-cpp-python; it
imports torch and transformers. It is not our code, so it runs in a child process with limits, and the export checks
its file for parity like every other file.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from mentor_edge.errors import ExportError
from mentor_edge.files import atomic_file

SCRIPT = "convert_hf_to_gguf.py"
_ERROR_LINES = 3
_TAIL = 64 << 10  # bytes at the end of its output that are searched for these lines
_HEADROOM = 16 << 30
"""Bytes of address space beyond twice the weights. torch alone reserves several GiB without using them."""
# The child sets its limits before the script's first line. The script's folder comes first in the module path, as if
# the script were run by name, because its own packages are beside it.
_BOOTSTRAP = """
import runpy, sys
from mentor_edge.engines.process.limits import limit_address_space
limit_address_space(int(sys.argv.pop(1)))
sys.argv = sys.argv[1:]
sys.path[0] = sys.argv[0].rpartition("/")[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def convert_with(converter: Path, model_dir: Path, out: Path, dtype: str = "f32", timeout: float = 3600.0) -> None:
    """Write the model of `model_dir` as a GGUF file, atomically, with the script `converter`.

    `converter` may also be the folder that contains the script. `timeout` is in seconds. The script runs in
    this Python environment, with the Hugging Face hub offline.

    Raises: ExportError when the script does not exist, fails, takes too long, or does not write a GGUF file; the
    message ends with the last lines that it printed. OutputError when `out` cannot be written.
    """
    script = converter / SCRIPT if converter.is_dir() else converter
    if not script.is_file():
        hint = f"give the path of {SCRIPT}; it is in the source archive of llama-cpp-python, under vendor/llama.cpp"
        raise ExportError(f"there is no converter at {script}", hint)
    size = sum(path.stat().st_size for path in model_dir.glob("*.safetensors"))
    with atomic_file(out) as temporary, tempfile.TemporaryFile() as output:
        arguments = [script.resolve(), model_dir.resolve(), "--outfile", temporary.resolve(), "--outtype", dtype]
        command = [sys.executable, "-c", _BOOTSTRAP, str(2 * size + _HEADROOM), *map(str, arguments)]
        failure = _run(command, output, timeout)
        if failure is None and not _is_gguf(temporary):
            failure = "did not write a GGUF file"
        if failure is not None:
            hint = "run the script by hand to see its whole output; its packages must be installed in this environment"
            raise ExportError(f"conversion: {script} {failure} on {model_dir}: {_last_lines(output)}", hint)


def _run(command: list[str], output: IO[bytes], timeout: float) -> str | None:
    """The failure in words, or None. All processes of the child's group are killed before this returns."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        start_new_session=True,
    )
    try:
        status = process.wait(timeout)
    except subprocess.TimeoutExpired:
        return f"took longer than {timeout:g} s"
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with exit status {status}" if status else None


def _last_lines(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _TAIL))
    lines = [line.strip() for line in output.read().decode(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-_ERROR_LINES:]) or "it printed nothing"


def _is_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False
