"""Head and embedding: what `tie_word_embeddings` says, and what the weights contain."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from helpers.tiny_models import make_student
from mentor_edge.engines.torch.loading import load_student
from mentor_edge.errors import ExportError, StudentError
from mentor_edge.export.checkpoint import EMBEDDING
from mentor_edge.export.gguf.convert import convert
from mentor_edge.export.onnx.genai_exporter import _with_own_head
from mentor_edge.weight_files import HEAD

OTHER = object()
SAME = object()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"), "llama")


def variant(plain: Path, directory: Path, *, tied: bool, head: Any, embedding: bool = True) -> Path:
    """The student with another flag; its head is missing (None), `SAME` as the embedding, or `OTHER`."""
    shutil.copytree(plain, directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": tied}))
    weights = load_file(directory / "model.safetensors")
    if head is not None:
        weights[HEAD] = weights[EMBEDDING] + (0.25 if head is OTHER else 0)
    if not embedding:
        del weights[EMBEDDING]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def stored(file: Path) -> dict[str, Any]:
    return {tensor.name: tensor.data for tensor in gguf.GGUFReader(file).tensors}


@pytest.mark.parametrize(
    ("tied", "head", "embedding", "own"),
    [
        (True, None, True, False),
        (True, SAME, True, False),
        (True, OTHER, True, True),
        (False, OTHER, True, True),
        (False, SAME, True, True),
        (True, OTHER, False, False),
    ],
)
def test_the_file_contains_what_transformers_computes_with(
    plain: Path, tmp_path: Path, tied: bool, head: Any, embedding: bool, own: bool
) -> None:
    directory = variant(plain, tmp_path / "student", tied=tied, head=head, embedding=embedding)
    model, _ = load_student(directory)
    convert(directory, tmp_path / "out.gguf")
    tensors = stored(tmp_path / "out.gguf")
    assert ("output.weight" in tensors) == own
    used_head = tensors["output.weight" if own else "token_embd.weight"]
    assert np.array_equal(used_head, model.get_output_embeddings().weight.detach().numpy())
    assert np.array_equal(tensors["token_embd.weight"], model.get_input_embeddings().weight.detach().numpy())
    shares = _with_own_head(directory, {})
    assert shares == ({"shared_embeddings": "false"} if own else {})


def test_an_untied_model_without_a_head_is_refused(plain: Path, tmp_path: Path) -> None:
    directory = variant(plain, tmp_path / "student", tied=False, head=None)
    with pytest.raises(StudentError, match=r"lack lm_head\.weight"):
        load_student(directory)
    with pytest.raises(ExportError, match=r"the weights lack output\.weight"):
        convert(directory, tmp_path / "out.gguf")


def test_the_onnx_builder_may_not_share_two_different_matrices(plain: Path, tmp_path: Path) -> None:
    directory = variant(plain, tmp_path / "student", tied=True, head=OTHER)
    with pytest.raises(ExportError, match=r"the head of .* differs from its embedding"):
        _with_own_head(directory, {"shared_embeddings": "true"})
