"""Opening a model in its runtime, whatever it is: a GGUF file, a Hugging Face or ONNX directory, an endpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mentor_edge.engines.base import ChatEngine, Engine
from mentor_edge.errors import EngineError
from mentor_edge.files import sha256_of
from mentor_edge.manifest import verify_entry

_MODEL_FILES = (".safetensors", ".onnx", ".data", ".onnx_data", ".json", ".jinja", ".txt", ".model")
"""Endings of the files in a directory that decide what a model says: weights, configuration, tokenizer, template."""


def is_endpoint(target: str | Path) -> bool:
    return str(target).startswith(("http://", "https://"))


@contextmanager
def open_engine(
    target: str | Path, *, model: str | None = None, api_key: str | None = None
) -> Iterator[Engine | ChatEngine]:
    """The model at `target`, ready to answer; its runtime is closed afterwards.

    A file is a GGUF for llama.cpp; a directory with genai_config.json is for ONNX Runtime, one with config.json for
    torch. A URL is an OpenAI-compatible endpoint; it needs `model`, unless it serves just one. Files of an artifact are
    compared with its manifest first.

    Raises: EngineError, StudentError, ArtifactError.
    """
    if is_endpoint(target):
        from mentor_edge.engines.endpoint import EndpointEngine, only_model

        with EndpointEngine(str(target), model or only_model(str(target), api_key), api_key=api_key) as endpoint:
            yield endpoint
        return
    path = Path(target)
    verify_entry(path)
    if path.is_file():
        from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine

        with LlamaCppEngine(path) as llama:
            yield llama
    elif (path / "genai_config.json").is_file():
        from mentor_edge.engines.onnx.engine import OnnxEngine

        with OnnxEngine(path) as onnx:
            yield onnx
    elif (path / "config.json").is_file():
        from mentor_edge.engines.torch.engine import TransformersEngine  # loads torch

        yield TransformersEngine.load(path)
    else:
        raise EngineError(f"{path} holds no model", "give a GGUF file, a Hugging Face or ONNX directory, or a URL")


def identity_of(target: str | Path, model: str | None = None) -> str:
    """What tells one model from another in results: the SHA-256 of a file, that of a directory's model files with their
    names, or the URL and model of an endpoint (whose weights nobody can see).

    Raises: EngineError when there is nothing at `target`.
    """
    if is_endpoint(target):
        return f"{str(target).rstrip('/')} {model}"
    path = Path(target)
    if path.is_file():
        return f"sha256:{sha256_of(path)}"
    files = sorted(file for file in path.glob("*") if file.suffix in _MODEL_FILES and file.is_file())
    if not files:
        raise EngineError(f"{path} holds no model", "give a GGUF file, a Hugging Face or ONNX directory, or a URL")
    lines = "".join(f"{sha256_of(file)} {file.name}\n" for file in files)
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
