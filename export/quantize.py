"""Quantization of a GGUF file by llama.cpp, in its child process."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import gguf

from mentor_edge.engines.llama_cpp import LlamaWorker
from mentor_edge.engines.llama_worker import FTYPES
from mentor_edge.errors import EngineError, ExportError
from mentor_edge.files import atomic_file

KINDS = tuple(FTYPES)


def quantize(source: Path, target: Path, kind: str, *, threads: int = 1, timeout: float = 3600.0) -> dict[str, int]:
    """Write `target` from the F32 or F16 file `source`, atomically; returns how many tensors have which type.

    The counts are read back from the file, because llama.cpp silently falls back where a row is not a multiple of
    the type's block: K-quants need 256 columns (else Q4_K becomes Q5_0, Q6_K Q8_0, Q5_K Q5_1, Q3_K and Q2_K Q4_0),
    the others 32 (else F16). Vectors stay F32, and a tied embedding gets more bits than the rest.
    `timeout` is in seconds, for the whole file.

    Raises: ExportError when `kind` is unknown, `source` is missing or quantized already, or the disk is full;
    EngineError when llama.cpp crashes.
    """
    if kind not in KINDS:
        raise ExportError(f"cannot quantize to {kind!r}", f"supported: {', '.join(KINDS)}")
    if not source.is_file():
        raise ExportError(f"{source} does not exist", "convert the model first")
    with atomic_file(target) as temporary, LlamaWorker(timeout) as worker:
        reply = worker.request(
            "quantize",
            f"quantizing {source} to {kind}",
            source=str(source),
            target=str(temporary),
            kind=kind,
            threads=threads,
        )
        if reply["code"] != 0:
            reason = reply["log"][-1] if reply["log"] else f"return code {reply['code']}"
            raise ExportError(
                f"llama.cpp could not quantize {source} to {kind}: {reason}",
                "the source must be an F32 or F16 file, and the disk must have room for the target",
            )
        return tensor_types(temporary)


def tensor_types(path: Path) -> dict[str, int]:
    """How many tensors of a GGUF file have which type, most frequent first.

    Raises: EngineError when the file is not GGUF.
    """
    try:
        tensors = gguf.GGUFReader(path).tensors
    except (ValueError, IndexError, OSError) as error:
        raise EngineError(f"{path} is not a readable GGUF file: {error}") from error
    return dict(Counter(tensor.tensor_type.name for tensor in tensors).most_common())
