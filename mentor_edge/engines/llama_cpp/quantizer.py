"""Quantization by llama.cpp: reading the tensors of a GGUF file and writing them again with fewer bits.

Runs in the child process (`llama_worker`). The parent's side, `export/gguf/quantize.py`, checks the request first. It
reads the tables below, so this module does not import llama.cpp.
"""

from __future__ import annotations

import base64
import ctypes
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mentor_edge.engines.llama_cpp.replies import Fallback, QuantizeReply, TensorInfo
from mentor_edge.engines.process.serving import Refused

FTYPES = {
    "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k_s": 11, "q3_k_m": 12,
    "q3_k_l": 13, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18, "iq2_xxs": 19, "iq2_xs": 20,
    "q2_k_s": 21, "iq3_xs": 22, "iq3_xxs": 23, "iq1_s": 24, "iq4_nl": 25, "iq3_s": 26, "iq3_m": 27, "iq2_s": 28,
    "iq2_m": 29, "iq4_xs": 30, "iq1_m": 31, "bf16": 32, "tq1_0": 36, "tq2_0": 37, "mxfp4_moe": 38, "q1_0": 40,
    "q2_0": 41,
}  # a table  # fmt: skip
"""Kinds of files: llama.h, enum llama_ftype. Two are left out: f32, which files are quantized from, and nvfp4 (39),
which llama_model_quantize of llama-cpp-python 0.3.36 does not write ("invalid output file type")."""

TENSOR_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "q2_K": 10, "q3_K": 11, "q4_K": 12,
    "q5_K": 13, "q6_K": 14, "iq2_xxs": 16, "iq2_xs": 17, "iq3_xxs": 18, "iq1_s": 19, "iq4_nl": 20, "iq3_s": 21,
    "iq2_s": 22, "iq4_xs": 23, "iq1_m": 29, "bf16": 30, "tq1_0": 34, "tq2_0": 35, "mxfp4": 39, "nvfp4": 40, "q1_0": 41,
    "q2_0": 42,
}  # a table  # fmt: skip
"""Types of single tensors that ggml_quantize_chunk can write (ggml.h, enum ggml_type), in llama.cpp's spelling."""

BUFFER = 128 << 20
"""Bytes of one tensor's rows in memory at once; by default llama.cpp takes up to 8 GiB."""
# What llama.cpp logs when a row is not a multiple of the type's block (llama-quant.cpp, tensor_type_fallback).
_FALLBACK = re.compile(
    r"(\S+)\s+- ncols\s+(\d+) not divisible by\s+(\d+) \(required for type\s+(\S+)\)[^>]*-> falling back to\s+(\S+)"
)
LOG_WARNING = 3
"""ggml.h, enum ggml_log_level; 5 continues the line before it."""


class _InitParams(ctypes.Structure):
    """gguf.h, struct gguf_init_params: with `no_alloc` and no context, only the header is read."""

    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


def read_tensors(lib: Any, path: str, log: Sequence[str]) -> list[TensorInfo]:
    """Every tensor of a GGUF file, from its header.

    Uses llama.cpp's own reader: it knows every type that llama.cpp writes and skips long vocabularies quickly. `log`
    receives llama.cpp's warnings.

    Raises: Refused when the file is not GGUF or ends before its last tensor does.
    """
    ggml = _ggml(lib)
    header = ggml.gguf_init_from_file(os.fsencode(path), _InitParams(True, None))
    if not header:
        reason = f" ({log[0]})" if log else ""
        raise Refused(f"it is not a readable GGUF file{reason}", "it is damaged or not GGUF: export the model again")
    try:
        count = ggml.gguf_get_n_tensors(header)
        data = ggml.gguf_get_data_offset(header)
        starts = [data + ggml.gguf_get_tensor_offset(header, i) for i in range(count)]
        sizes = [ggml.gguf_get_tensor_size(header, i) for i in range(count)]
        missing = max(map(sum, zip(starts, sizes, strict=True)), default=data) - os.path.getsize(path)
        if missing > 0:
            raise Refused(f"it lacks the last {missing} bytes", "it was truncated: export or copy it again")
        return [
            TensorInfo(
                name=ggml.gguf_get_tensor_name(header, i).decode(errors="replace"),
                type=ggml.ggml_type_name(ggml.gguf_get_tensor_type(header, i)).decode(),
                type_id=ggml.gguf_get_tensor_type(header, i),
                shape=ggml.gguf_get_tensor_ne(header, i)[:4],
                offset=starts[i],
                size=sizes[i],
            )
            for i in range(count)
        ]
    finally:
        ggml.gguf_free(header)


def quantize(
    lib: Any,
    source: str,
    target: str,
    kind: str,
    *,
    threads: int,
    types: Mapping[str, str],
    matrix: Mapping[str, str],
    alive: Callable[[], None],
) -> QuantizeReply:
    """Write `target` from `source`.

    `types` maps the names of single tensors to their types; `matrix` maps names to importances, a float32 vector as
    base64. `alive` is called for every line that llama.cpp logs, which is one or more per tensor. llama.cpp's log
    callback is replaced: the caller sets its own again.
    """
    warnings: list[str] = []

    def listen(level: int, text: bytes | None, _: Any) -> None:
        alive()
        if level >= LOG_WARNING:
            warnings.append((text or b"").decode(errors="replace"))

    callback = lib.llama_log_callback(listen)
    lib.llama_log_set(callback, ctypes.c_void_p(0))
    params = lib.llama_model_quantize_default_params()
    params.ftype = FTYPES[kind]
    params.nthread = threads
    params.max_buf_size = BUFFER
    params.tt_overrides = _overrides(lib, types)
    if matrix:  # an empty one would still change the mixtures of some kinds
        params.imatrix = _importances(lib, matrix)
    code = lib.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params))
    log = "".join(warnings)
    return QuantizeReply(
        code,
        [line.strip() for line in log.splitlines() if line.strip(" =.")],
        [
            Fallback(name, int(width), int(block), intended, written)
            for name, width, block, intended, written in _FALLBACK.findall(log)
        ],
    )


def _overrides(lib: Any, types: Mapping[str, str]) -> Any:
    """llama.cpp's list of (regex, type), one per tensor, ended by an entry without a pattern."""
    entries = (lib.llama_model_tensor_override * (len(types) + 1))()
    for entry, (name, kind) in zip(entries, types.items(), strict=False):
        entry.pattern, entry.type = f"^{re.escape(name)}$".encode(), TENSOR_TYPES[kind]
    return entries


def _importances(lib: Any, matrix: Mapping[str, str]) -> Any:
    """llama.cpp's list of (name, floats), ended by an entry without a name. It keeps the floats alive."""
    entries = (lib.llama_model_imatrix_data * (len(matrix) + 1))()
    for entry, (name, encoded) in zip(entries, matrix.items(), strict=False):
        values = base64.b64decode(encoded)
        entry.name, entry.size = name.encode(), len(values) // 4
        entry.data = (ctypes.c_float * entry.size).from_buffer_copy(values)
    return entries


def _ggml(lib: Any) -> Any:
    """llama.cpp's GGUF reader, for which llama_cpp has no Python names.

    It is looked up through the library that depends on it: a wheel contains several copies of ggml, each with its own
    log.
    """
    ggml: Any = lib.llama_cpp._lib
    index = (ctypes.c_void_p, ctypes.c_int64)
    for name, result, arguments in (
        ("gguf_init_from_file", ctypes.c_void_p, (ctypes.c_char_p, _InitParams)),
        ("gguf_free", None, (ctypes.c_void_p,)),
        ("gguf_get_n_tensors", ctypes.c_int64, (ctypes.c_void_p,)),
        ("gguf_get_data_offset", ctypes.c_size_t, (ctypes.c_void_p,)),
        ("gguf_get_tensor_name", ctypes.c_char_p, index),
        ("gguf_get_tensor_type", ctypes.c_int, index),
        ("gguf_get_tensor_ne", ctypes.POINTER(ctypes.c_int64), index),
        ("gguf_get_tensor_offset", ctypes.c_size_t, index),
        ("gguf_get_tensor_size", ctypes.c_size_t, index),
        ("ggml_type_name", ctypes.c_char_p, (ctypes.c_int,)),
    ):
        function = getattr(ggml, name)
        function.restype, function.argtypes = result, arguments
    return ggml
