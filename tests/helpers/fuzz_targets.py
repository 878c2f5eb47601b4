"""What is fuzzed: readers that must answer any bytes with a result or with an error of ours."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.small_artifacts import manifest
from helpers.task_rows import CALCULATORS, CALLS_ROW, ROW
from helpers.turn_checks import FRAGMENTS, check_turn
from mentor_edge.chat import ChatTemplate
from mentor_edge.engines.openai_message import read_turn
from mentor_edge.errors import MentorEdgeError
from mentor_edge.inspection.gguf_header import read_gguf_header
from mentor_edge.manifest import MANIFEST, Manifest
from mentor_edge.manifest.reader import digest_of
from mentor_edge.messages import Message, ToolCall
from mentor_edge.tasks import jsonl
from mentor_edge.tools.schemas.checking import ArgumentChecker
from mentor_edge.tools.schemas.reading import SchemaError, read_schema

Read = Callable[[bytes, Path], object]
"""Reads an input; the directory is for files."""


@dataclass(frozen=True)
class Target:
    read: Read
    seeds: Sequence[bytes]
    """Valid inputs to start from."""


def target_of(name: str, work: Path) -> Callable[[bytes], None]:
    """The target as a function of bytes. It raises only what is a defect."""
    read = TARGETS[name].read

    def one_input(data: bytes) -> None:
        with suppress(MentorEdgeError, SchemaError):
            read(data, work)

    return one_input


ODD: tuple[Any, ...] = (
    None, True, 0, -1, 0.1, 1e308, 10**40, float("nan"), "", "x", "\ud800", "../x", "/", "a\nb", "\x1b[2J", [], {},
    [[]], [None], {"": 1}, {"type": 1}, {"$ref": "#"}, "#/$defs/b", "object", "array", "string", "^(a+)+$",
)  # a table  # fmt: skip


def _edited(value: Any, data: bytes) -> bytes:
    """A JSON value with changes. Three bytes are one: which part, what happens to it, and the value that it gets."""
    value = deepcopy(value)
    for part, change, new in zip(data[::3], data[1::3], data[2::3], strict=False):
        parts = list(_parts(value))
        if not 0 < len(parts) < 200:  # each change may double the nesting
            break
        parent, key = parts[part % len(parts)]
        if change % 4 == 0:
            del parent[key]
        elif change % 4 == 1:  # a part of the value itself, so that it repeats or contains itself
            other, place = parts[new % len(parts)]
            parent[key] = deepcopy(other[place])
        elif change % 4 == 2 and isinstance(parent, dict):
            parent[str(ODD[new % len(ODD)])] = deepcopy(parent[key])
        else:
            parent[key] = deepcopy(ODD[new % len(ODD)])
    return json.dumps(value).encode()


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each part of a JSON value as (object or list, key or index)."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _parts(value[key])


def _json_target(read: Read, *values: Any) -> Target:
    """Inputs are JSON texts, or (after a null byte) changes of a valid value."""

    def read_text_or_changes(data: bytes, work: Path) -> None:
        changes = data[:1] == b"\0" and len(data) > 1
        read(_edited(values[data[1] % len(values)], data[2:]) if changes else data, work)

    texts = [json.dumps(value).encode() for value in values]
    return Target(read_text_or_changes, (*texts, *(bytes([0, number, 3, 3, 3]) for number in range(len(values)))))


def _turns(data: bytes, _: Path) -> None:
    """Fragments of known shapes (a byte above 127 chooses one) and arbitrary text, in any order."""
    pieces = [FRAGMENTS[byte % len(FRAGMENTS)] if byte > 127 else chr(byte) for byte in data]
    check_turn("".join(pieces))
    check_turn(data.decode("utf-8", "surrogateescape"))


def _gguf(data: bytes, work: Path) -> None:
    path = work / "model.gguf"
    path.write_bytes(data)
    header = read_gguf_header(path)
    _ = (header.architecture, header.context_length, header.templates, header.parameters, header.kinds)


def _manifests(data: bytes, work: Path) -> None:
    values = _json(data)
    if isinstance(values, dict):  # whoever forges a manifest computes its digest
        values.pop("digest", None)
        with suppress(ValueError):
            data = json.dumps(values | {"digest": digest_of(values)}).encode()
    (work / MANIFEST).write_bytes(data)
    Manifest.read(work)


def _tasks(data: bytes, work: Path) -> None:
    path = work / "tasks.jsonl"
    path.write_bytes(data)
    jsonl.load(path, CALCULATORS)


CONVERSATION = (
    Message("user", "What is 2 + 3?"),
    Message("assistant", "", (ToolCall("add", {"a": 2, "b": 3}),)),
    Message("tool", "5", name="add"),
)
TOOLS = ({"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}},)


def _templates(data: bytes, _: Path) -> None:
    template = ChatTemplate(data.decode("utf-8", "replace"), "<|im_end|>")
    template.render(CONVERSATION, TOOLS, add_generation_prompt=True)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _schemas(data: bytes, _: Path) -> None:
    checker = ArgumentChecker(read_schema(_json(data)).parameters)
    for arguments in ({}, {"a": 1, "b": "x"}, {"a": [1.5, None], "b": {"c": True}}):
        checker.problem(arguments)


def _replies(data: bytes, _: Path) -> None:
    message = _json(data)
    if isinstance(message, dict):
        read_turn(message, TOOLS)


def _gguf_seed() -> bytes:
    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    entries = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    entries += text(b"llama.context_length") + struct.pack("<II", 4, 512)
    entries += text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"b")
    tensor = text(b"token_embd.weight") + struct.pack("<IQQIQ", 2, 4, 2, 0, 0)
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 3) + entries + tensor
    return header + bytes(-len(header) % 32 + 32)


SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": ["integer", "null"], "multipleOf": 0.5}, "b": {"$ref": "#/$defs/b"}},
    "$defs": {"b": {"anyOf": [{"pattern": "^x+$"}, {"type": "array", "items": {"$ref": "#/$defs/b"}}]}},
    "required": ["a"], "additionalProperties": False,
}  # a table  # fmt: skip
REPLY = {
    "role": "assistant", "content": None,
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}],
}  # a table  # fmt: skip
TEMPLATE = b"""{% for m in messages %}{{ m.role }}: {{ m.content | trim }}
{% for call in m.tool_calls or [] %}{{ call.function.arguments | tojson }}{% endfor %}{% endfor %}
{{ tools | length }}"""

TARGETS: dict[str, Target] = {
    "turns": Target(_turns, (b'<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>', bytes(range(120, 250)))),
    "gguf": Target(_gguf, (_gguf_seed(),)),
    "templates": Target(_templates, (TEMPLATE,)),
    "manifests": _json_target(_manifests, manifest().model_dump(mode="json")),
    "tasks": _json_target(_tasks, ROW, CALLS_ROW),
    "schemas": _json_target(_schemas, SCHEMA),
    "replies": _json_target(_replies, REPLY),
}

FOUND: tuple[tuple[str, bytes], ...] = ()
"""Inputs on which a target failed once, made small: (target, input)."""
