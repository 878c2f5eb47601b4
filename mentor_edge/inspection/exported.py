"""Reading exported files: a GGUF file, or an ONNX directory of onnxruntime-genai."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mentor_edge.chat import ChatTemplate
from mentor_edge.engines.onnx.directory import CONFIG, OnnxDirectory
from mentor_edge.inspection.directory import encoded
from mentor_edge.inspection.facts import StudentFacts
from mentor_edge.inspection.gguf_header import read_gguf_header

_ENDING = ("eos", "eot", "eom")


def read_gguf(path: Path) -> StudentFacts:
    """The facts about a GGUF file. Raises: EngineError when it is truncated, damaged or not a GGUF file."""
    header = read_gguf_header(path)
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    vocabulary = tokens if isinstance(tokens, list) else []
    known = {text: number for number, text in enumerate(vocabulary)}
    ends = [token for name in _ENDING if (token := header.token(name)) is not None]
    bos = header.token("bos")
    name = next(iter(header.templates), None)
    texts = [text for _, text in ends] or [""]
    template = None
    if name is not None:
        start = "" if bos is None else bos[1]
        template = ChatTemplate(header.templates[name], texts[0], start, tuple(texts[1:]), name)
    problems = [] if ends else ["it names no end-of-turn token"]
    if not vocabulary:
        problems.append("it has no tokenizer")

    def encode(texts: Sequence[str]) -> list[list[int]]:
        # Only for single tokens: llama.cpp's tokenizer is needed for everything else.
        return [[known[text]] if text in known else [0] * len(text) for text in texts]

    return StudentFacts(
        path=path,
        architecture=header.architecture or None,
        config={},
        context_length=header.context_length,
        bytes=path.stat().st_size,
        dtypes=header.kinds,
        vocabulary=len(vocabulary),
        tied=None,
        own_head="output.weight" in header.tensors,
        end_tokens=dict(ends),
        templates=tuple(header.templates),
        template_name=name,
        template=template,
        encode=encode,
        problems=problems,
    )


def read_onnx(path: Path) -> StudentFacts:
    """The facts about an ONNX directory. Raises: EngineError when a file is missing or damaged."""
    directory = OnnxDirectory.read(path)
    config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    model_type = config["model"].get("type")
    texts = {number: directory.tokenizer.id_to_token(number) or "" for number in sorted(directory.end_ids)}
    return StudentFacts(
        path=path,
        architecture=model_type if isinstance(model_type, str) else None,
        config={},
        context_length=directory.context_length,
        bytes=sum(file.stat().st_size for file in path.iterdir() if file.is_file() and ".onnx" in file.name),
        dtypes={},
        vocabulary=directory.tokenizer.get_vocab_size(),
        tied=None,
        own_head=None,
        end_tokens=texts,
        templates=("default",),
        template_name="default",
        template=directory.template,
        encode=lambda texts: encoded(directory.tokenizer, texts),
    )
