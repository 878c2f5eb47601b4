"""Reading the header of a GGUF file: its metadata, and the names, shapes and types of its tensors.

The `gguf` package needs 17 CPU-seconds for the header of a model with 150,000 tokens, because it makes an array of
every string. This reader takes a fraction of a second and touches no weights. The file may come from anywhere: every
length is compared with the end of the file before it is used.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mentor_edge.errors import EngineError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_NUMBERS = {
    0: struct.Struct("<B"), 1: struct.Struct("<b"), 2: struct.Struct("<H"), 3: struct.Struct("<h"),
    4: struct.Struct("<I"), 5: struct.Struct("<i"), 6: struct.Struct("<f"), 7: struct.Struct("<?"),
    10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d"),
}  # a table  # fmt: skip
_LENGTH = _NUMBERS[10]
_COUNT = _NUMBERS[4]
_KEPT = ("tokenizer.ggml.tokens", "tokenizer.chat_templates")
"""Arrays that are read; of the others only the length is."""
_LARGEST_DIMENSIONS = 4
_MOST_ENTRIES, _MOST_TENSORS, _MOST_TOKENS = 10_000, 100_000, 2_000_000
"""What no model reaches, and what is read within seconds."""
_TEMPLATE = "tokenizer.chat_template"


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor's entry in the header."""

    shape: tuple[int, ...]
    """Its dimensions, the fastest first."""
    kind: str
    """Its type, such as "q4_k"."""


@dataclass(frozen=True)
class GgufHeader:
    """The metadata and tensors that a GGUF file states."""

    metadata: Mapping[str, Any]
    """The entries. An array that is not needed is represented by its length."""
    tensors: Mapping[str, GgufTensor]
    """The tensors by name."""

    @cached_property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture, such as "qwen2"."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def context_length(self) -> int | None:
        """The longest conversation in tokens, as the file states it."""
        value = self.metadata.get(f"{self.architecture}.context_length")
        return value if isinstance(value, int) and value > 0 else None

    @property
    def templates(self) -> dict[str, str]:
        """The chat templates by name; the usual one is called "default"."""
        found = {}
        for key, value in self.metadata.items():
            if isinstance(value, str) and (key == _TEMPLATE or key.startswith(f"{_TEMPLATE}.")):
                found[key.removeprefix(_TEMPLATE).removeprefix(".") or "default"] = value
        return found

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())

    @property
    def kinds(self) -> dict[str, int]:
        """The number of weights of each type."""
        counts: dict[str, int] = {}
        for tensor in self.tensors.values():
            counts[tensor.kind] = counts.get(tensor.kind, 0) + math.prod(tensor.shape)
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def token(self, name: str) -> tuple[int, str] | None:
        """Id and text of a special token ("eos", "eot", "bos"); None if the file does not state it, or falsely."""
        number = self.metadata.get(f"tokenizer.ggml.{name}_token_id")
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if not isinstance(number, int) or not isinstance(tokens, list) or not 0 <= number < len(tokens):
            return None
        return number, tokens[number]


def read_gguf_header(path: Path) -> GgufHeader:
    """Read the header of a GGUF file.

    Raises: EngineError when the file cannot be read, is not a GGUF file, or is truncated or damaged.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Reader(content).header()
    except (OSError, ValueError, struct.error) as error:
        raise EngineError(f"cannot read {path}: {error}", "copy the file again or export it again") from error


class _Reader:
    """A position in a mapped file. Raises: ValueError when something exceeds the file."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._position = 0
        self._size = len(content)

    def header(self) -> GgufHeader:
        if self._take(4) != _MAGIC:
            raise ValueError("it is not a GGUF file")
        version = self._number(_COUNT)
        if version not in _VERSIONS:
            raise ValueError(f"it has the GGUF version {version}; versions {_VERSIONS} are read")
        tensor_count, entry_count = self._number(_LENGTH), self._number(_LENGTH)
        if entry_count > _MOST_ENTRIES or tensor_count > _MOST_TENSORS:
            raise ValueError(f"it announces {entry_count:,} entries and {tensor_count:,} tensors")
        metadata: dict[str, Any] = {}
        for _ in range(entry_count):
            key = self._string()
            if key in metadata:
                raise ValueError(f"the entry {key!r} occurs twice")
            metadata[key] = self._value(self._number(_COUNT), keep=key in _KEPT)
        tensors, end = self._tensors(tensor_count)
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
            raise ValueError(f"it has the alignment {alignment!r}")
        start = -(-self._position // alignment) * alignment
        if start + end > self._size:
            raise ValueError(f"it is truncated: its weights end at byte {start + end}, the file at {self._size}")
        return GgufHeader(metadata, tensors)

    def _tensors(self, count: int) -> tuple[dict[str, GgufTensor], int]:
        """The tensors, and where the last one ends, counted from the start of the weights."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        tensors, last = {}, 0
        for _ in range(count):
            name = self._string()
            dimensions = self._number(_COUNT)
            if dimensions > _LARGEST_DIMENSIONS:
                raise ValueError(f"the tensor {name!r} has {dimensions} dimensions")
            shape = tuple(self._number(_LENGTH) for _ in range(dimensions))
            kind = GGMLQuantizationType(self._number(_COUNT))  # raises ValueError for an unknown one
            offset = self._number(_LENGTH)
            block, size = GGML_QUANT_SIZES[kind]
            last = max(last, offset + math.prod(shape) // block * size)
            tensors[name] = GgufTensor(shape, kind.name.lower())
        return tensors, last

    def _value(self, kind: int, *, keep: bool) -> Any:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise ValueError(f"it has a value of the unknown type {kind}")
        element, count = self._number(_COUNT), self._number(_LENGTH)
        if element in _NUMBERS:
            self._skip(count * _NUMBERS[element].size)
            return count
        if element != _STRING or count > min(_MOST_TOKENS, self._size // _LENGTH.size):
            raise ValueError(f"it has an array of {count} values of type {element}")
        read: Callable[[], Any] = self._string if keep else self._skip_string
        values = [read() for _ in range(count)]
        return values if keep else count

    def _number(self, kind: struct.Struct) -> Any:
        start = self._position
        self._skip(kind.size)
        return kind.unpack_from(self._content, start)[0]

    def _string(self) -> str:
        return self._take(self._number(_LENGTH)).decode(errors="replace")

    def _skip_string(self) -> None:
        self._skip(self._number(_LENGTH))

    def _take(self, size: int) -> bytes:
        start = self._position
        self._skip(size)
        return self._content[start : self._position]

    def _skip(self, size: int) -> None:
        left = self._size - self._position
        if size > left:
            raise ValueError(f"it is truncated or damaged: {size} bytes are announced, {left} are left")
        self._position += size
