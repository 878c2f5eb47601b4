"""Parity: the report on good files, and the stage that it names for every fault."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from transformers import AutoTokenizer

from helpers.taught_students import teach
from helpers.tiny_models import MARKERS, SPECIAL, TEMPLATE, make_sentencepiece_tokenizer, make_student
from mentor_edge.chat import ChatTemplate
from mentor_edge.engines.base import Generation
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.engines.onnx.engine import OnnxEngine
from mentor_edge.errors import EngineError, ExportError
from mentor_edge.export.gguf.convert import convert
from mentor_edge.export.gguf.quantize import quantize
from mentor_edge.export.onnx.export import export_onnx
from mentor_edge.export.parity.check import ExpectedOutputs, check, check_conversion, check_quantized
from mentor_edge.export.parity.corpus import PROBES, TEXTS
from mentor_edge.export.parity.expected import Turn
from mentor_edge.recipes.examples import supervised_examples
from mentor_edge.results import ConversionParity, QuantizedParity
from mentor_edge.tasks.nano.suites import training_suite


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many key heads as query heads, so that q and k have the same shape."""
    return make_student(tmp_path_factory.mktemp("student"), "llama", num_key_value_heads=4)


@pytest.fixture(scope="module")
def other(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model of the same shape."""
    import torch
    from transformers import AutoModelForCausalLM

    directory = Path(shutil.copytree(student, tmp_path_factory.mktemp("other") / "model"))
    model = AutoModelForCausalLM.from_pretrained(directory)
    for parameter in model.parameters():
        parameter.data = parameter.data.flatten()[torch.randperm(parameter.numel())].view_as(parameter)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def expected(student: Path) -> ExpectedOutputs:
    return ExpectedOutputs.of(student)


@pytest.fixture(scope="module")
def files(student: Path, other: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("files")
    files = {name: directory / f"{name}.gguf" for name in ("f32", "q8_0", "q4_k_m", "other-f32", "other-q4_k_m")}
    convert(student, files["f32"])
    convert(other, files["other-f32"])
    quantize(files["f32"], files["q8_0"], "q8_0")
    quantize(files["f32"], files["q4_k_m"], "q4_k_m")
    quantize(files["other-f32"], files["other-q4_k_m"], "q4_k_m")
    return files


def convert_and_check(expected: ExpectedOutputs, file: Path) -> None:
    with LlamaCppEngine(file, kv="f32") as engine:
        check_conversion(expected, engine)


def measure(expected: ExpectedOutputs, file: Path, kind: str | None = None) -> QuantizedParity:
    with LlamaCppEngine(file) as engine:
        return check_quantized(expected, engine, kind)


# Good files


def test_a_report_says_what_was_compared(expected: ExpectedOutputs, files: dict[str, Path]) -> None:
    with LlamaCppEngine(files["f32"], kv="f32") as engine:
        report = check_conversion(expected, engine)
    assert report.max_difference < 2e-4  # the limit is wider
    assert report.top1_agreement == 1 and report.positions == 200
    assert report.text.template_sha256 == ChatTemplate(TEMPLATE, "<|im_end|>").sha256
    assert report.text.rendered_cases == len(PROBES)
    assert report.text.token_cases == len(TEXTS) + 3 * len(SPECIAL + MARKERS)
    assert report.text.extra_end_tokens == ("<|endoftext|>",)  # by its name, in llama.cpp alone
    assert report.turns.turns == 4
    assert ConversionParity.model_validate_json(report.model_dump_json()) == report


def test_fewer_bits_diverge_more_and_less_than_a_guess(expected: ExpectedOutputs, files: dict[str, Path]) -> None:
    full, eight, four = (measure(expected, files[kind], kind) for kind in ("f32", "q8_0", "q4_k_m"))
    assert full.kl_mean < 1e-5 < eight.kl_mean < four.kl_mean / 10 < four.kl_guess / 10
    assert full.kl_p99 < eight.kl_p99 < four.kl_p99
    assert full.top1_agreement > 0.97 > eight.top1_agreement > four.top1_agreement
    assert full.positions == 200 and QuantizedParity.model_validate_json(full.model_dump_json()) == full


@pytest.mark.slow
def test_a_trained_student_is_measured_on_its_own_conversations(tmp_path: Path) -> None:
    # Taught until it is sure of its tasks: of a half-taught student, the processor's arithmetic decides some turns.
    tasks = training_suite(12, seed=0).tasks
    student = teach(tmp_path / "student", tasks, steps=150)
    examples = supervised_examples(AutoTokenizer.from_pretrained(student), tasks)
    expected = ExpectedOutputs.of(student, [example["input_ids"] for example in examples])
    convert(student, tmp_path / "f32.gguf")
    quantize(tmp_path / "f32.gguf", tmp_path / "q8_0.gguf", "q8_0")
    quantize(tmp_path / "f32.gguf", tmp_path / "q2_k.gguf", "q2_k")
    convert_and_check(expected, tmp_path / "f32.gguf")
    eight, two = (measure(expected, tmp_path / f"{kind}.gguf", kind) for kind in ("q8_0", "q2_k"))
    assert eight.positions == 8 * 64
    assert eight.turns.ended == eight.turns.with_calls == eight.turns.turns == 4
    assert eight.turns.stop_agreement == eight.turns.calls_agreement == 1
    assert eight.top1_agreement > 0.98 and eight.kl_mean < 1e-3 < two.kl_mean < two.kl_guess / 10


@pytest.mark.parametrize("style", ["gemma", "llama"])
def test_sentencepiece_tokenizers_agree(tmp_path: Path, style: str) -> None:
    make_student(tmp_path, "llama", tokenizer=make_sentencepiece_tokenizer(style))
    convert(tmp_path, tmp_path / "f32.gguf")
    assert check(tmp_path, tmp_path / "f32.gguf").max_difference < 2e-4


def test_a_model_without_a_template_has_none_to_compare(student: Path, tmp_path: Path) -> None:
    for file in student.glob("*.[js]*"):
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).symlink_to(file)
    convert(tmp_path, tmp_path / "f32.gguf")
    report = check(tmp_path, tmp_path / "f32.gguf")
    assert report.text.template_sha256 is None and report.text.rendered_cases == 0
    with pytest.raises(ExportError, match=r"^template: .* has no chat template"):
        check(student, tmp_path / "f32.gguf")


# Faults in the file


def edit_bytes(file: Path, old: bytes, new: bytes) -> None:
    content = file.read_bytes()
    assert content.count(old) == 1 and len(old) == len(new)
    file.write_bytes(content.replace(old, new))


def tensors(file: Path) -> dict[str, Any]:
    """The tensors by name, to be changed in place."""
    return {tensor.name: tensor.data for tensor in gguf.GGUFReader(file, "r+").tensors}


def another_template(file: Path) -> None:
    edit_bytes(file, b"</tool_response><|im_end|>\n{%", b"</tool_response><|im_end|> {%")


def another_pre_tokenizer(file: Path) -> None:
    field = b"tokenizer.ggml.pre" + struct.pack("<IQ", gguf.GGUFValueType.STRING, 5)
    edit_bytes(file, field + b"qwen2", field + b"gpt-2")


def no_end_token(file: Path) -> None:
    edit_bytes(file, b"tokenizer.ggml.eos_token_id", b"tokenizer.ggml.xyz_token_id")


@pytest.mark.parametrize("kind", ["f32", "q4_k_m"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (another_template, "^template: .* stores a different template than"),
        (another_pre_tokenizer, r"^tokenizer: .* is \[.* in .* and \["),
        (no_end_token, r"^tokenizer: the end token is '<\|im_end\|>' .* '' in"),
    ],
)
def test_another_template_or_tokenizer_is_detected_in_every_file(
    expected: ExpectedOutputs, files: dict[str, Path], tmp_path: Path, kind: str, change: Any, message: str
) -> None:
    change(file := Path(shutil.copy(files[kind], tmp_path)))
    with pytest.raises(ExportError, match=message):
        convert_and_check(expected, file) if kind == "f32" else measure(expected, file, kind)


def interleaved_halves(file: Path) -> None:
    rows = tensors(file)["blk.0.attn_q.weight"]
    rows[:] = rows.reshape(4, 32, 2, -1).swapaxes(1, 2).reshape(rows.shape).copy()


def swapped_q_and_k(file: Path) -> None:
    q, k = (tensors(file)[f"blk.1.attn_{name}.weight"] for name in "qk")
    q[:], k[:] = k.copy(), q.copy()


def swapped_norms(file: Path) -> None:
    before, after = (tensors(file)[f"blk.0.{name}_norm.weight"] for name in ("attn", "ffn"))
    before[:], after[:] = after.copy(), before.copy()


def unit_norm(file: Path) -> None:
    tensors(file)["output_norm.weight"][:] = 1


def zero_layer(file: Path) -> None:
    tensors(file)["blk.0.ffn_down.weight"][:] = 0


@pytest.mark.parametrize("change", [interleaved_halves, swapped_q_and_k, swapped_norms, unit_norm, zero_layer])
def test_weights_in_the_wrong_place_are_a_fault_of_the_conversion(
    expected: ExpectedOutputs, files: dict[str, Path], tmp_path: Path, change: Callable[[Path], None]
) -> None:
    change(file := Path(shutil.copy(files["f32"], tmp_path)))
    with pytest.raises(ExportError, match=r"^conversion: logits differ by up to"):
        convert_and_check(expected, file)


def test_a_layer_of_zeros_is_a_fault_of_the_quantization(
    expected: ExpectedOutputs, files: dict[str, Path], tmp_path: Path
) -> None:
    zero_layer(file := Path(shutil.copy(files["q4_k_m"], tmp_path)))
    with pytest.raises(ExportError, match=r"^quantization: .*a guess that does not read the text"):
        measure(expected, file, "q4_k_m")


def test_weights_that_are_not_finite_do_not_even_load(files: dict[str, Path], tmp_path: Path) -> None:
    file = Path(shutil.copy(files["q4_k_m"], tmp_path))
    tensors(file)["blk.0.ffn_down.weight"][:] = 0xFF
    with pytest.raises(EngineError, match="invalid data"):
        LlamaCppEngine(file)


def test_a_file_of_another_model_is_detected(expected: ExpectedOutputs, files: dict[str, Path]) -> None:
    with pytest.raises(ExportError, match=r"^conversion: .*\nthe file belongs to another model"):
        convert_and_check(expected, files["other-f32"])
    with pytest.raises(ExportError, match=r"^quantization: .*a guess that does not read the text"):
        measure(expected, files["other-q4_k_m"], "q4_k_m")


def test_eight_bits_must_keep_more_than_four(expected: ExpectedOutputs, files: dict[str, Path]) -> None:
    with pytest.raises(ExportError, match=r"^quantization: .*q8_0 must keep 0\.1 nats and 80%"):
        measure(expected, files["q4_k_m"], "q8_0")


# Faults in an ONNX directory


@pytest.fixture(scope="module")
def directories(
    student: Path, other: Path, onnx_builder: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    pytest.importorskip("onnx_ir", reason="onnxruntime-genai's model builder needs onnx_ir")
    directories = {name: tmp_path_factory.mktemp("onnx") / name for name in ("student", "other")}
    export_onnx(student, directories["student"], "fp32", builder=onnx_builder)
    export_onnx(other, directories["other"], "fp32", builder=onnx_builder)
    return directories


def edit_json(path: Path, edit: Callable[[Any], object]) -> None:
    edit(content := json.loads(path.read_text()))
    path.write_text(json.dumps(content))


def other_template(directory: Path, _: Path) -> None:
    (directory / "chat_template.jinja").write_text(TEMPLATE + " ")


def other_pre_tokenizer(directory: Path, _: Path) -> None:
    gpt2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    edit_json(directory / "tokenizer.json", lambda content: content.update(pre_tokenizer=gpt2))


def other_end_token(directory: Path, _: Path) -> None:
    edit_json(directory / "tokenizer_config.json", lambda content: content.update(eos_token="<|endoftext|>"))


def other_weights(directory: Path, other: Path) -> None:
    (weights,) = (file.name for file in directory.iterdir() if file.suffix == ".data")
    shutil.copy(other / weights, directory / weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_template, r"^template: .* stores a different template than"),
        (other_pre_tokenizer, r"^tokenizer: .* is \[.* in .* and \["),
        (other_end_token, r"^tokenizer: the end token is '<\|im_end\|>' in .*, '<\|endoftext\|>' in"),
        (other_weights, r"^conversion: logits differ by up to"),
    ],
)
def test_faults_of_an_onnx_directory_are_detected(
    expected: ExpectedOutputs, directories: dict[str, Path], tmp_path: Path, change: Any, message: str
) -> None:
    directory = Path(shutil.copytree(directories["student"], tmp_path / "onnx"))
    with OnnxEngine(directory) as engine:
        assert check_conversion(expected, engine).text.extra_end_tokens == ()
    change(directory, directories["other"])
    with pytest.raises(ExportError, match=message), OnnxEngine(directory) as engine:
        check_conversion(expected, engine)


# Faults of the runtime


def test_an_end_token_that_the_runtime_ignores_is_detected(expected: ExpectedOutputs, files: dict[str, Path]) -> None:
    with pytest.raises(ExportError, match=r"^tokenizer: .* stops at \[77\], .* does not"):
        convert_and_check(replace(expected, end_ids=expected.end_ids | {77}), files["f32"])


def test_logits_that_are_not_finite_are_detected(
    expected: ExpectedOutputs, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = np.full_like(expected.random.logits, np.nan)
    monkeypatch.setattr(LlamaCppEngine, "logits", lambda *_, **__: nan)
    with pytest.raises(ExportError, match=r"^conversion: logits differ by up to nan"):
        convert_and_check(expected, files["f32"])
    with pytest.raises(ExportError, match=r"^quantization: .* not finite"):
        measure(expected, files["q4_k_m"])


def test_a_runtime_whose_decoding_differs_from_its_scoring_is_detected(
    expected: ExpectedOutputs, files: dict[str, Path]
) -> None:
    def shifted(turn: Turn) -> Turn:
        return replace(turn, generation=Generation([*turn.generation.token_ids[:1], 77], True), leads=[1.0, 1.0])

    with pytest.raises(
        ExportError, match=r"^conversion: after prompt 0, .* generates .* instead of .*, 77\] as .* at token 1"
    ):
        convert_and_check(replace(expected, turns=[shifted(turn) for turn in expected.turns]), files["f32"])


# Faults of the student's template


def test_a_template_that_only_transformers_can_render_is_detected(student: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(student, tmp_path / "model"))
    (directory / "chat_template.jinja").write_text("{{ pad_token }}{{ messages[0].content }}")
    with pytest.raises(ExportError, match=r"^template: conversation 0 .*'<\|endoftext\|>What"):
        ExpectedOutputs.of(directory)
