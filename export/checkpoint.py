"""A Hugging Face model directory: its JSON files, and its safetensors weights read in pieces.

Weights are read with plain file reads instead of the safetensors package: that package maps the file, which counts as
the process's memory, and its numpy reader does not support bfloat16. The package documents the format: an 8-byte
little-endian length, a JSON header with the type, shape and offsets of every tensor, then the values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from mentor_edge.chat.setting import Tokens
from mentor_edge.errors import ExportError, StudentError
from mentor_edge.inspection.expected_weights import is_tied
from mentor_edge.json_object import LARGEST_TOKENIZER
from mentor_edge.json_object import read_json as read_json_object
from mentor_edge.model_directory import check_config, end_ids, parse_tokenizer, stated_end_ids, stored_template
from mentor_edge.weight_files import HEAD, safetensors_header, weight_files

EMBEDDING = "model.embed_tokens.weight"
"""The name of the embedding in every supported family."""
CHUNK = 1 << 18
"""Values per piece: 1 MiB of float32, which stays in the processor's cache through all conversions."""
_STORED: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises: ExportError when the file is missing, cannot be read or does not contain a JSON object.
    """
    try:
        return read_json_object(path, largest=LARGEST_TOKENIZER)
    except FileNotFoundError as error:
        hint = "give a model directory saved by transformers; an adapter must be merged into its base first"
        raise ExportError(f"{path} does not exist", hint) from error
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read: {error}") from error


def read_config(model_dir: Path) -> dict[str, Any]:
    """The config.json of a model directory.

    Raises: ExportError as `read_json`, and when it states what no model has.
    """
    config = read_json(model_dir / "config.json")
    try:
        check_config(config, model_dir / "config.json")
    except StudentError as error:
        raise ExportError(error.problem, error.hint) from error
    return config


def configured_end_ids(model_dir: Path) -> frozenset[int]:
    """The end-of-turn ids of a model besides its tokenizer's end token.

    They are those that `stated_end_ids` finds, and the token with which the chat template closes a turn.

    Raises: StudentError when a file cannot be read.
    """
    return end_ids(stated_end_ids(model_dir), _closing_ids(model_dir))


def _closing_ids(model_dir: Path) -> list[int]:
    """The token with which the chat template closes a turn, as a list of one id or none."""
    path = model_dir / "tokenizer.json"
    settings = read_json(model_dir / "tokenizer_config.json") if path.is_file() else {}
    try:
        template = stored_template(model_dir, settings.get("chat_template"))
        tokenizer = parse_tokenizer(path.read_text(encoding="utf-8")) if template is not None else None
    except Exception:  # reported where the template or the tokenizer is needed
        return []
    if template is None or tokenizer is None:
        return []
    tokens = Tokens.of(tokenizer, settings.get("eos_token"), settings.get("bos_token"))
    closing = tokens.ends_turns(template.source)
    return tokens.encode(closing) if closing else []


@dataclass(frozen=True)
class _StoredTensor:
    """A tensor in a file; `offset` is the position of its first byte."""

    file: Path
    kind: str
    shape: tuple[int, ...]
    offset: int


class Checkpoint:
    """The tensors of a directory's safetensors files, sharded or not. Nothing stays in memory or mapped.

    The files are those that transformers loads (`weight_files`).

    Raises: ExportError from the constructor when a file is missing or damaged, two contain the same tensor, or one has
    values other than F32, F16, BF16.
    """

    def __init__(self, model_dir: Path) -> None:
        try:
            files = weight_files(model_dir)
        except StudentError as error:
            raise ExportError(error.problem, error.hint) from error
        self._tensors: dict[str, _StoredTensor] = {}
        for file in files:
            self._tensors.update(_read_header(file))
        for name, tensor in self._tensors.items():
            if tensor.kind not in _STORED:
                raise ExportError(f"{name} has {tensor.kind} values", f"supported: {', '.join(_STORED)}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._tensors[name].shape

    def has_own_head(self, config: Mapping[str, Any]) -> bool:
        """Whether the output head has weights of its own, as transformers decides it.

        The configuration may say that head and embedding are tied. If both are stored and differ, each is used for
        itself all the same; if only one is stored, it serves as both. Without a statement, the family decides.
        """
        tied = is_tied(config)
        if not {EMBEDDING, HEAD} <= self._tensors.keys():
            return tied is False
        return tied is False or not self._are_equal(EMBEDDING, HEAD)

    def _are_equal(self, left: str, right: str) -> bool:
        if self.shape(left) != self.shape(right):
            return False
        return all(map(np.array_equal, self.pieces(left), self.pieces(right)))

    def pieces(self, name: str, unit: int = 1) -> Iterator[npt.NDArray[np.float32]]:
        """The tensor's rows in order, as float32 pieces of about `CHUNK` values and a multiple of `unit` rows.

        Every stored type is a subset of float32, so nothing is rounded. The caller may overwrite a piece.
        """
        tensor = self._tensors[name]
        rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
        step = max(1, CHUNK // columns // unit) * unit
        with tensor.file.open("rb") as file:
            file.seek(tensor.offset)
            for start in range(0, rows, step):
                count = min(step, rows - start)
                yield _read(file, tensor.kind, count * columns).reshape(count, *tensor.shape[1:])


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors in one safetensors file, by name.

    Raises: ExportError when the file is missing or damaged.
    """
    return {name: tensor.shape for name, tensor in _read_header(path).items()}


def _read(file: IO[bytes], kind: str, count: int) -> npt.NDArray[np.float32]:
    stored = np.fromfile(file, _STORED[kind], count)
    if len(stored) < count:
        raise ExportError(f"{file.name} ended while it was read", "copy or download the model again")
    if kind == "BF16":  # the upper half of a float32
        wide = stored.astype("<u4")
        wide <<= 16
        return wide.view("<f4")
    return stored.astype(np.float32, copy=False)


def _read_header(path: Path) -> dict[str, _StoredTensor]:
    try:
        header, start = safetensors_header(path)
        size = path.stat().st_size - start
        return {name: _stored_tensor(path, entry, start, size) for name, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"cannot read {path}: {error}", "copy or download the model again") from error


def _stored_tensor(path: Path, entry: dict[str, Any], start: int, size: int) -> _StoredTensor:
    shape = tuple(map(int, entry["shape"]))
    begin, end = map(int, entry["data_offsets"])
    kind = str(entry["dtype"])
    if not 0 <= begin <= end <= size or min(shape, default=1) < 1:
        raise ValueError(f"it declares a tensor of shape {list(shape)} at bytes {begin} to {end} of {size}")
    if kind in _STORED and math.prod(shape) * _STORED[kind].itemsize != end - begin:
        raise ValueError(f"a tensor of shape {list(shape)} and type {kind} has {end - begin} bytes")
    return _StoredTensor(path, kind, shape, start + begin)
