"""Conversion, quantization and parity, against transformers and the real llama.cpp."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tiny_models import EMBEDDING_ROWS, LLAMA3_SPLIT, MARKERS, SPECIAL, TEMPLATE, make_student, make_tokenizer

from mentor_edge.engines.llama_cpp import LlamaCppEngine
from mentor_edge.errors import EngineError, ExportError, OutputError
from mentor_edge.export import gguf as converter
from mentor_edge.export import parity
from mentor_edge.export.quantize import KINDS, quantize, tensor_types


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def f32(student: Path) -> Path:
    converter.convert(student, student / "f32.gguf")
    return student / "f32.gguf"


def edit_json(directory: Path, file: str, **changes: Any) -> None:
    path = directory / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def leftovers(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama"])
def test_f32_file_computes_what_the_model_computes(tmp_path: Path, family: str, tied: bool) -> None:
    make_student(tmp_path, family, tied=tied)
    converter.convert(tmp_path, tmp_path / "f32.gguf")
    report = parity.check(tmp_path, tmp_path / "f32.gguf")
    assert report.max_difference < 2e-4  # the limit of the gate itself is wider
    assert report.top1_agreement == 1
    assert report.positions == 200
    assert report.token_cases == len(parity.TEXTS) + 3 * len(SPECIAL + MARKERS)
    assert ("output.weight" in [t.name for t in gguf.GGUFReader(tmp_path / "f32.gguf").tensors]) != tied


def test_bfloat16_shards_convert_exactly(tmp_path: Path) -> None:
    make_student(tmp_path, dtype="bfloat16", shard_size="600KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    converter.convert(tmp_path, tmp_path / "f32.gguf")
    assert parity.check(tmp_path, tmp_path / "f32.gguf").max_difference < 2e-4


@pytest.mark.parametrize(
    ("tokenizer", "name"),
    [
        (lambda: make_tokenizer(None), "gpt-2"),
        (lambda: make_tokenizer("digits"), "smollm"),
        (lambda: make_tokenizer(LLAMA3_SPLIT, ignore_merges=True), "llama-bpe"),
    ],
)
def test_other_pre_tokenizers_agree(tmp_path: Path, tokenizer: Any, name: str) -> None:
    make_student(tmp_path, "llama", tokenizer=tokenizer())
    converter.convert(tmp_path, tmp_path / "f32.gguf")
    parity.check(tmp_path, tmp_path / "f32.gguf")
    assert gguf.GGUFReader(tmp_path / "f32.gguf").get_field("tokenizer.ggml.pre").contents() == name


def test_nfc_tokenizer_agrees_on_composed_text_only(tmp_path: Path) -> None:
    from tokenizers import normalizers

    tokenizer = make_tokenizer(normalizer=normalizers.NFC())
    make_student(tmp_path, tokenizer=tokenizer)
    converter.convert(tmp_path, tmp_path / "f32.gguf")
    parity.check(tmp_path, tmp_path / "f32.gguf")
    decomposed = unicodedata.normalize("NFD", "Zürich")
    with LlamaCppEngine(tmp_path / "f32.gguf") as engine:
        assert engine.encode([decomposed]) != [tokenizer.encode(decomposed)]


def test_start_token_of_the_post_processor_is_recorded(tmp_path: Path) -> None:
    from tokenizers import processors

    tokenizer = make_tokenizer()
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    make_student(tmp_path, tokenizer=tokenizer)
    converter.convert(tmp_path, tmp_path / "f32.gguf")
    reader = gguf.GGUFReader(tmp_path / "f32.gguf")
    assert reader.get_field("tokenizer.ggml.add_bos_token").contents() is True
    with LlamaCppEngine(tmp_path / "f32.gguf") as engine:
        assert engine.template.bos_token == "<|endoftext|>"
        assert 0 not in engine.encode(["hello"])[0]  # templates write the start token themselves


def test_vocabulary_and_template_are_stored_faithfully(f32: Path) -> None:
    reader = gguf.GGUFReader(f32)
    tokens = reader.get_field("tokenizer.ggml.tokens").contents()
    types = dict(zip(tokens, reader.get_field("tokenizer.ggml.token_type").contents(), strict=True))
    assert len(tokens) == EMBEDDING_ROWS
    assert {types[token] for token in SPECIAL} == {gguf.TokenType.CONTROL}
    assert {types[token] for token in MARKERS} == {gguf.TokenType.USER_DEFINED}
    assert types[f"[PAD{EMBEDDING_ROWS - 1}]"] == gguf.TokenType.UNUSED
    assert types["a"] == gguf.TokenType.NORMAL
    assert reader.get_field("tokenizer.chat_template").contents() == TEMPLATE
    assert reader.get_field("tokenizer.ggml.add_bos_token").contents() is False


def test_a_missing_template_is_left_out(student: Path, tmp_path: Path) -> None:
    for file in student.glob("*.[js]*"):
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).symlink_to(file)
    converter.convert(tmp_path, tmp_path / "f32.gguf")
    assert parity.check(tmp_path, tmp_path / "f32.gguf").template_sha256 is None
    with LlamaCppEngine(tmp_path / "f32.gguf") as engine, pytest.raises(EngineError, match="no chat template"):
        _ = engine.template


def rope(**changes: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4} | changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM.*\n.*Qwen3ForCausalLM, Qwen2ForCausalLM"),
        (rope(rope_type="yarn", factor=4.0), "rope scaling 'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope scaling 'linear'"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "1 layers use sliding-window"),
        ({"layer_types": None, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}, "2 layers"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantized already"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"tie_word_embeddings": False}, "lack output.weight"),
    ],
)
def test_models_that_llama_cpp_would_run_differently_are_refused(
    student: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    make_copy(student, tmp_path)
    edit_json(tmp_path, "config.json", **changes)
    with pytest.raises(ExportError, match=message):
        converter.convert(tmp_path, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre-tokenizer .*Whitespace"),
        ({"normalizer": {"type": "Lowercase"}}, "normalizer Lowercase"),
        ({"decoder": {"type": "Metaspace", "replacement": "_"}}, "BPE tokenizer"),
    ],
)
def test_tokenizers_that_llama_cpp_would_run_differently_are_refused(
    student: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    make_copy(student, tmp_path)
    edit_json(tmp_path, "tokenizer.json", **changes)
    with pytest.raises(ExportError, match=message):
        converter.convert(tmp_path, tmp_path / "out.gguf")


def make_copy(student: Path, target: Path) -> None:
    for file in student.glob("*.[js]*"):
        (target / file.name).write_bytes(file.read_bytes())


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"config\.json does not exist"):
        converter.convert(tmp_path, tmp_path / "out.gguf")


def test_parity_sees_a_wrong_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_student(tmp_path, "llama")
    monkeypatch.setattr(converter, "_pair_halves", lambda weight, head_dim: weight)
    converter.convert(tmp_path, tmp_path / "f32.gguf")
    with pytest.raises(ExportError, match="conversion: logits differ"):
        parity.check(tmp_path, tmp_path / "f32.gguf")


def test_parity_sees_a_wrong_pre_tokenizer(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converter, "_pre_tokenizer", lambda tokenizer: "gpt-2")
    converter.convert(student, tmp_path / "f32.gguf")
    with pytest.raises(ExportError, match="tokenizer: "):
        parity.check(student, tmp_path / "f32.gguf")


def test_parity_sees_another_template(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converter, "_chat_template", lambda *_: TEMPLATE + " ")
    converter.convert(student, tmp_path / "f32.gguf")
    with pytest.raises(ExportError, match="template: "):
        parity.check(student, tmp_path / "f32.gguf")


def test_parity_sees_an_end_token_that_llama_cpp_would_run_over(student: Path, tmp_path: Path) -> None:
    make_copy(student, tmp_path)
    converter.convert(tmp_path, tmp_path / "f32.gguf")
    edit_json(tmp_path, "generation_config.json", eos_token_id=[2, 77])
    with pytest.raises(ExportError, match=r"stops at \[77\]"):
        parity.check(tmp_path, tmp_path / "f32.gguf")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_quantized_loaded_and_decoded(student: Path, f32: Path, tmp_path: Path, kind: str) -> None:
    types = quantize(f32, tmp_path / "q.gguf", kind)
    expected = {"q5_k_m": "Q5_K", "q4_k_m": "Q4_K", "q3_k_m": "Q3_K", "q2_k": "Q2_K"}.get(kind, kind.upper())
    assert expected in types
    assert types == tensor_types(tmp_path / "q.gguf")
    ids = list(range(10, 60))
    with LlamaCppEngine(tmp_path / "q.gguf") as engine, LlamaCppEngine(f32) as reference:
        error = np.abs(engine.logits(ids) - reference.logits(ids)).mean() / np.abs(reference.logits(ids)).mean()
    assert 0 < error < {"f16": 0.01, "q8_0": 0.05, "q2_k": 0.9}.get(kind, 0.5)
    assert leftovers(tmp_path) == []


def test_rows_that_no_k_quant_fits_fall_back_visibly(tmp_path: Path) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    make_student(tmp_path)
    config = Qwen3Config.from_pretrained(tmp_path)
    config.hidden_size, config.intermediate_size = 96, 96
    Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    converter.convert(tmp_path, tmp_path / "f32.gguf")
    types = quantize(tmp_path / "f32.gguf", tmp_path / "q.gguf", "q4_k_m")
    assert types["Q5_0"] > 0 and types["Q8_0"] > 0


def test_quantization_refuses_what_it_cannot_do(f32: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="'q9'\nsupported: f16, q8_0"):
        quantize(f32, tmp_path / "q.gguf", "q9")
    with pytest.raises(ExportError, match="does not exist"):
        quantize(tmp_path / "none.gguf", tmp_path / "q.gguf", "q8_0")
    quantize(f32, tmp_path / "q8.gguf", "q8_0")
    with pytest.raises(ExportError, match="could not quantize"):
        quantize(tmp_path / "q8.gguf", tmp_path / "q.gguf", "q4_k_m")
    assert [path.name for path in tmp_path.iterdir()] == ["q8.gguf"]


def test_a_full_disk_leaves_nothing_behind(student: Path, f32: Path, tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from mentor_edge.errors import MentorEdgeError
from mentor_edge.export.gguf import convert
from mentor_edge.export.quantize import quantize
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
student, f32, out = map(Path, sys.argv[1:])
for write in (lambda: convert(student, out), lambda: quantize(f32, out, "q8_0")):
    try:
        write()
        print("no error")
    except MentorEdgeError as error:
        print(error.hint)
"""
    command = [sys.executable, "-c", script, student, f32, tmp_path / "out.gguf"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lines = result.stdout.splitlines()
    assert len(lines) == 2 and "space" in lines[0] and "room" in lines[1], result.stderr
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 200_000


def test_an_existing_file_survives_a_failed_conversion(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "out.gguf").write_text("old")
    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    with pytest.raises(OutputError, match="No space left on device\nfree some space"):
        converter.convert(student, tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_text() == "old"
    assert leftovers(tmp_path) == []
