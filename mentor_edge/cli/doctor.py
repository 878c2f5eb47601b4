"""What `mentor-edge doctor` looks at."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from dataclasses import dataclass

_PACKAGES = (
    "torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "gguf", "llama-cpp-python", "mcp", "openai",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    name: str
    ok: bool
    message: str


def examine() -> list[Finding]:
    """All findings; the llama.cpp check decodes with tiny quantized models in a child process (a few seconds)."""
    from mentor_edge.engines.doctor import check_llama_cpp

    llama = check_llama_cpp()
    packages = [_package(name) for name in _PACKAGES]
    return [_python(), *packages, _threads(), _isolation(), Finding("llama.cpp", llama.ok, llama.message)]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", sys.version_info >= (3, 11), f"{version} (3.11 or later is needed)")


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, f"not installed; install it with: pip install -c constraints.txt {name}")


def _threads() -> Finding:
    policy = os.environ.get("OMP_WAIT_POLICY", "")
    good = policy.lower() == "passive"
    advice = "" if good else "; set it to passive: busy-waiting threads run 100 times slower on a shared machine"
    return Finding("threads", good, f"OMP_WAIT_POLICY is {policy or 'not set'}{advice}; {os.cpu_count()} cores")


def _isolation() -> Finding:
    from mentor_edge.tools.python_code import bubblewrap_problem

    problem = bubblewrap_problem()
    # Nothing is wrong without it: the tool is never offered unless it is named.
    without = f"runs with the rights of the user, not in bubblewrap: {problem}"
    return Finding("python(code)", True, "runs in bubblewrap" if problem is None else without)
