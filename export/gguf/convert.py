"""Conversion of a Hugging Face model directory to GGUF, for llama.cpp.

Covers what llama.cpp's own converter does for dense models of the families in `gguf_families`. Whatever llama.cpp
would run differently from transformers is refused, and parity with transformers is checked on the finished file.
torch is not loaded, and the weights pass through memory in pieces.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import gguf
import numpy as np
import numpy.typing as npt

from mentor_edge.errors import ExportError
from mentor_edge.files import atomic_file

from ..checkpoint import Checkpoint, read_json
from .families import ModelConfig
from .tokenizer import add_tokenizer

DTYPES: dict[str, tuple[np.dtype[Any], Any]] = {
    "f32": (np.dtype(np.float32), gguf.LlamaFileType.ALL_F32),
    "f16": (np.dtype(np.float16), gguf.LlamaFileType.MOSTLY_F16),
}
# Larger values than this round to infinity.
_LARGEST = {np.dtype(np.float32): math.inf, np.dtype(np.float16): 65520.0}


def convert(model_dir: Path, out: Path, dtype: str = "f32") -> None:
    """Write the model of `model_dir` as a GGUF file, atomically.

    Matrices get `dtype` ("f32" or "f16"), vectors stay F32. Embedding rows beyond the tokenizer become unused tokens;
    a tied output head is not stored, as llama.cpp expects. The chat template is stored byte for byte, a missing one is
    left out. llama.cpp applies no Unicode normalization: with an NFC tokenizer, composed text is the caller's duty.

    Raises: ExportError when the directory is incomplete or damaged, or when llama.cpp would run the model differently
    (the message says what was seen and what is supported); OutputError when the file cannot be written.
    """
    if dtype not in DTYPES:
        raise ExportError(f"cannot convert to {dtype!r}", f"supported: {', '.join(DTYPES)}; quantize afterwards")
    matrix_type, file_type = DTYPES[dtype]
    model = ModelConfig.of(read_json(model_dir / "config.json"))
    checkpoint = Checkpoint(model_dir)
    names = model.tensor_names(checkpoint)
    embedding = next(name for name, stored in names.items() if stored == "token_embd.weight")
    computed = model.computed_tensors()

    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[model.family.architecture])
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_file_type(file_type)
    model.add_hyper_parameters(writer)
    add_tokenizer(writer, model_dir, rows=checkpoint.shape(embedding)[0])
    kinds = {name: matrix_type if len(checkpoint.shape(name)) > 1 else np.dtype(np.float32) for name in names}
    for stored, values in computed.items():
        writer.add_tensor_info(stored, values.shape, values.dtype, values.nbytes)
    for name, stored in names.items():
        shape = checkpoint.shape(name)
        writer.add_tensor_info(stored, shape, kinds[name], math.prod(shape) * kinds[name].itemsize)
    with atomic_file(out) as temporary:
        try:
            writer.write_header_to_file(temporary)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
        finally:
            writer.close()
        # The writer takes whole tensors only; what follows its part of the file is nothing but values and padding.
        with temporary.open("ab") as file:
            _pad(file, writer.data_alignment)
            for values in computed.values():
                file.write(values.data)
                _pad(file, writer.data_alignment)
            for name in names:
                for piece in _stored_pieces(checkpoint, model, name, kinds[name]):
                    file.write(piece.data)
                _pad(file, writer.data_alignment)


def _stored_pieces(
    checkpoint: Checkpoint, model: ModelConfig, name: str, kind: np.dtype[Any]
) -> Iterator[npt.NDArray[Any]]:
    """A tensor's rows as they stand in the file. Raises: ExportError for values that are not finite there."""
    largest = _LARGEST[kind]
    for rows in checkpoint.pieces(name, model.row_unit(name)):
        piece = model.arrange(name, rows)
        # Also false for NaN, which every minimum and maximum hands on.
        if not (-largest < piece.min() and piece.max() < largest):
            hint = "convert to f32" if np.isfinite(rows).all() else "the model diverged in training or is damaged"
            raise ExportError(f"{name} holds values that are not finite as {kind}", hint)
        yield piece.astype(kind, copy=False)


def _pad(file: IO[bytes], alignment: int) -> None:
    file.write(bytes(-file.tell() % alignment))
