"""`mentor-edge doctor`: what is broken, what is only missing, and how each is put right."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from mentor_edge import doctor
from mentor_edge.doctor import Finding, examine
from mentor_edge.engines.llama_cpp import doctor as llama_doctor
from mentor_edge.engines.llama_cpp.doctor import LlamaCheck, slow_build
from mentor_edge.engines.onnx import doctor as onnx_doctor
from mentor_edge.engines.onnx import engine as onnx

X86 = frozenset({"avx", "avx2", "fma", "f16c"})


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Finding]]:
    """All findings by name; the checks that decode are skipped and count as passed."""
    monkeypatch.setattr(llama_doctor, "check_llama_cpp", lambda: LlamaCheck(True, "decodes"))
    monkeypatch.setattr(onnx_doctor, "onnx_problem", lambda: None)
    return lambda: {finding.name: finding for finding in examine()}


def without(monkeypatch: pytest.MonkeyPatch, missing: Sequence[str]) -> None:
    def find(name: str) -> str:
        if name in missing:
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor, "version", find)


def test_this_machine_is_examined_in_words_and_in_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mentor_edge", "doctor", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    findings = json.loads(done.stdout)
    assert done.returncode == 0 and list(tmp_path.iterdir()) == [], done.stderr
    assert all(finding.keys() == {"name", "ok", "message", "advice"} for finding in findings)
    printed = done.stderr.splitlines()
    for finding, line in zip(findings, printed, strict=True):
        state = "note" if finding["advice"] else "ok  "
        assert line == f"{state} {finding['name']}: {finding['message']}"  # square brackets, too
    messages = {finding["name"]: finding["message"] for finding in findings}
    assert {"memory", "threads", "telemetry", "export --gguf", "export --onnx", "export --converter"} <= set(messages)
    assert "built with" in messages["llama.cpp build"]


@pytest.mark.parametrize(
    ("missing", "name", "message"),
    [
        ("onnxruntime-genai", "export --onnx", r"needs onnxruntime-genai; .*pip install 'mentor-edge\[onnx\]'"),
        ("onnx-ir", "export --onnx", r"needs onnx-ir; .*pip install 'mentor-edge\[onnx\]'"),
        ("onnxscript", "export --exporter transformers", r"needs onnxscript; .*pip install 'mentor-edge\[onnx\]'"),
        (
            "optimum-onnx",
            "export --exporter optimum",
            r"needs optimum-onnx.*'optimum-onnx==0.1.\*' 'transformers<4.58'",
        ),
    ],
)
def test_a_missing_extra_is_not_a_fault_and_comes_with_its_install_line(
    examined: Callable[[], dict[str, Finding]],
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
    name: str,
    message: str,
) -> None:
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    before = examined()
    without(monkeypatch, [missing, "optimum-onnx"])
    findings = examined()
    assert findings[name].state == "note"
    assert re.search(message, findings[name].message)
    assert all(finding.ok for finding in findings.values())
    assert ("onnxruntime" in findings) == (missing not in ("onnxruntime-genai", "onnx-ir")) and "onnxruntime" in before


def test_a_missing_package_is_a_fault(
    examined: Callable[[], dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, ["gguf", "trl"])
    findings = examined()
    assert {name for name, finding in findings.items() if not finding.ok} == {"gguf", "trl", "export --gguf"}
    assert "pip install -c constraints.txt trl" in findings["trl"].message


def test_a_broken_onnxruntime_is_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("onnx_ir", reason="onnx_ir is not installed")
    monkeypatch.setattr(llama_doctor, "check_llama_cpp", lambda: LlamaCheck(False, "crashes"))
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, sys, types\nfrom mentor_edge.engines.onnx import genai_worker as worker\n"
        "class Broken(types.ModuleType):\n    def __getattr__(self, name): os.kill(os.getpid(), 11)\n"
        "sys.modules['onnxruntime_genai'] = Broken('onnxruntime_genai')\nworker.main()\n"
    )
    monkeypatch.setattr(onnx, "COMMAND", [sys.executable, str(script)])
    findings = {finding.name: finding for finding in examine()}
    assert findings["onnxruntime"].state == findings["llama.cpp"].state == findings["export --gguf"].state == "bad"
    assert "died with SIGSEGV while loading a tiny model" in findings["onnxruntime"].message
    assert "pip install --force-reinstall" in findings["onnxruntime"].message


def test_onnxruntime_decodes_here() -> None:
    for module in ("onnxruntime_genai", "onnx_ir"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    assert onnx_doctor.onnx_problem() is None


@pytest.mark.parametrize(
    ("built_with", "flags", "unused", "rebuilt"),
    [
        (X86, X86, None, ""),
        (set(), set(), None, ""),
        ({"sse3", "avx"}, X86, "AVX2, FMA, F16C", 'CMAKE_ARGS="-DLLAVA_BUILD=OFF" '),
        ({"avx2", "f16c"}, X86, "FMA", 'CMAKE_ARGS="-DLLAVA_BUILD=OFF" '),
        (set(), X86 | {"amx_int8"}, "AVX2, FMA, F16C", 'CFLAGS="-mno-amx-tile'),
        ({"neon"}, {"asimd", "asimddp"}, "DOTPROD", 'CMAKE_ARGS="-DLLAVA_BUILD=OFF" '),
        (X86, X86 | {"avx512f", "amx_int8"}, None, ""),
    ],
)
def test_a_build_that_leaves_the_processor_unused_is_named(
    built_with: set[str], flags: set[str], unused: str | None, rebuilt: str
) -> None:
    advice = slow_build(frozenset(name.upper() for name in built_with), frozenset(flags))
    if unused is None:
        assert advice is None
    else:
        assert advice is not None and advice.startswith(f"decodes slowly: it does not use this processor's {unused}. ")
        assert rebuilt in advice and "pip install --force-reinstall" in advice


@pytest.mark.parametrize(
    ("shell", "threads", "telemetry"),
    [
        ({"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}, None, "ORT_DISABLE_TELEMETRY=1 and HF_HUB"),
        ({"OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}, "set OMP_WAIT_POLICY to passive", "set HF_HUB_DIS"),
        ({"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "64"}, "set OMP_NUM_THREADS to 2: 64 threads", "ORT"),
        ({"OMP_WAIT_POLICY": "passive"}, "set OMP_NUM_THREADS to 2: 8 threads", "ORT_DISABLE"),
        ({"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "2", "ORT_DISABLE_TELEMETRY": "1",
          "HF_HUB_DISABLE_TELEMETRY": "1"}, None, None),
    ],
)  # a table  # fmt: skip
def test_the_users_shell_gets_advice(
    examined: Callable[[], dict[str, Finding]],
    monkeypatch: pytest.MonkeyPatch,
    shell: dict[str, str],
    threads: str | None,
    telemetry: str | None,
) -> None:
    monkeypatch.setattr(doctor, "shell_environment", lambda: shell)
    monkeypatch.setattr(doctor, "processors", lambda: 2.5)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    findings = examined()
    for finding, advice in ((findings["threads"], threads), (findings["telemetry"], telemetry)):
        assert finding.ok and finding.advice == (advice is not None)
        assert advice is None or advice in finding.message


@pytest.mark.parametrize(("memory", "advice"), [(4 << 30, True), (16 << 30, False)])
def test_little_memory_is_reported(
    examined: Callable[[], dict[str, Finding]], monkeypatch: pytest.MonkeyPatch, memory: int, advice: bool
) -> None:
    monkeypatch.setattr(doctor, "memory_bytes", lambda: memory)
    assert examined()["memory"].advice is advice


def test_the_shell_is_seen_as_it_was_before_this_program_changed_it() -> None:
    code = (
        "import os\nos.environ['OMP_WAIT_POLICY'] = 'passive'\nfrom mentor_edge.doctor import shell_environment\n"
        "print(shell_environment().get('OMP_WAIT_POLICY'), shell_environment().get('MARK'))"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"MARK": "a=b"}, capture_output=True, text=True)
    assert done.stdout.split() == ["None" if sys.platform == "linux" else "passive", "a=b"], done.stderr
