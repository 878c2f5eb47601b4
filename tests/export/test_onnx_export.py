"""ONNX export by onnxruntime-genai's builder: parity with torch, the directory's files, options, reading graphs."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from helpers.onnx_students import IDS, STUDENTS, Students, edit_json, engine_logits, genai, plain_generator
from mentor_edge.engines.base import Sampling
from mentor_edge.engines.onnx.engine import OnnxEngine
from mentor_edge.engines.process.worker import RuntimeWorker
from mentor_edge.errors import ExportError
from mentor_edge.export.onnx.export import export_onnx
from mentor_edge.export.onnx.genai_exporter import DEFAULTS, OPTIONS
from mentor_edge.export.onnx.graph_quantization import quantization_of

PAD = 0
TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory, onnx_builder: RuntimeWorker) -> Students:
    return Students(tmp_path_factory.mktemp("students"), onnx_builder)


@pytest.fixture
def source(students: Students, tmp_path: Path) -> Path:
    """A model directory to change."""
    return Path(shutil.copytree(students.source("qwen2"), tmp_path / "source"))


def divergence(reference: npt.NDArray[np.float32], logits: npt.NDArray[np.float32]) -> float:
    """The mean KL divergence in nats."""
    left, right = (x - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True)) for x in (reference, logits))
    left, right = left - reference.max(1, keepdims=True), right - logits.max(1, keepdims=True)
    return float((np.exp(left) * (left - right)).sum(1).mean())


# What comes out


NAMES = [pytest.param(name, marks=() if name in ("qwen3 untied", "gemma3") else pytest.mark.slow) for name in STUDENTS]


@pytest.mark.parametrize("name", NAMES)
def test_float_graphs_compute_what_torch_computes(students: Students, name: str) -> None:
    directory, exported = students.export(name, "fp32")
    reference, logits = students.torch_logits(name), engine_logits(directory)
    assert np.abs(logits - reference).max() < TOLERANCE
    assert list(logits.argmax(1)) == list(reference.argmax(1))
    assert exported.weights.head == "fp32" and set(exported.weights.body) == {"fp32"}
    assert exported.weights.head_shares_embedding == (name != "qwen3 untied")


@pytest.mark.parametrize("name", NAMES)
def test_int4_has_an_8_bit_head_and_stays_near_torch(students: Students, name: str) -> None:
    directory, exported = students.export(name, "int4")
    written, tied = exported.weights, name != "qwen3 untied"
    assert (exported.exporter, exported.precision) == ("genai", "int4")
    assert (written.block_size, written.symmetric, written.head) == (128, False, "int8")
    assert set(written.body) == {"int4"} and written.accuracy_level == 4
    assert (written.head_shares_embedding, written.embedding) == ((True, "int8") if tied else (False, "fp32"))
    reference = students.torch_logits(name)
    guess = divergence(reference, np.zeros_like(reference))
    assert divergence(reference, engine_logits(directory)) < guess / 2


def test_int8_stays_nearer_to_torch_than_int4(students: Students) -> None:
    reference = students.torch_logits("qwen2")
    (eight, exported), (four, _) = (students.export("qwen2", precision) for precision in ("int8", "int4"))
    assert divergence(reference, engine_logits(eight)) < 0.003 < 0.02 < divergence(reference, engine_logits(four))
    assert exported.weights.body == {"int8": 10} and exported.weights.head == "int8"


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_directories_contain_what_the_runtime_needs_and_nothing_else(students: Students, precision: str) -> None:
    directory, source = students.export("llama", precision)[0], students.source("llama")
    tokenizer = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    names = {"genai_config.json", "model.onnx", "model.onnx.data"} | tokenizer
    assert {path.name for path in directory.iterdir()} == names
    assert (directory / "chat_template.jinja").read_bytes() == (source / "chat_template.jinja").read_bytes()
    config = json.loads((directory / "genai_config.json").read_text())
    assert config["model"]["context_length"] == config["search"]["max_length"] == 512
    runtime = genai.Tokenizer(genai.Model(str(directory)))  # as it is, without our engine
    text = "<|im_start|>user\nZürich 12<|im_end|>\n<tool_call>"
    with OnnxEngine(directory) as engine:
        assert list(runtime.encode(text)) == engine.encode([text])[0]


def test_templates_keep_their_bytes(source: Path, tmp_path: Path, onnx_builder: RuntimeWorker) -> None:
    template = source / "chat_template.jinja"
    template.write_bytes(template.read_bytes().replace(b"\n", b"\r\n") + " é".encode())
    export_onnx(source, tmp_path / "out", "fp32", builder=onnx_builder)
    assert (tmp_path / "out" / template.name).read_bytes() == template.read_bytes()


def test_a_plain_user_decodes_greedily_and_stops_where_the_model_does(
    students: Students, source: Path, tmp_path: Path
) -> None:
    prompt = [5, 6, 7, 8, 9, 10, PAD]
    with OnnxEngine(students.export("qwen2", "fp32")[0]) as engine, engine.open(1) as batch:
        output = batch.extend([0], [prompt], Sampling(12))[0].token_ids
    end = output[7]
    stated = {"eos_token_id": [end, 5], "do_sample": True, "temperature": 0.9, "repetition_penalty": 1.5, "top_k": 20}
    edit_json(source / "generation_config.json", lambda config: config.update(stated))
    export_onnx(source, tmp_path / "out", "fp32", builder=students.builder)
    model = json.loads((tmp_path / "out" / "genai_config.json").read_text())["model"]
    assert model["eos_token_id"] == sorted({end, 5, 2})  # 2 is the tokenizer's
    generator = plain_generator(tmp_path / "out", 40)
    generator.append_tokens(np.array(prompt, np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    # An end token ends the turn without being shown.
    assert [int(token) for token in generator.get_sequence(0)][len(prompt) :] == output[: output.index(end)]


def test_a_prompt_that_ends_with_the_padding_token_is_read_to_its_end(students: Students, tmp_path: Path) -> None:
    directory, prompt = students.export("qwen2", "fp32")[0], [5, 6, 7, PAD]
    reference = students.torch_logits("qwen2", prompt)

    def last(directory: Path) -> npt.NDArray[np.float32]:
        generator = plain_generator(directory, 9)
        generator.append_tokens(np.array(prompt, np.int32))
        return np.asarray(generator.get_logits())[0, -1]

    assert np.abs(last(directory) - reference[-1]).max() < TOLERANCE
    # The trap: with the padding token's true id, the runtime takes the prompt's last token for padding.
    other = shutil.copytree(directory, tmp_path / "other")
    edit_json(other / "genai_config.json", lambda config: config["model"].update(pad_token_id=PAD))
    assert np.abs(last(other) - reference[-2]).max() < TOLERANCE


def test_padded_batches_compute_what_single_prompts_compute(students: Students) -> None:
    directory, pad = students.export("qwen2", "int4")[0], -1
    generator = plain_generator(directory, 12, rows=2)
    generator.append_tokens(np.array([[5, 6, 7, pad, pad], [9, 8, 7, 6, PAD]], np.int32))
    together = np.asarray(generator.get_logits())[:, -1]
    for row, prompt in enumerate(([5, 6, 7], [9, 8, 7, 6, PAD])):
        alone = plain_generator(directory, 12)
        alone.append_tokens(np.array(prompt, np.int32))
        assert np.abs(together[row] - np.asarray(alone.get_logits())[0, -1]).max() < 1e-4


def test_conversations_shorter_than_a_sliding_window_run(students: Students) -> None:
    with OnnxEngine(students.export("gemma3", "fp32")[0], context_length=20) as engine:  # the window is 64
        assert np.abs(engine.logits(IDS[:20]) - students.torch_logits("gemma3")[:20]).max() < TOLERANCE


# Options


def test_options_take_effect_and_are_read_back(source: Path, tmp_path: Path, students: Students) -> None:
    options = {
        "block_size": "32",
        "accuracy_level": "1",
        "is_symmetric": "true",
        "matmul_mixed_precision": "last_matmul:int4",
    }
    written = export_onnx(source, tmp_path / "out", "int4", options=options, builder=students.builder).weights
    assert (written.block_size, written.accuracy_level, written.symmetric) == (32, 1, True)
    assert written.head == written.embedding == "int4" and written.head_shares_embedding
    assert divergence(students.torch_logits("qwen2"), engine_logits(tmp_path / "out")) < 0.3
    assert written == quantization_of(tmp_path / "out" / "model.onnx")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"shared_embeddings": "false"}, {"embedding": "fp32", "head_shares_embedding": False}),
        ({"is_symmetric": "true"}, {"symmetric": True, "head_shares_embedding": True}),
        ({"matmul_mixed_precision": "last_matmul:int4"}, {"head": "int4", "symmetric": False}),
        ({"algo_config": "rtn_last"}, {"head": "int8", "symmetric": False}),
        ({"algo_config": "k_quant_mixed", "block_size": "64"}, {"body": {"int4": 8, "int8": 2}, "block_size": 64}),
    ],
)
def test_other_ways_of_quantizing_open_and_compute(
    students: Students, tmp_path: Path, options: dict[str, str], expected: dict[str, Any]
) -> None:
    written = export_onnx(
        students.source("qwen2"), tmp_path / "out", "int4", options=options, builder=students.builder
    ).weights
    assert written.model_copy(update=expected) == written
    assert divergence(students.torch_logits("qwen2"), engine_logits(tmp_path / "out")) < 0.3


@pytest.mark.parametrize(
    ("precision", "options", "message"),
    [
        ("int4", {"int4_block_size": "128"}, r"unknown option 'int4_block_size' .*'block_size'.*\n.*algo_config"),
        ("int4", {"int4_algo_config": "rtn_last"}, r"unknown option 'int4_algo_config' .*'algo_config'"),
        ("int4", {"hf_remote": "true"}, "unknown option 'hf_remote'"),
        ("int4", {"block_size": "48"}, r"block_size is '48'\n.*16, 32"),
        ("int4", {"matmul_mixed_precision": "linear_attn:int8"}, "matmul_mixed_precision is"),
        ("fp32", {"block_size": "32"}, "fp32 is not quantized"),
        ("int2", {}, r"unknown ONNX precision 'int2' \(did you mean 'int"),
    ],
)  # a table  # fmt: skip
def test_options_without_effect_are_refused(
    students: Students, tmp_path: Path, precision: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        export_onnx(students.source("qwen2"), tmp_path / "out", precision, options=options, builder=students.builder)
    assert not list(tmp_path.iterdir())


def test_other_exporters_take_no_options(students: Students, tmp_path: Path) -> None:
    options = {"block_size": "32"}
    with pytest.raises(ExportError, match="'transformers' takes no options"):
        export_onnx(students.source("qwen2"), tmp_path / "out", "int4", exporter="transformers", options=options)
    with pytest.raises(ExportError, match=r"unknown exporter 'genia' .*'genai'"):
        export_onnx(students.source("qwen2"), tmp_path / "out", "int4", exporter="genia")


@pytest.mark.parametrize(
    ("precision", "options", "message"),
    [
        ("int4", {"algo_config": "k_quant", "is_symmetric": "true"}, "is_symmetric=true .*symmetric is False"),
        ("int8", {"shared_embeddings": "true"}, "shared_embeddings=true .*head_shares_embedding is False"),
    ],
)
def test_an_option_that_had_no_effect_is_an_error(
    students: Students, tmp_path: Path, precision: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(ExportError, match=f"quantization: without effect: {message}"):
        export_onnx(students.source("qwen2"), tmp_path / "out", precision, options=options, builder=students.builder)
    assert not list(tmp_path.iterdir())


# Reading graphs


def test_damaged_graphs_are_refused_or_described(students: Students, tmp_path: Path) -> None:
    sound = (students.export("qwen2", "int4")[0] / "model.onnx").read_bytes()
    path, chance, refused = tmp_path / "model.onnx", random.Random(0), 0
    for attempt in range(300):
        damaged = bytearray(sound)
        for _ in range(chance.choice((1, 3, 20))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged[: chance.randrange(len(damaged))] if attempt % 3 == 0 else damaged)
        try:
            quantization_of(path).model_dump_json()
        except ExportError:
            refused += 1
    assert 100 < refused < 300


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100, None])
def test_a_file_that_is_not_a_graph_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ExportError, match="cannot be read as an ONNX graph"):
        quantization_of(tmp_path / "model.onnx")


def test_the_defaults_are_known_options() -> None:
    for defaults in DEFAULTS.values():
        assert all(value in OPTIONS[name] for name, value in defaults.items())
