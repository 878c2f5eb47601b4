"""The checks of `mentor-edge doctor`: this Python, this machine, and what each export format needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from mentor_edge.engines.process.machine import memory_bytes, processor_flags, processors

_PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "bitsandbytes",
    "datasets",
    "gguf",
    "llama-cpp-python",
    "mcp",
    "openai",
)
_GENAI = ("onnxruntime-genai", "onnxruntime", "onnx-ir")
_EXPORTERS = ("onnx", "onnxscript", "onnxruntime")
_INSTRUCTIONS = {  # llama.cpp's name, and the processor's flag in /proc/cpuinfo
    "AVX": "avx", "AVX2": "avx2", "FMA": "fma", "F16C": "f16c", "AVX_VNNI": "avx_vnni", "AVX512": "avx512f",
    "AVX512_VNNI": "avx512_vnni", "AVX512_BF16": "avx512_bf16", "AMX_INT8": "amx_int8", "NEON": "asimd",
    "DOTPROD": "asimddp", "MATMUL_INT8": "i8mm", "SVE": "sve",
}  # a table  # fmt: skip
_GIB = 1 << 30
_EXPORT_MEMORY = 6 * _GIB  # ONNX int4 of a model of half a billion parameters


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    """What was checked."""
    ok: bool
    """False if it is broken. Something optional that is missing, or that could be better, is ok with `advice`."""
    message: str
    """The result in one sentence."""
    advice: bool = False
    """Whether the message recommends something."""

    @property
    def state(self) -> Literal["ok", "note", "bad"]:
        """One word for the screen."""
        return "bad" if not self.ok else "note" if self.advice else "ok"


def examine() -> list[Finding]:
    """Run all checks. llama.cpp and onnxruntime-genai decode tiny models in child processes (a few seconds)."""
    return [
        _python(),
        *map(_package, _PACKAGES),
        _memory(),
        _threads(shell_environment()),
        _telemetry(shell_environment()),
        _isolation(),
        *_gguf(),
        *_onnx(),
    ]


def shell_environment() -> Mapping[str, str]:
    """The environment that this process was started with. The command line changes some variables in its own."""
    try:
        entries = Path("/proc/self/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return os.environ
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def _python() -> Finding:
    number = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", sys.version_info >= (3, 11), f"{number} (3.11 or later is needed)")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _package(name: str) -> Finding:
    installed = _installed(name)
    missing = f"not installed; install it with: pip install -c constraints.txt {name}"
    return Finding(name, installed is not None, installed or missing)


def _memory() -> Finding:
    memory = memory_bytes()
    small = memory < _EXPORT_MEMORY
    hint = "; exporting 0.5B parameters to ONNX takes up to 6 GiB, to GGUF 2 GiB" if small else ""
    return Finding("memory", True, f"{memory / _GIB:.1f} GiB{hint}", advice=small)


def _threads(shell: Mapping[str, str]) -> Finding:
    usable = processors()
    policy, threads = shell.get("OMP_WAIT_POLICY", ""), shell.get("OMP_NUM_THREADS", "")
    advice = []
    if policy.lower() != "passive":
        advice.append(
            "set OMP_WAIT_POLICY to passive in your own scripts, as this command does: busy-waiting threads "
            "run 100 times slower on a shared machine"
        )
    started = int(threads) if threads.isdecimal() else os.cpu_count() or 1
    if started > usable:
        advice.append(
            f"set OMP_NUM_THREADS to {max(1, int(usable))}: {started} threads would share {usable:g} processors"
        )
    summary = f"{usable:g} processors, OMP_NUM_THREADS is {threads or 'not set'}, OMP_WAIT_POLICY {policy or 'not set'}"
    return Finding("threads", True, "; ".join([summary, *advice]), advice=bool(advice))


def _telemetry(shell: Mapping[str, str]) -> Finding:
    names = [name for name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY") if shell.get(name) != "1"]
    off = "off in this program and its child processes"
    advice = f"; for your own scripts, set {' and '.join(f'{name}=1' for name in names)}" if names else ""
    return Finding("telemetry", True, off + advice, advice=bool(names))


def _isolation() -> Finding:
    from mentor_edge.tools.python_code import bubblewrap_problem

    problem = bubblewrap_problem()
    # Not a fault: the tool is never offered unless the user names it.
    without = f"runs with your rights, not in bubblewrap: {problem}"
    return Finding("python(code)", True, "runs in bubblewrap" if problem is None else without)


def _gguf() -> Iterator[Finding]:
    if _installed("gguf") is None:
        yield Finding("export --gguf", False, "needs gguf; install it with: pip install -c constraints.txt gguf")
        return
    from mentor_edge.engines.llama_cpp.doctor import check_llama_cpp, slow_build

    check = check_llama_cpp()
    yield Finding("llama.cpp", check.ok, check.message)
    if check.instructions:
        flags = processor_flags()
        slow = slow_build(check.instructions, flags)
        used = ", ".join(name for name in (*_INSTRUCTIONS, "REPACK", "OPENMP") if name in check.instructions)
        unused = ", ".join(
            name for name, flag in _INSTRUCTIONS.items() if flag in flags and name not in check.instructions
        )
        build = f"built with {used or 'no special instructions'}"
        build += f"; this processor also has {unused}" if unused else ""
        yield Finding("llama.cpp build", True, build if slow is None else f"{build}; {slow}", advice=slow is not None)
    yield Finding("export --gguf", check.ok, "ready" if check.ok else "quantizing needs a working llama.cpp")
    yield Finding(
        "export --converter", True, "nothing to install: pass the convert_hf_to_gguf.py of a llama.cpp source tree"
    )


def _onnx() -> Iterator[Finding]:
    missing = _missing(_GENAI)
    if missing is None:
        from mentor_edge.engines.onnx.doctor import onnx_problem

        installed = f"onnxruntime-genai {_installed('onnxruntime-genai')}"
        problem = onnx_problem()
        works = f"{installed} decodes a tiny model"
        broken = f"{installed} does not work: {problem}; reinstall it with: pip install --force-reinstall --no-deps "
        yield Finding("onnxruntime", problem is None, works if problem is None else broken + " ".join(_GENAI))
    yield Finding("export --onnx", True, missing or "ready", advice=missing is not None)
    missing = missing or _missing(_EXPORTERS)
    yield Finding("export --exporter transformers", True, missing or "ready", advice=missing is not None)
    yield _optimum()


def _missing(names: Sequence[str]) -> str | None:
    """The missing packages, with the command that installs them; None if there are none."""
    missing = [name for name in names if _installed(name) is None]
    return f"needs {', '.join(missing)}; install it with: pip install 'mentor-edge[onnx]'" if missing else None


def _optimum() -> Finding:
    name, installed, transformers = "export --exporter optimum", _installed("optimum-onnx"), _installed("transformers")
    if installed is not None:
        return Finding(name, True, f"optimum-onnx {installed} is installed, with transformers {transformers}")
    message = (
        f"needs optimum-onnx, whose release 0.1 cannot be installed with transformers {transformers} (it needs less "
        "than 4.58); in a separate environment: pip install 'mentor-edge[onnx]' 'optimum-onnx==0.1.*' "
        "'transformers<4.58'"
    )
    return Finding(name, True, message, advice=True)
