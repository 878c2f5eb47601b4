"""The child process of onnxruntime-genai's builder: sources refused before it starts, and its faults as errors."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.onnx_students import Students, edit_json
from mentor_edge.engines.process.worker import RuntimeWorker
from mentor_edge.errors import ExportError, OutputError
from mentor_edge.export.onnx import genai_exporter
from mentor_edge.export.onnx.export import export_onnx

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory, onnx_builder: RuntimeWorker) -> Students:
    return Students(tmp_path_factory.mktemp("students"), onnx_builder)


@pytest.fixture
def source(students: Students, tmp_path: Path) -> Path:
    """A model directory to change."""
    return Path(shutil.copytree(students.source("qwen2"), tmp_path / "source"))


# Sources that are refused


def without(name: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).unlink()


def config(**changes: Any) -> Callable[[Path], object]:
    return lambda directory: edit_json(directory / "config.json", lambda config: config.update(changes))


def pickled(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (config(architectures=["MistralForCausalLM"]), r"is MistralForCausalLM\n.*Qwen2ForCausalLM.*transformers"),
        (config(architectures=None), "is none"),
        (config(quantization_config={"quant_method": "gptq"}), "quantized already"),
        (without("config.json"), "config.json does not exist"),
        (without("model.safetensors"), "model.safetensors"),
        (pickled, "model.safetensors"),
        (without("tokenizer.json"), "has no tokenizer.json"),
        (without("tokenizer_config.json"), "tokenizer_config.json does not exist"),
        (without("chat_template.jinja"), "has no chat template"),
    ],
)
def test_sources_that_cannot_be_exported_are_refused_before_the_builder_starts(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object], message: str
) -> None:
    monkeypatch.setattr(genai_exporter, "COMMAND", ["no such program"])
    damage(source)
    with pytest.raises(ExportError, match=message):
        export_onnx(source, tmp_path / "out", "int4")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_existing_directory_is_not_overwritten(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        export_onnx(source, tmp_path / "out", "int4")


# Faults of the child process


def misbehave(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str, code: str) -> None:
    """Start builders whose `method` runs `code` instead of its own."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, signal, time\nfrom mentor_edge.export.onnx import builder_worker as build\n"
        f"def fault(*_, **__):\n    print('reading layer 7')\n    {code}\n"
        "build.BuildServer.convert = lambda *_, **__: None\n"
        f"build.BuildServer.{method} = fault\nbuild.main()\n"
    )
    monkeypatch.setattr(genai_exporter, "COMMAND", [sys.executable, str(script)])


@pytest.mark.parametrize(
    ("method", "precision", "code", "message"),
    [
        ("convert", "int4", "os.kill(os.getpid(), signal.SIGSEGV)", "conversion: .*SIGSEGV while converting {}"),
        ("write", "int4", "os.kill(os.getpid(), signal.SIGKILL)", "quantization: .*memory.* while writing {} as int4"),
        pytest.param("write", "fp32", "os.abort()", "conversion: .*SIGABRT while writing {} as fp32", marks=slow),
        ("write", "int8", "os._exit(3)", "quantization: .*exit code 3 .*: reading layer 7"),
        ("convert", "int4", "raise ValueError('odd\\nweights')", "conversion: .*{}: ValueError: odd weights"),
        pytest.param(
            "write", "int4", "raise MemoryError", "quantization: .*{} as int4: it takes more memory", marks=slow
        ),
        pytest.param(
            "write", "int4", "time.sleep(60)", "quantization: .*no sign of life for 9 s while writing {}", marks=slow
        ),
    ],
)
def test_faults_of_the_builder_are_errors_naming_model_and_stage(
    students: Students,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    method: str,
    precision: str,
    code: str,
    message: str,
) -> None:
    misbehave(monkeypatch, tmp_path, method, code)
    source = students.source("qwen2")
    timeout = 9.0 if "sleep" in code else 60.0
    with pytest.raises(ExportError, match=message.format(source)) as caught:
        export_onnx(source, tmp_path / "out", precision, timeout=timeout)
    assert caught.value.hint is not None or "ValueError" in message
    assert [path.name for path in tmp_path.iterdir()] == ["worker.py"]


@pytest.mark.slow
def test_a_builder_that_prints_is_alive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: Path) -> None:
    misbehave(monkeypatch, tmp_path, "write", "[(time.sleep(3), print('layer', i)) for i in range(4)]")
    with pytest.raises(ExportError, match=r"genai_config.json"):  # twelve seconds later, with nothing written
        export_onnx(source, tmp_path / "out", "int4", timeout=9.0)


def test_too_little_memory_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: Path) -> None:
    limit = "__import__('resource').setrlimit(__import__('resource').RLIMIT_AS, (1 << 30, 1 << 30)); bytearray(1 << 31)"
    misbehave(monkeypatch, tmp_path, "write", limit)
    with pytest.raises(ExportError, match=r"quantization: .*more memory"):
        export_onnx(source, tmp_path / "out", "int4")


@pytest.mark.slow
def test_nothing_is_recorded_or_left_behind(source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR", "HF_HOME"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.chdir(tmp_path)
    export_onnx(Path("source"), Path("out"), "int4")
    assert list(home.iterdir()) == [] and {path.name for path in tmp_path.iterdir()} == {"home", "source", "out"}


@pytest.mark.slow
def test_the_parent_never_imports_the_runtime_or_torch(source: Path, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom mentor_edge.export.onnx.export import export_onnx\n"
        "export_onnx(Path(sys.argv[1]), Path(sys.argv[2]), 'fp32')\n"
        "print(sorted({'onnxruntime', 'onnxruntime_genai', 'torch', 'transformers'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, str(source), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
