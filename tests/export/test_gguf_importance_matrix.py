"""The importance matrix: what it measures, on which text, under which tensor names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from helpers.evaluation_tasks import BFCL
from helpers.tiny_models import MARKERS, SPECIAL, families, make_student, make_tokenizer
from mentor_edge.chat import ChatTemplate
from mentor_edge.errors import ExportError
from mentor_edge.export.gguf.convert import convert
from mentor_edge.export.gguf.importance_matrix import ImportanceMatrix, importance_matrix, rendered_conversations
from mentor_edge.export.gguf.quantize import quantize
from mentor_edge.results import Calibration
from mentor_edge.tasks.nano.suites import training_suite
from mentor_edge.tasks.types import Suite

CONVERSATIONS = [list(range(5, 150)), list(range(300, 20, -3)), [7]]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def render(tokenizer: Any, suite: Suite, limit: int = 64) -> list[list[int]]:
    template = ChatTemplate(tokenizer.chat_template, tokenizer.eos_token)
    return rendered_conversations(template, lambda texts: tokenizer(list(texts))["input_ids"], suite, limit)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", families("qwen2"))
def test_every_matrix_of_the_file_has_its_importances(tmp_path: Path, family: str, tied: bool) -> None:
    make_student(tmp_path, family, tied=tied)
    matrix = importance_matrix(tmp_path, CONVERSATIONS)
    convert(tmp_path, tmp_path / "f32.gguf")
    tensors = gguf.GGUFReader(tmp_path / "f32.gguf").tensors
    widths = {tensor.name: tensor.shape[0] for tensor in tensors if len(tensor.shape) > 1}
    if not tied:
        del widths["token_embd.weight"]  # looked up, never multiplied
    assert {name: values.shape[0] for name, values in matrix.values.items()} == widths
    assert all(values.dtype == np.float32 and (values > 0).all() for values in matrix.values.values())
    assert quantize(tmp_path / "f32.gguf", tmp_path / "q.gguf", "q2_k_s", matrix=matrix).types["q2_K"] > 0


def test_importances_are_mean_squares_over_all_tokens(student: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    matrix = importance_matrix(student, CONVERSATIONS)
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    layer = model.model.layers[0]
    with torch.inference_mode():
        inputs = [torch.tensor([ids]) for ids in CONVERSATIONS]
        first = torch.cat([layer.input_layernorm(model.model.embed_tokens(ids))[0] for ids in inputs])
        last = torch.cat([model.model(ids).last_hidden_state[0] for ids in inputs])
    for name, states in (("blk.0.attn_q.weight", first), ("blk.0.attn_v.weight", first), ("token_embd.weight", last)):
        np.testing.assert_allclose(matrix.values[name], (states**2).mean(0).numpy(), rtol=1e-4)
    assert (matrix.tokens, matrix.conversations) == (sum(map(len, CONVERSATIONS)), 3)


def test_the_hash_is_of_the_importances_alone(student: Path) -> None:
    done: list[tuple[int, ...]] = []
    matrix = importance_matrix(student, CONVERSATIONS, lambda stage, *counts: done.append(counts))
    again = importance_matrix(student, [*CONVERSATIONS, []])
    assert done == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert again.calibration == matrix.calibration  # a conversation without tokens does not count
    assert matrix.calibration == Calibration(sha256=matrix.sha256, tokens=240, conversations=3)
    values = dict(reversed(matrix.values.items()))
    assert ImportanceMatrix(values, 1, 1).sha256 == matrix.sha256
    values["token_embd.weight"] = values["token_embd.weight"] * np.float32(1.001)
    assert ImportanceMatrix(values, 1, 1).sha256 != matrix.sha256


def test_conversations_contain_tools_calls_and_markers_as_tokens(tokenizer: Any) -> None:
    suite = training_suite(4, seed=0)
    conversations = render(tokenizer, suite)
    assert len(conversations) == 4
    markers = {name: tokenizer.convert_tokens_to_ids(name) for name in (*SPECIAL[1:], *MARKERS)}
    for task, ids in zip(suite.tasks, conversations, strict=True):
        assert task.reference is not None and task.reference.calls
        assert all(ids.count(marker) > 0 for marker in markers.values())
        assert ids.count(markers["<tool_call>"]) == len(task.reference.calls)
        text = tokenizer.decode(ids)
        assert all(tool.name in text for tool in task.tools) and task.prompt[-1].content in text
        assert text.rstrip().endswith("<|im_end|>") and task.reference.messages[-1].content in text


def test_a_task_without_a_reference_is_its_prompt(tokenizer: Any) -> None:
    tasks = tuple(replace(task, reference=None) for task in BFCL.values())
    for ids in render(tokenizer, Suite("bfcl", "1", tasks)):
        assert tokenizer.decode(ids).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize(("limit", "expected"), [(3, [0, 3, 6]), (10, list(range(10))), (99, list(range(10)))])
def test_a_limit_draws_evenly_over_the_suite(tokenizer: Any, limit: int, expected: list[int]) -> None:
    suite = training_suite(10, seed=0)
    everything = render(tokenizer, suite)
    assert render(tokenizer, suite, limit) == [everything[index] for index in expected]


@pytest.mark.parametrize(
    ("conversations", "message"),
    [
        ([], "there is no text"),
        ([[], []], "no text"),
        ([[1], [2, 448]], "conversation 1 has token ids.* 0..447"),
        ([[-1]], "0"),
    ],
)
def test_missing_text_and_unknown_tokens_are_refused(
    student: Path, conversations: list[list[int]], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        importance_matrix(student, conversations)


def test_damaged_weights_are_refused(student: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in ("config.json", "generation_config.json"):
        (tmp_path / file).write_bytes((student / file).read_bytes())
    weights = load_file(student / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][3, 3] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ExportError, match=r"inputs of \S+ are not finite in .*\n.*damaged"):
        importance_matrix(tmp_path, CONVERSATIONS)


def test_a_family_without_names_in_gguf_is_refused(tmp_path: Path) -> None:
    from transformers import OPTConfig, OPTForCausalLM

    sizes = {"hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 448}
    OPTForCausalLM(OPTConfig(**sizes, word_embed_proj_dim=16)).save_pretrained(tmp_path)
    with pytest.raises(ExportError, match="no importance matrix for the family 'opt'"):
        importance_matrix(tmp_path, CONVERSATIONS)
