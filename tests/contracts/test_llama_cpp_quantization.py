"""What export/gguf/quantize.py relies on in the quantizer of llama-cpp-python 0.3.36.

Upstream files: `include/llama.h` (enum llama_ftype), `ggml/include/ggml.h` (enum ggml_type), `src/llama-quant.cpp`
(tensor_requires_imatrix, tensor_type_fallback).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.gguf_files import make_f32
from mentor_edge.engines.llama_cpp.engine import LlamaWorker
from mentor_edge.engines.llama_cpp.quantizer import FTYPES, TENSOR_TYPES
from mentor_edge.engines.llama_cpp.replies import Fallback, QuantizeReply
from mentor_edge.export.gguf.quantize import NEED_MATRIX


@pytest.fixture(scope="module")
def f32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_f32(tmp_path_factory.mktemp("student"))


def quantize_unchecked(source: Path, target: Path, kind: str) -> QuantizeReply:
    """llama.cpp's reply, without the checks of `quantize`."""
    with LlamaWorker() as worker:
        return worker.quantize(source, target, kind)


def test_the_tables_are_those_of_the_installed_llama_cpp() -> None:
    # In a child process: llama.cpp is never loaded into this one.
    script = "import llama_cpp\nfor name, value in vars(llama_cpp.llama_cpp).items(): print(name, value)"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60).stdout
    kinds = dict(re.findall(r"^LLAMA_FTYPE_(?:MOSTLY|ALL)_(\w+) (\d+)$", output, re.MULTILINE))
    assert {name.lower(): int(value) for name, value in kinds.items()} == FTYPES | {"f32": 0, "nvfp4": 39}
    types = dict(re.findall(r"^GGML_TYPE_(\w+) (\d+)$", output, re.MULTILINE))
    never_written = {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64", "COUNT"}
    named = {name.lower(): int(value) for name, value in types.items() if name not in never_written}
    unnamed = {"bf16": 30, "tq1_0": 34, "tq2_0": 35}  # ggml.h has them, the binding does not
    assert named | unnamed == {name.lower(): value for name, value in TENSOR_TYPES.items()}


@pytest.mark.parametrize("kind", NEED_MATRIX)
def test_llama_cpp_refuses_the_kinds_that_need_importances(f32: Path, tmp_path: Path, kind: str) -> None:
    reply = quantize_unchecked(f32, tmp_path / "q.gguf", kind)
    assert reply.code == 1 and "requires an imatrix" in reply.log[-1]


def test_llama_cpp_logs_a_tensor_that_gets_another_type_in_the_words_that_are_parsed(tmp_path: Path) -> None:
    source = make_f32(tmp_path, hidden_size=96, intermediate_size=96)
    fallbacks = quantize_unchecked(source, tmp_path / "q.gguf", "q4_k_m").fallbacks
    assert Fallback("blk.0.attn_q.weight", 96, 256, "q4_K", "q5_0") in fallbacks and len(fallbacks) == 6
