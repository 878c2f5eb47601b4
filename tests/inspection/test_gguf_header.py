"""The header of a GGUF file is read as the gguf package reads it, and a damaged file is one clear error."""

from __future__ import annotations

import resource
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from gguf import GGUFReader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.gguf_files import make_f32
from helpers.hostile_gguf import HOSTILE, edited
from mentor_edge import inspect_student
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.errors import EngineError
from mentor_edge.inspection.gguf_header import read_gguf_header
from mentor_edge.inspection.student_report import Ability


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_f32(tmp_path_factory.mktemp("gguf") / "student")


def test_it_agrees_with_the_gguf_package(file: Path) -> None:
    header, reference = read_gguf_header(file), GGUFReader(file)
    scalars = {key: value for key, value in header.metadata.items() if not isinstance(value, list)}
    for key, value in scalars.items():
        expected = reference.fields[key].contents()
        assert value == (len(expected) if isinstance(expected, list) else expected), key
    assert header.metadata["tokenizer.ggml.tokens"] == reference.fields["tokenizer.ggml.tokens"].contents()
    shapes = {tensor.name: tuple(int(size) for size in tensor.shape) for tensor in reference.tensors}
    assert {name: tensor.shape for name, tensor in header.tensors.items()} == shapes
    assert header.parameters == sum(tensor.n_elements for tensor in reference.tensors)
    assert header.kinds == {"f32": header.parameters}
    assert header.architecture == "qwen3" and header.context_length == 512
    assert header.token("eos") == (header.metadata["tokenizer.ggml.eos_token_id"], "<|im_end|>")
    assert list(header.templates) == ["default"]


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_one_clear_error(file: Path, tmp_path: Path, share: float) -> None:
    content = file.read_bytes()
    short = tmp_path / "short.gguf"
    short.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(EngineError, match=r"cannot read .*short\.gguf: (it is truncated|cannot mmap an empty file)"):
        read_gguf_header(short)


def test_another_file_is_one_clear_error(tmp_path: Path) -> None:
    other = tmp_path / "model.gguf"
    other.write_bytes(b"PK\x03\x04 a zip file")
    with pytest.raises(EngineError, match="not a GGUF file"):
        read_gguf_header(other)
    with pytest.raises(EngineError, match="No such file"):
        read_gguf_header(tmp_path / "none.gguf")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_neither_hang_nor_fill_the_memory(file: Path, tmp_path: Path, name: str) -> None:
    edit, _ = HOSTILE[name]
    hostile = edited(file, tmp_path, edit)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with suppress(EngineError):
        header = read_gguf_header(hostile)
        _ = header.architecture, header.context_length, header.templates, header.parameters, header.kinds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


@pytest.mark.parametrize("counts", [(0, 10_001), (100_001, 0)])
def test_no_header_has_more_than_any_model(tmp_path: Path, counts: tuple[int, int]) -> None:
    path = tmp_path / "many.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts))
    with pytest.raises(EngineError, match="it announces"):
        read_gguf_header(path)


@given(position=st.integers(0, 4000), value=st.integers(0, 255))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_changed_byte_raises_anything_else(file: Path, tmp_path: Path, position: int, value: int) -> None:
    content = bytearray(file.read_bytes()[:20_000])
    content[position] = value
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(content)
    with pytest.raises(EngineError):
        read_gguf_header(changed)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("general.architecture", "does not know the architecture (none)"),
        ("qwen3.context_length", "its metadata lack qwen3.context_length"),
        ("qwen3.block_count", "its metadata lack qwen3.block_count"),
        ("tokenizer.ggml.model", "its metadata lack tokenizer.ggml.model"),
        ("tokenizer.ggml.merges", "its metadata lack tokenizer.ggml.merges"),
        ("token_embd.weight", "the weights lack token_embd.weight"),
    ],
)
def test_what_llama_cpp_cannot_load_is_known_from_the_header(file: Path, tmp_path: Path, key: str, words: str) -> None:
    renamed = tmp_path / "renamed.gguf"
    renamed.write_bytes(file.read_bytes().replace(key.encode(), key[:-1].encode() + b"_", 1))
    report = inspect_student(renamed)
    assert report.train.ability is report.evaluate.ability is Ability.NO
    assert words in report.evaluate.reason
    with pytest.raises(EngineError):
        LlamaCppEngine(renamed)
