"""Conversion by a given script: its file is used, and its failure is one clear error."""

from __future__ import annotations

import textwrap
import time
from pathlib import Path

import psutil
import pytest

from helpers.tiny_models import make_student
from mentor_edge.errors import ExportError
from mentor_edge.export.gguf.upstream_converter import convert_with


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


def fake_converter(directory: Path, body: str) -> Path:
    """A script that parses the arguments of llama.cpp's own, then runs `body`."""
    path = directory / "convert_hf_to_gguf.py"
    start = """
import argparse, sys, time
from pathlib import Path
import its_own_package
parser = argparse.ArgumentParser()
parser.add_argument("model", type=Path)
parser.add_argument("--outfile", type=Path)
parser.add_argument("--outtype")
options = parser.parse_args()
assert (options.model / "config.json").exists()
"""
    path.write_text(start + textwrap.dedent(body))
    (directory / "its_own_package.py").write_text("")
    return path


@pytest.mark.parametrize("by_folder", [True, False])
def test_another_converter_writes_the_file(student: Path, tmp_path: Path, by_folder: bool) -> None:
    script = fake_converter(
        tmp_path, "print('x' * 10**6); options.outfile.write_bytes(b'GGUF' + options.outtype.encode())"
    )
    convert_with(tmp_path if by_folder else script, student, tmp_path / "new" / "out.gguf", "f16")
    assert (tmp_path / "new" / "out.gguf").read_bytes() == b"GGUFf16"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.gguf"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("options.outfile.write_bytes(b'GGUF'); raise NotImplementedError('no such family')",
         "ended with exit status 1 on .*: .*NotImplementedError: no such family"),
        ("pass", "did not write a GGUF file on .*: it printed nothing"),
        ("options.outfile.write_text('garbage')", "did not write a GGUF file"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV"),
        ("bytearray(1 << 40)", "MemoryError"),
    ],
)  # a table  # fmt: skip
def test_a_failing_converter_is_one_clear_error(student: Path, tmp_path: Path, body: str, message: str) -> None:
    script = fake_converter(tmp_path, body)
    (tmp_path / "out.gguf").write_text("old")
    with pytest.raises(ExportError, match=f"conversion: {script} .*{message}"):
        convert_with(script, student, tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_text() == "old"
    assert not list(tmp_path.glob(".out.gguf*"))


def test_a_hanging_converter_is_killed_with_its_children(student: Path, tmp_path: Path) -> None:
    body = """
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(__file__).with_name("child").write_text(str(child.pid))
    time.sleep(600)
    """
    with pytest.raises(ExportError, match="took longer than 3 s"):
        convert_with(fake_converter(tmp_path, body), student, tmp_path / "out.gguf", timeout=3)
    child = int((tmp_path / "child").read_text())
    for _ in range(50):
        if not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the converter's child lives on")


def test_a_missing_converter_is_named(student: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"no converter at {tmp_path}/convert_hf_to_gguf.py\n.*llama-cpp-python"):
        convert_with(tmp_path, student, tmp_path / "out.gguf")
