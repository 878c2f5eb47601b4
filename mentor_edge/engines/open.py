"""Opening a model in its runtime: the one place that knows which engine handles what.

`open_engine` handles GGUF files (llama.cpp), ONNX directories (onnxruntime-genai), Hugging Face directories (torch) and
URLs of OpenAI-compatible endpoints. A new engine is registered by one more branch here; `engines/base.py` lists the
other steps.
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mentor_edge.chat.setting import OWN, TemplateSetting
from mentor_edge.engines.base import ChatEngine, Engine
from mentor_edge.engines.onnx.genai_config import CONFIG, runtime_files
from mentor_edge.errors import EngineError
from mentor_edge.files import sha256_of
from mentor_edge.manifest import verify_entry
from mentor_edge.model_directory import MORE_TEMPLATES
from mentor_edge.path_kind import is_other_file, kind_of
from mentor_edge.weight_files import weight_files

_MODEL_FILES = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""Suffixes of the files that determine the output of a Hugging Face directory: weights, configuration, tokenizer,
template."""
_PART = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf")
"""The name of a GGUF file in several parts."""


def is_endpoint(target: str | Path) -> bool:
    """Whether `target` is a URL."""
    return str(target).startswith(("http://", "https://"))


@contextmanager
def open_engine(
    target: str | Path,
    *,
    model: str | None = None,
    api_key: str | None = None,
    threads: int | None = None,
    context_length: int | None = None,
    template: TemplateSetting = OWN,
) -> Iterator[Engine | ChatEngine]:
    """Open the model at `target`; its runtime is closed when the context ends.

    Args:
        target: a file is a GGUF for llama.cpp; a directory with genai_config.json is for onnxruntime-genai, one with
            config.json for torch; a URL is an OpenAI-compatible endpoint. Files of an artifact are first compared with
            its manifest.
        model: the name of the endpoint's model; not needed if it serves only one.
        api_key: sent to the endpoint.
        threads: processor threads of the runtime; an endpoint ignores them. Default: one for models below 64 MB, which
            more threads slow down, else `OMP_NUM_THREADS` or the machine's physical cores.
        context_length: tokens of one conversation; an endpoint ignores it. Default: the model's own length, of which
            llama.cpp and onnxruntime-genai use at most 4,096.
        template: a chat template to use instead of the model's own, and its arguments. Endpoints have their own.

    Raises:
        EngineError: when there is no model at `target`, or its runtime cannot load it; when `template` is set for an
            endpoint.
        StudentError: when a Hugging Face directory cannot be loaded, or `template` does not suit the model.
        ArtifactError: when a file differs from the manifest of the artifact it belongs to.
    """
    if is_endpoint(target):
        from mentor_edge.engines.endpoint import EndpointEngine, only_model

        if template:
            raise EngineError(f"{target} renders its own chat template", "leave out the template and its arguments")
        with EndpointEngine(str(target), model or only_model(str(target), api_key), api_key=api_key) as endpoint:
            yield endpoint
        return
    path = Path(target)
    if is_other_file(path):
        raise _not_a_model(path)
    verify_entry(path)
    if path.is_file():
        from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine

        with LlamaCppEngine(path, threads=threads, context_length=context_length, template=template) as llama:
            yield llama
    elif (path / CONFIG).is_file():
        from mentor_edge.engines.onnx.engine import OnnxEngine

        with OnnxEngine(path, threads=threads, context_length=context_length, template=template) as onnx:
            yield onnx
    elif (path / "config.json").is_file():
        from mentor_edge.engines.torch.engine import TransformersEngine  # loads torch

        yield TransformersEngine.load(path, threads=threads, context_length=context_length, template=template)
    else:
        raise _not_a_model(path)


def identity_of(target: str | Path, model: str | None = None) -> str:
    """A text that identifies a model in results.

    It is the SHA-256 of a file, the SHA-256 of a directory's model files and their names, or the URL and model name of
    an endpoint, whose weights cannot be seen. Of a GGUF file in several parts, llama.cpp loads all that belong to one.

    Raises: EngineError when there is no model at `target`; StudentError when its index names weights elsewhere.
    """
    if is_endpoint(target):
        return f"{str(target).rstrip('/')} {model}"
    path = Path(target)
    files = _model_files(path)
    if not files:
        raise _not_a_model(path)
    if files == [path]:
        return f"sha256:{sha256_of(path)}"
    directory = path if path.is_dir() else path.parent
    lines = "".join(f"{sha256_of(file)} {file.relative_to(directory)}\n" for file in files)
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def _model_files(path: Path) -> list[Path]:
    """The files that determine what a model writes."""
    if path.is_file():
        part = _PART.fullmatch(path.name)
        return [path] if part is None else sorted(path.parent.glob(f"{glob.escape(part[1])}-?????-of-{part[2]}.gguf"))
    if (path / CONFIG).is_file():
        return sorted(runtime_files(path))
    if (path / "config.json").is_file():
        weight_files(path)  # those that the index names are below, or this refuses them
    candidates = (*path.glob("*"), *path.glob(f"{MORE_TEMPLATES}/*"))
    return sorted(file for file in candidates if file.suffix in _MODEL_FILES and file.is_file())


def _not_a_model(path: Path) -> EngineError:
    kind = kind_of(path)
    hint = "give a GGUF file, a Hugging Face or ONNX directory, or a URL"
    return EngineError(f"{path} is not a model; it is {kind.name}", kind.advice or hint)
