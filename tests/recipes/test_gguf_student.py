"""A GGUF file as a student: the dequantized copy, what it is recorded as, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from helpers.real_models import real_model
from helpers.tiny_models import LLAMA3_SPLIT, TEMPLATE, make_student, make_tokenizer
from mentor_edge.dequantized import DEQUANTIZED, Dequantized
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine, LlamaWorker
from mentor_edge.engines.torch.loading import load_student
from mentor_edge.errors import StudentError
from mentor_edge.export.gguf.convert import convert
from mentor_edge.files import sha256_of
from mentor_edge.progress import no_progress
from mentor_edge.recipes import Run, SFTRecipe
from mentor_edge.recipes.gguf_student import check_gguf, dequantized_student

CONTEXT = {"max_position_embeddings": 4096}


def make_file(directory: Path, family: str, **changes: Any) -> Path:
    student = make_student(directory / "student", family, **(CONTEXT | changes))
    convert(student, directory / f"{family}.gguf")
    return directory / f"{family}.gguf"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_file(tmp_path_factory.mktemp("gguf"), "qwen2")


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama", "gemma3"])
def test_the_copy_of_an_f32_file_is_the_model_that_it_was_made_from(tmp_path: Path, family: str) -> None:
    import torch

    file = make_file(tmp_path, family)
    stages: list[tuple[int, int]] = []
    copy = dequantized_student(file, lambda stage, done, total: stages.append((done, total)))
    assert stages == [(0, 3), (1, 3), (2, 3), (3, 3)]
    (original, _), (restored, tokenizer) = load_student(tmp_path / "student"), load_student(copy)
    assert tokenizer.chat_template == TEMPLATE
    ids = torch.arange(5, 105)[None]
    difference = (original(input_ids=ids).logits - restored(input_ids=ids).logits).abs().max()
    assert float(difference.detach()) < 1e-3
    record = Dequantized.of(copy)
    assert record is not None and (record.file, record.stored_as, [*record.kinds]) == (str(file), "float32", ["f32"])


def test_a_quantized_file_is_copied_in_bfloat16_once(file: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.gguf"
    with LlamaWorker() as worker:
        assert worker.quantize(file, small, "q8_0").code == 0
    copy = dequantized_student(small, no_progress)
    config = json.loads((copy / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and "quantization_config" not in config
    record = Dequantized.of(copy)
    assert record is not None and "q8_0" in record.kinds and record.stored_as == "bfloat16"
    shutil.copy(small, tmp_path / "small-again.gguf")
    calls: list[str] = []
    assert dequantized_student(small, lambda stage, *_: calls.append(stage)) == copy and not calls


@pytest.mark.parametrize("split", ["digits", None, LLAMA3_SPLIT])
def test_texts_are_split_as_in_the_file(tmp_path: Path, split: str | None) -> None:
    tokenizer = make_tokenizer(split, ignore_merges=split == LLAMA3_SPLIT)
    file = make_file(tmp_path, "llama", tokenizer=tokenizer)
    _, restored = load_student(dequantized_student(file, no_progress))
    text = "0 1 12 123 ½ ² ٣ 3.14 apples don't Ölmühle <tool_call>x</tool_call><|im_end|>"
    with LlamaCppEngine(file) as engine:
        assert restored(text)["input_ids"] == engine.encode([text])[0]


def edited(change: Callable[[gguf.GGUFWriter], object], *, tokenizer: bool = True) -> Callable[[Path], None]:
    """Write a small file with one tensor instead."""

    def write(path: Path) -> None:
        writer = gguf.GGUFWriter(path, "llama")
        if tokenizer:
            writer.add_token_list(["a", "b"])
            writer.add_eos_token_id(1)
        writer.add_tensor("token_embd.weight", np.zeros((2, 32), np.float32))
        change(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return write


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "there is no file"),
        (lambda path: path.write_bytes(b"GGUF"), "cannot read .*truncated or damaged"),
        (lambda path: path.write_text("not a model"), "it is not a GGUF file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-2000]), "it is truncated"),
        (edited(lambda w: w.add_string("general.architecture", "rwkv7")), "it does not read rwkv7"),
        (edited(lambda w: None, tokenizer=False), "no tokenizer with an end token"),
        (edited(lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN)), r"scales rotary positions \(yarn\)"),
        (edited(lambda w: w.add_tensor("rope_freqs.weight", np.ones(8, np.float32))), "by its own factors"),
        (edited(lambda w: w.add_uint16("split.count", 3)), "is one of 3 parts"),
    ],
)
def test_other_files_are_refused_with_the_reason(
    file: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    path = Path(shutil.copy(file, tmp_path / "model.gguf"))
    damage(path)
    with pytest.raises(StudentError, match=message):
        check_gguf(path)
    with pytest.raises(StudentError, match=message):
        SFTRecipe(student=str(path), output_dir=tmp_path / "run").fit()
    assert not (tmp_path / "run").exists()


def test_a_copy_that_computes_something_else_is_refused(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    from mentor_edge.recipes import gguf_student

    path = tmp_path / "other.gguf"
    path.write_bytes(file.read_bytes() + b"\0" * 32)  # another hash
    load = gguf_student._load

    def changed(*arguments: Any) -> Any:
        model, tokenizer = load(*arguments)
        model.model.layers[0].mlp.down_proj.weight.data.mul_(-3)
        return model, tokenizer

    monkeypatch.setattr(gguf_student, "_load", changed)
    with pytest.raises(StudentError, match=r"does not compute what llama\.cpp computes: it diverges by"):
        dequantized_student(path, no_progress)
    assert not list((cache / "dequantized").glob("*other*"))


def test_a_run_states_the_file_and_survives_an_empty_cache(file: Path, tmp_path: Path) -> None:
    run = SFTRecipe(
        student=str(file), tasks={"limit": 2}, output_dir=tmp_path / "run", train={"steps": 1, "batch_size": 2}
    ).fit()
    assert Run.load(run.directory) == run
    assert run.dequantized is not None and run.dequantized.sha256 == sha256_of(file)
    shutil.rmtree(run.student)
    merged = run.merged()
    assert Dequantized.of(merged) == run.dequantized and (Path(run.student) / DEQUANTIZED).is_file()


@pytest.mark.slow
@pytest.mark.models
@pytest.mark.parametrize("name", ["smollm2-135m", "qwen2.5-coder-0.5b", "gemma3-270m"])
def test_real_files_are_copied_exactly_enough(name: str) -> None:
    """`dequantized_student` compares every token id and the logits itself."""
    record = Dequantized.of(dequantized_student(real_model(f"{name}.gguf"), no_progress))
    assert record is not None and record.stored_as == "bfloat16"
