"""A complete ONNX directory of a few kilobytes, whose model repeats its last token."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models

from mentor_edge.engines.onnx.doctor import write_tiny_model

WORDS = ("<end>", "a", "b", "c", "d", "e", "f", "g")
TEMPLATE = "{% for message in messages %}{{ message.content }}<end>{% endfor %}"


def make_onnx(directory: Path) -> Path:
    """Write the graph, its configuration, a tokenizer of eight words and a chat template."""
    write_tiny_model(directory)
    words = models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="a")
    tokenizer = Tokenizer(words)
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    (directory / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ message.content }}<end>{% endfor %}"
    )
    return directory


def with_external_weights(directory: Path, location: str) -> None:
    """Move the weights of the graph out of it, to a file that the graph calls `location`."""
    import onnx_ir as ir

    graph = ir.load(directory / "model.onnx")
    ir.save(graph, directory / "model.onnx", external_data="weights.data", size_threshold_bytes=100)
    content = (directory / "model.onnx").read_bytes()
    old, new = (b"\x0a\x08location\x12" + bytes([len(name)]) + name for name in (b"weights.data", location.encode()))
    assert len(old) == len(new) and content.count(old) == 1  # otherwise every length around it would change
    (directory / "model.onnx").write_bytes(content.replace(old, new))
