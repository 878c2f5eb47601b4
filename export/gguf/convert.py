"""Conversion of a Hugging Face model directory to GGUF, for llama.cpp.

For dense models of the families in `families.FAMILIES` this does what llama.cpp's own converter does. A model that
llama.cpp would run differently from transformers is refused (`config_checks`, `tokenizer`); the export then checks the
finished file for parity with transformers. torch is not loaded, and the weights are read and written in pieces.

Relied on upstream (gguf 0.19, gguf_writer.py): after the tensor list, a file contains only aligned values.
tests/contracts/test_gguf.py checks this.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import gguf
import numpy as np
import numpy.typing as npt

from mentor_edge.errors import ExportError
from mentor_edge.files import atomic_file

from ..checkpoint import Checkpoint, read_config
from .config_checks import supported_config
from .model_config import ModelConfig
from .tokenizer import add_tokenizer

DTYPES: dict[str, tuple[np.dtype[Any], Any]] = {
    "f32": (np.dtype(np.float32), gguf.LlamaFileType.ALL_F32),
    "f16": (np.dtype(np.float16), gguf.LlamaFileType.MOSTLY_F16),
}
# From this magnitude on, values round to infinity.
_OVERFLOW = {np.dtype(np.float32): math.inf, np.dtype(np.float16): 65520.0}


def convert(model_dir: Path, out: Path, dtype: str = "f32") -> None:
    """Write the model of `model_dir` as a GGUF file, atomically.

    Matrices are stored as `dtype` ("f32" or "f16"), vectors as F32. Embedding rows beyond the tokenizer become unused
    tokens. A tied output head is not stored, as llama.cpp expects. The chat template, if there is one, is stored byte
    for byte. llama.cpp does not normalize Unicode: with an NFC tokenizer, callers must pass composed text.

    Raises: ExportError when the directory is incomplete or damaged, or when llama.cpp would run the model differently
    (the message names the value seen and what is supported); OutputError when the file cannot be written.
    """
    if dtype not in DTYPES:
        raise ExportError(f"cannot convert to {dtype!r}", f"supported: {', '.join(DTYPES)}; quantize afterwards")
    matrix_type, file_type = DTYPES[dtype]
    model = supported_config(read_config(model_dir))
    checkpoint = Checkpoint(model_dir)
    names = model.tensor_names(checkpoint)
    embedding = next(name for name, stored in names.items() if stored == "token_embd.weight")
    computed = model.computed_tensors()

    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[model.family.architecture])
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_file_type(file_type)
    try:
        model.add_hyper_parameters(writer)
    except (TypeError, ValueError, OverflowError) as error:
        raise ExportError(f"config.json of {model_dir} has settings of the wrong type ({error})") from error
    add_tokenizer(writer, model_dir, rows=checkpoint.shape(embedding)[0])
    stored_types = {name: matrix_type if len(checkpoint.shape(name)) > 1 else np.dtype(np.float32) for name in names}
    for stored, values in computed.items():
        writer.add_tensor_info(stored, values.shape, values.dtype, values.nbytes)
    for name, stored in names.items():
        shape = checkpoint.shape(name)
        writer.add_tensor_info(stored, shape, stored_types[name], math.prod(shape) * stored_types[name].itemsize)
    with atomic_file(out) as temporary:
        try:
            writer.write_header_to_file(temporary)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
        except (OverflowError, struct.error) as error:
            raise ExportError(f"config.json of {model_dir} has a number that GGUF cannot hold: {error}") from error
        finally:
            writer.close()
        # The writer accepts whole tensors only, so the values and their padding are written here.
        with temporary.open("ab") as file:
            _pad(file, writer.data_alignment)
            for values in computed.values():
                file.write(values.data)
                _pad(file, writer.data_alignment)
            for name in names:
                for piece in _stored_pieces(checkpoint, model, name, stored_types[name]):
                    file.write(piece.data)
                _pad(file, writer.data_alignment)


def _stored_pieces(
    checkpoint: Checkpoint, model: ModelConfig, name: str, stored_type: np.dtype[Any]
) -> Iterator[npt.NDArray[Any]]:
    """A tensor's rows as the file stores them. Raises: ExportError when a value is not finite in that type."""
    overflow = _OVERFLOW[stored_type]
    for rows in checkpoint.pieces(name, model.row_unit(name)):
        piece = model.arrange(name, rows)
        # The comparison is also false for NaN, which min() and max() propagate.
        if not (-overflow < piece.min() and piece.max() < overflow):
            hint = "convert to f32" if np.isfinite(rows).all() else "the model diverged in training or is damaged"
            raise ExportError(f"{name} has values that are not finite as {stored_type}", hint)
        yield piece.astype(stored_type, copy=False)


def _pad(file: IO[bytes], alignment: int) -> None:
    file.write(bytes(-file.tell() % alignment))
