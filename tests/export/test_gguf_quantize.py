"""Quantization by the real llama.cpp: every kind that it writes, overrides, importances, fallbacks and failures."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from helpers.gguf_files import make_f32
from mentor_edge.engines.llama_cpp import engine as llama_cpp
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.engines.llama_cpp.quantizer import TENSOR_TYPES
from mentor_edge.errors import EngineError, ExportError, MentorEdgeError, OutputError
from mentor_edge.export.gguf.importance_matrix import ImportanceMatrix
from mentor_edge.export.gguf.quantize import KINDS, NEED_MATRIX, quantize, tensor_types
from mentor_edge.results import GgufQuantization

SLOW = ("iq1_m", "iq1_s", "iq2_m", "iq2_s", "iq2_xs", "iq3_xxs")  # up to 11 CPU seconds before the first weight
QUICK = ("q8_0", "q4_k_m", "q2_k", "iq4_xs")
# The largest relative error of logits, by the bits in the kind's name. One and two bits ruin random weights.
LARGEST_ERROR = {"16": 0.02, "8": 0.1, "6": 0.2, "5": 0.35, "4": 0.6, "3": 0.9, "2": 1.6, "1": 1.6}
MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@pytest.fixture(scope="module")
def f32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_f32(tmp_path_factory.mktemp("student"))


def uniform_matrix(file: Path) -> ImportanceMatrix:
    """Importances with which all columns of every matrix matter equally."""
    tensors = [tensor for tensor in gguf.GGUFReader(file).tensors if len(tensor.shape) > 1]
    return ImportanceMatrix({tensor.name: np.ones(tensor.shape[0], np.float32) for tensor in tensors}, 1, 1)


@pytest.fixture(scope="module")
def matrix(f32: Path) -> ImportanceMatrix:
    return uniform_matrix(f32)


def logits(file: Path) -> Any:
    with LlamaCppEngine(file) as engine:
        return engine.logits(list(range(10, 60)))


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow)
        for kind in KINDS
        if kind != "mxfp4_moe"
    ],
)  # a table  # fmt: skip
def test_every_kind_is_written_read_back_and_decoded(
    f32: Path, matrix: ImportanceMatrix, tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "q.gguf"
    quantized = quantize(f32, target, kind, matrix=matrix if kind in NEED_MATRIX else None)
    # Mixtures are named after the type of most of their matrices, except for these.
    named = {"iq3_m": "iq3_s", "iq3_xs": "iq3_s", "iq2_s": "iq2_xs", "iq2_m": "iq2_s"}.get(kind, kind)
    named = re.sub(r"^(q\d)_k.*", r"\1_K", named)
    assert quantized.types[named] > 0 and quantized.types["f32"] > 0
    assert quantized.types == tensor_types(target) and not quantized.fallbacks and quantized.note is None
    expected = logits(f32)
    error = np.abs(logits(target) - expected).mean() / np.abs(expected).mean()
    bits = re.search(r"\d+", kind)
    assert bits is not None and 0 < error < LARGEST_ERROR[bits[0]]
    assert [path.name for path in tmp_path.iterdir()] == ["q.gguf"]


FAST_TYPES = [kind for kind in TENSOR_TYPES if kind not in SLOW]


@pytest.mark.parametrize(
    "types",
    [FAST_TYPES[start : start + 7] for start in range(0, len(FAST_TYPES), 7)]
    + [pytest.param([kind for kind in TENSOR_TYPES if kind in SLOW], marks=pytest.mark.slow)],
    ids=str,
)
def test_a_single_tensor_can_have_any_type(
    f32: Path, matrix: ImportanceMatrix, tmp_path: Path, types: list[str]
) -> None:
    requested = dict(zip(MATRICES, types, strict=False))
    assert set(types) <= set(quantize(f32, tmp_path / "q.gguf", "q8_0", overrides=requested, matrix=matrix).types)


def test_the_first_override_that_matches_counts(f32: Path, tmp_path: Path) -> None:
    overrides = {r"attn_(q|k)\.": "Q6_k", "attn": "q5_0", "^token_embd": "f16"}
    assert quantize(f32, tmp_path / "q.gguf", "q4_0", overrides=overrides).types == {
        "f32": 5,
        "q4_0": 3,
        "q6_K": 2,
        "q5_0": 2,
        "f16": 1,
    }
    stored = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "q.gguf").tensors}
    assert stored["blk.0.attn_k.weight"] == "Q6_K" and stored["token_embd.weight"] == "F16"


@pytest.mark.parametrize(
    ("kind", "overrides", "message"),
    [
        ("q9", {}, "quantize to 'q9'.*supported: f16, q4_0"),
        ("q4_k", {}, "did you mean 'q4_k_"),
        ("iq2_xxs", {}, "without an importance matrix.*importance_matrix.*iq3_s"),
        ("mxfp4_moe", {}, "no experts: every matrix would become q8_0.*use q8_0"),
        ("q4_0", {"attn_(": "q8_0"}, r"'attn_\(' is not a regular expression"),
        ("q4_0", {"attn": "q4_k_m"}, "'attn' has the unknown type 'q4_k_m'.*did you mean 'q4_k'"),
        ("q4_0", {"attn": "q8_K"}, "types of single tensors"),
        ("q4_0", {"attn_x": "q8_0"}, r"'attn_x' matches no matrix of .*f32\.gguf.*token_embd"),
        ("q4_0", {"attn_norm": "q8_0"}, "matches no matrix.*vectors are never quantized"),
        ("q4_0", {"ffn_up": "iq2_xs"}, "ffn_up.weight cannot become iq2_xs without importances"),
        ("q4_0", {"token_embd": "iq1_s"}, "token_embd.weight cannot become iq1_s"),
        ("f16", {"attn_v": "q8_0"}, "takes no overrides for f16"),
    ],
)
def test_an_impossible_request_is_refused_with_a_remedy(
    f32: Path, tmp_path: Path, kind: str, overrides: dict[str, str], message: str
) -> None:
    with pytest.raises(ExportError, match=f"(?s){message}"):
        quantize(f32, tmp_path / "q.gguf", kind, overrides=overrides)
    assert list(tmp_path.iterdir()) == []


def test_rows_that_a_type_does_not_fit_are_reported(tmp_path: Path) -> None:
    source = make_f32(tmp_path, hidden_size=96, intermediate_size=96)
    quantized = quantize(source, tmp_path / "q.gguf", "q4_k_m")
    assert quantized == GgufQuantization(
        types={"q5_0": 4, "f32": 5, "q8_0": 3, "q4_K": 1},
        fallbacks={"q4_K -> q5_0": 4, "q6_K -> q8_0": 2},
        uneven_rows=((96, 256),),
    )
    assert quantized.note == (
        "4 of 8 matrices became q5_0 instead of q4_K, 2 became q8_0 instead of q6_K, "
        "because their rows of 96 are not multiples of 256"
    )
    assert logits(tmp_path / "q.gguf").shape[0] == 50


def test_nothing_is_quantized_twice_but_other_floats_are(f32: Path, tmp_path: Path) -> None:
    for kind in ("q8_0", "f16", "bf16"):
        quantize(f32, tmp_path / f"{kind}.gguf", kind)
    with pytest.raises(ExportError, match=r"q8_0.gguf is quantized already \(it contains q8_0\).*\n.*F32 or F16 file"):
        quantize(tmp_path / "q8_0.gguf", tmp_path / "q.gguf", "q8_0")
    for kind in ("f16", "bf16"):
        assert quantize(tmp_path / f"{kind}.gguf", tmp_path / "q.gguf", "q5_k_m").types["q5_K"] > 0


def scaled(matrix: ImportanceMatrix, **changes: Any) -> ImportanceMatrix:
    return replace(matrix, values={**matrix.values, **{f"blk.0.{k}.weight": v for k, v in changes.items()}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: scaled(m, attn_q=np.ones(255, np.float32)), "255 importances for blk.0.attn_q.weight.*have 256"),
        (lambda m: scaled(m, attn_q=np.full(256, np.nan, np.float32)), "attn_q.weight that are negative, not finite"),
        (lambda m: scaled(m, attn_q=-np.ones(256, np.float32)), "negative"),
        (lambda m: scaled(m, attn_q=np.zeros(256, np.float32)), "all zero"),
        (lambda m: scaled(m, attn_x=np.ones(256, np.float32)), "has blk.0.attn_x.weight, which the file lacks"),
        (lambda m: replace(m, values={}), "lacks blk.0.attn_k.weight,.*and 5 more problems"),
    ],
)
def test_importances_of_another_model_are_refused(
    f32: Path, matrix: ImportanceMatrix, tmp_path: Path, change: Any, message: str
) -> None:
    with pytest.raises(ExportError, match=f"does not fit {f32}: it .*{message}"):
        quantize(f32, tmp_path / "q.gguf", "q4_0", matrix=change(matrix))


@pytest.mark.parametrize(
    "kind", ["q4_0", "q3_k_s", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("q5_1", "iq4_nl", "iq4_xs"))]
)
def test_columns_that_matter_lose_less(f32: Path, matrix: ImportanceMatrix, tmp_path: Path, kind: str) -> None:
    # All others in a block share its scale, so the columns that matter are every second one.
    weights = np.where(np.arange(256) % 2, 1.0, 1e-3).astype(np.float32)
    heavy = ImportanceMatrix(dict.fromkeys(matrix.values, weights), 1, 1)
    tensors = {}
    for name, given in (("plain", None), ("heavy", heavy)):
        quantize(f32, tmp_path / f"{name}.gguf", kind, matrix=given)
        reader = gguf.GGUFReader(tmp_path / f"{name}.gguf")
        tensors[name] = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    for tensor in gguf.GGUFReader(f32).tensors:
        if "ffn" in tensor.name and len(tensor.shape) > 1:
            plain, weighed = ((stored[tensor.name] - tensor.data) ** 2 for stored in tensors.values())
            assert weighed[:, 1::2].mean() < 0.95 * plain[:, 1::2].mean()
            assert weighed[:, ::2].mean() > plain[:, ::2].mean()


def test_an_embedding_that_is_not_the_head_needs_no_importances(tmp_path: Path) -> None:
    source = make_f32(tmp_path, tied=False)
    values = dict(uniform_matrix(source).values)
    del values["token_embd.weight"]
    matrix = ImportanceMatrix(values, 1, 1)
    assert quantize(source, tmp_path / "q.gguf", "iq2_xxs", matrix=matrix).types["iq2_xxs"] > 0
    with pytest.raises(ExportError, match=r"token_embd.weight cannot become iq2_xxs without importances"):
        quantize(source, tmp_path / "q.gguf", "q4_0", matrix=matrix, overrides={"token_embd": "iq2_xxs"})
    del values["output.weight"]
    with pytest.raises(ExportError, match=r"lacks output\.weight"):
        quantize(source, tmp_path / "q.gguf", "q4_0", matrix=ImportanceMatrix(values, 1, 1))


def misbehave(monkeypatch: pytest.MonkeyPatch, directory: Path, code: str) -> None:
    """Start workers that run `code` first; it may replace `work`, the child's quantization."""
    script = directory / "worker.py"
    script.write_text(
        "import os, signal, time\n"
        "from mentor_edge.engines.llama_cpp import llama_worker, quantizer\n"
        "from mentor_edge.engines.process import limits\n"
        f"real = work = quantizer.quantize\n{code}\nquantizer.quantize = work\nllama_worker.main()\n"
    )
    monkeypatch.setattr(llama_cpp, "COMMAND", [sys.executable, str(script)])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def work(*_, **__): os.kill(os.getpid(), signal.SIGSEGV)", "died with SIGSEGV while quantizing"),
        ("def work(*_, **__): os._exit(3)", "ended with exit code 3 while quantizing"),
        ("def work(*_, **__): time.sleep(60)", "no sign of life for 2 s while quantizing"),
        ("def work(*_, **__): return bytearray(1 << 46)", "memory"),
        ("limits.memory_bytes = lambda: -(1 << 24)", ""),
    ],
    ids=["crash", "exit", "hang", "memory", "no memory at all"],
)
def test_a_broken_child_is_an_error_that_names_stage_and_file(
    f32: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any, code: str, message: str
) -> None:
    misbehave(monkeypatch, tmp_path_factory.mktemp("worker"), code)
    # llama.cpp may also report missing memory itself, which is an ExportError.
    with pytest.raises(MentorEdgeError, match=f"^quantization: llama.cpp .*{message}") as caught:
        quantize(f32, tmp_path / "q.gguf", "q8_0", timeout=2.0)
    assert str(f32) in caught.value.problem
    assert list(tmp_path.iterdir()) == []


def test_every_tensor_is_a_sign_of_life(
    f32: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = "def work(*a, alive, **k): return real(*a, alive=lambda: (time.sleep(.06), alive()), **k)"
    misbehave(monkeypatch, tmp_path_factory.mktemp("worker"), slow)
    assert quantize(f32, tmp_path / "q.gguf", "q8_0", timeout=2.5).types["q8_0"] == 8


def test_a_failure_leaves_the_file_that_was_there(f32: Path, tmp_path: Path) -> None:
    target = tmp_path / "q.gguf"
    target.write_text("old")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(f32.read_bytes()[:-4096] + b"\xff" * 4096)
    with pytest.raises(ExportError, match=f"quantization: llama.cpp could not quantize {broken} to q8_0: .*"):
        quantize(broken, target, "q8_0")
    broken.write_bytes(f32.read_bytes()[:-4096])
    with pytest.raises(EngineError, match=f"quantization: .*{broken}: it lacks the last 4096 bytes\n.*truncated"):
        quantize(broken, target, "q8_0")
    with pytest.raises(ExportError, match="does not exist"):
        quantize(tmp_path / "none.gguf", target, "q8_0")
    with pytest.raises(OutputError, match="cannot write"):
        quantize(f32, target / "q.gguf", "q8_0")
    assert target.read_text() == "old" and {path.name for path in tmp_path.iterdir()} == {"q.gguf", "broken.gguf"}


def test_a_full_disk_leaves_nothing_behind(f32: Path, tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from mentor_edge.errors import ExportError
from mentor_edge.export.gguf.quantize import quantize
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    quantize(Path(sys.argv[1]), Path(sys.argv[2]), "q8_0")
except ExportError as error:
    print(error)
"""
    command = [sys.executable, "-c", script, f32, tmp_path / "out.gguf"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "quantization" in result.stdout and "room" in result.stdout, result.stderr
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 200_000


def patched(data: bytes, offset: int, value: int, size: int = 8) -> bytes:
    return data[:offset] + value.to_bytes(size, "little") + data[offset + size :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"not a model" * 100,
        lambda data: data[:3000],
        lambda data: data[: len(data) // 2],
        lambda data: patched(data, 4, 99, 4),
        lambda data: patched(data, 8, 1 << 62),
        lambda data: patched(data, 16, 1 << 62),
        lambda data: patched(data, 24, 1 << 62),
        lambda data: patched(data, data.index(b"token_embd.weight") + 17, 1 << 20, 4),
        lambda data: patched(data, data.index(b"token_embd.weight") + 21, 1 << 62),
        lambda data: patched(data, data.index(b"token_embd.weight") + 37, 999, 4),
        lambda data: patched(data, data.index(b"token_embd.weight") + 41, 1 << 60),
        lambda data: data.replace(b"blk.0.attn_k.weight", b"blk.0.attn_q.weight"),
    ],
    ids=[
        "empty", "garbage", "header only", "half", "version", "tensor count", "entry count", "key length",
        "dimensions", "width", "type", "offset", "tensor twice",
    ],
)  # a table  # fmt: skip
def test_the_types_of_a_damaged_file_are_one_clear_error(f32: Path, tmp_path: Path, damage: Any) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(damage(f32.read_bytes()))
    with pytest.raises(EngineError, match=rf"while reading {broken}: it (lacks|is not a readable GGUF file \(\w+: )"):
        tensor_types(broken)


def test_the_types_of_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no such file"):
        tensor_types(tmp_path / "none.gguf")
