"""GGUF files that are hostile: a real one with single entries of its header, metadata or tensor list overwritten."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from gguf import GGUFReader

Edit = Callable[[GGUFReader], None]


def header(name: str, value: int) -> Edit:
    return lambda file: file.fields[f"GGUF.{name}"].parts[0].__setitem__(0, value)


def value(key: str, value: float) -> Edit:
    return lambda file: file.fields[key].parts[-1].__setitem__(0, value)


def entry(key: str, field: int, value: int | bytes) -> Edit:
    """`field`: 0 is the length of the key, 1 the key, 2 the type, 3 the length of a string or the type of an array's
    elements, 4 the string or the number of elements, 5 the first element or its length."""
    content = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
    return lambda file: file.fields[key].parts[field].__setitem__(slice(None), content)


def tensor(field: int, value: int | bytes | list[int]) -> Edit:
    """Edit the embedding. `field`: 0 is the length of the name, 1 the name, 2 the number of dimensions, 3 the
    dimensions, 4 the type, 5 the offset."""
    content = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
    return lambda file: file.tensors[0].field.parts[field].__setitem__(slice(None), content)


def together(*edits: Edit) -> Edit:
    return lambda file: [edit(file) for edit in edits].clear()


BILLIONS = 4_000_000_000
ALIGNMENT = entry("general.file_type", 1, b"general.alignment")
HOSTILE: dict[str, tuple[Edit, str]] = {
    "version 99": (header("version", 99), "version 99"),
    "2^63 tensors": (header("tensor_count", 1 << 63), "number of tensors"),
    "2^32 tensors": (header("tensor_count", 1 << 32), "string length .* exceeds"),
    "two tensors": (header("tensor_count", 2), "not found"),
    "2^63 entries": (header("kv_count", 1 << 63), "number of key value pairs"),
    "2^32 entries": (header("kv_count", 1 << 32), "string length .* exceeds"),
    "one entry": (header("kv_count", 1), "invalid number of dimensions"),
    "key of 2^62 bytes": (entry("general.architecture", 0, 1 << 62), "string length .* exceeds"),
    "string of 2^62 bytes": (entry("general.architecture", 3, 1 << 62), "string length .* exceeds"),
    "string of 900 MB": (entry("tokenizer.chat_template", 3, 900_000_000), "exceeds remaining file size"),
    "token of 900 MB": (entry("tokenizer.ggml.tokens", 5, 900_000_000), "exceeds remaining file size"),
    "array of 2^62 strings": (entry("tokenizer.ggml.tokens", 4, 1 << 62), "failed to read key-value pairs"),
    "array of 2^31 strings": (entry("tokenizer.ggml.tokens", 4, 1 << 31), "failed to read key-value pairs"),
    "array of 2^60 numbers": (entry("tokenizer.ggml.token_type", 4, 1 << 60), "failed to read key-value pairs"),
    "array of arrays": (entry("tokenizer.ggml.tokens", 3, 9), "invalid GGUF type 9"),
    "value of no type": (entry("qwen3.context_length", 2, 77), "invalid GGUF type 77"),
    "number as a string": (entry("qwen3.context_length", 2, 8), "string length .* exceeds"),
    "key twice": (entry("tokenizer.ggml.merges", 1, b"tokenizer.ggml.tokens"), "duplicate key"),
    "alignment 0": (together(ALIGNMENT, value("general.file_type", 0)), "alignment 0"),
    "alignment 2^31": (together(ALIGNMENT, value("general.file_type", 1 << 31)), "data section"),
    "unknown architecture": (entry("general.architecture", 4, b"qwen9"), "unknown model architecture"),
    "unknown tokenizer": (entry("tokenizer.ggml.model", 4, b"gpt9"), "unknown tokenizer"),
    "unknown pre-tokenizer": (entry("tokenizer.ggml.pre", 4, b"qwen9"), "unknown pre-tokenizer"),
    "context of billions": (value("qwen3.context_length", BILLIONS), "no valid context length"),
    "context of 0": (value("qwen3.context_length", 0), "no valid context length"),
    "width 0": (value("qwen3.embedding_length", 0), "wrong shape"),
    "width of billions": (value("qwen3.embedding_length", BILLIONS), "wrong shape"),
    "no layers": (value("qwen3.block_count", 0), "n_layer"),
    "511 layers": (value("qwen3.block_count", 511), "not found"),
    "billions of layers": (value("qwen3.block_count", BILLIONS), "n_layer"),
    "feed forward of billions": (value("qwen3.feed_forward_length", BILLIONS), "wrong shape"),
    "no heads": (value("qwen3.attention.head_count", 0), "wrong shape"),
    "billions of heads": (value("qwen3.attention.head_count", BILLIONS), "wrong shape"),
    "no key heads": (value("qwen3.attention.head_count_kv", 0), "wrong shape"),
    "heads of billions": (value("qwen3.attention.key_length", BILLIONS), "wrong shape"),
    "values of billions": (value("qwen3.attention.value_length", BILLIONS), "wrong shape"),
    "rotation of billions": (value("qwen3.rope.dimension_count", BILLIONS), "n_rot"),
    "rotation that is not a number": (value("qwen3.rope.freq_base", np.nan), "logits are not finite"),
    "negative epsilon": (value("qwen3.attention.layer_norm_rms_epsilon", -1), "eps >= 0"),
    "end token of billions": (value("tokenizer.ggml.eos_token_id", BILLIONS), "eos token is 4000000000; .* has 448"),
    "name of 2^62 bytes": (tensor(0, 1 << 62), "string length .* exceeds"),
    "name of 65 bytes": (tensor(0, 65), "too long"),
    "no such name": (tensor(1, b"token_ambd.weight"), "not found"),
    "2^31 dimensions": (tensor(2, 1 << 31), "invalid number of dimensions"),
    "dimension of 2^62": (tensor(3, [1 << 62, 448]), "overflow"),
    "negative dimension": (tensor(3, [(1 << 63) + 5, 448]), "invalid number of elements"),
    "2^40 rows": (tensor(3, [256, 1 << 40]), "has offset"),
    "rows for columns": (tensor(3, [448, 256]), "wrong shape"),
    "weights of no type": (tensor(4, 77), "invalid ggml type 77"),
    "weights of another type": (tensor(4, 12), "has offset"),
    "offset of 2^62": (tensor(5, 1 << 62), "has offset"),
    "offset into the header": (tensor(5, 1), "has offset"),
}
"""What is overwritten, and the reason with which llama.cpp or its worker refuses the file."""


def edited(model_file: Path, directory: Path, edit: Edit) -> Path:
    path = Path(shutil.copy(model_file, directory / "hostile.gguf"))
    file = GGUFReader(path, "r+")
    edit(file)
    file.data.flush()
    return path
