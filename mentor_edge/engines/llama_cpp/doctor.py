"""Checks whether this llama.cpp build works: makes a tiny quantized model and decodes it in a child process."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import gguf
import numpy as np

from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine, LlamaWorker
from mentor_edge.engines.process.worker import RuntimeDied
from mentor_edge.errors import EngineError

KINDS = ("q8_0", "q4_k_m")
AMX_OFF = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
# Instructions that make decoding several times faster: llama.cpp's name, and the flag in /proc/cpuinfo.
_FASTER = {"AVX2": "avx2", "FMA": "fma", "F16C": "f16c", "DOTPROD": "asimddp"}
_AMX_FLAGS = {"amx_tile", "amx_int8", "amx_bf16"}
_WIDTH = 256  # columns of a weight: K-quants fall back to other types on rows that 256 does not divide
_VOCABULARY = 64


@dataclass(frozen=True, slots=True)
class LlamaCheck:
    """The result of `check_llama_cpp`."""

    ok: bool
    """Engines work as they are."""
    message: str
    """For people."""
    fallback_works: bool | None = None
    """Whether engines work with `use_extra_buffers=False`; None when that was not needed or not tried."""
    instructions: frozenset[str] = frozenset()
    """The instructions that the build uses, in llama.cpp's spelling ("AVX2", "AMX_INT8", "REPACK")."""


def check_llama_cpp(timeout: float = 60.0) -> LlamaCheck:
    """Decode three tokens with a tiny quantized model of every kind in `KINDS`.

    Known failure (llama-cpp-python 0.3.36 built on an AMX machine by gcc 12): a crash in the first batch of more than
    one token of any quantized model, because gcc 12 assumes that `_tile_loadconfig` reads 8 bytes instead of 64. After
    a crash, the check therefore tries again without AMX and repacking. `timeout` is in seconds, per request. A broken
    llama.cpp does not raise an error; the result describes it.
    """
    try:
        installed = version("llama-cpp-python")
    except PackageNotFoundError:
        return LlamaCheck(False, "llama-cpp-python is not installed. Install it: " + rebuild_command(None, amx=False))
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "f32.gguf"
        _write_tiny_model(source)
        try:
            files = []
            with LlamaWorker(timeout) as worker:
                instructions = _instructions(worker.system_info())
                for kind in KINDS:
                    files.append(target := source.with_name(f"{kind}.gguf"))
                    reply = worker.quantize(source, target, kind)
                    if reply.code != 0:
                        raise EngineError(f"quantizing to {kind} failed: {' '.join(reply.log)}")
            crash = _crash(files, True, timeout)
            fallback = None if crash is None else _crash(files, False, timeout) is None
        except EngineError as error:
            advice = f"Reinstall it: {rebuild_command(installed, amx=False)}"
            return LlamaCheck(False, f"llama-cpp-python {installed} does not work: {error.problem}. {advice}")
    if crash is None:
        works = f"llama-cpp-python {installed} decodes quantized models ({', '.join(KINDS)})"
        return LlamaCheck(True, works, instructions=instructions)
    amx = "AMX_INT8" in instructions
    cause = "It was built with AMX instructions, which gcc 12 miscompiles. " if amx else ""
    workaround = "Until then, engines work with use_extra_buffers=False." if fallback else "Without AMX it crashes too."
    return LlamaCheck(
        False,
        f"llama-cpp-python {installed} crashes on quantized models ({crash} in a 3-token decode). {cause}"
        f"Rebuild it: {rebuild_command(installed, amx)}\n{workaround}",
        fallback,
        instructions,
    )


def slow_build(instructions: frozenset[str], flags: frozenset[str]) -> str | None:
    """Which fast instructions of this processor a llama.cpp build does not use, and the command that rebuilds it.

    `flags` are those of `machine.processor_flags`. None when the build uses all that matter.
    """
    unused = [name for name, flag in _FASTER.items() if flag in flags and name not in instructions]
    if not unused:
        return None
    environment = 'CMAKE_ARGS="-DLLAVA_BUILD=OFF"'
    if flags & _AMX_FLAGS:
        environment += f' CFLAGS="{AMX_OFF}" CXXFLAGS="{AMX_OFF}"'
    return f"decodes slowly: it does not use this processor's {', '.join(unused)}. {_pip_line(environment)}"


def _instructions(system: str) -> frozenset[str]:
    """From llama_print_system_info: "CPU : SSE3 = 1 | AVX2 = 1 | OPENMP = 1 | "."""
    parts = system.replace(":", "|").split("|")
    return frozenset(name.strip() for name, _, value in (part.partition("=") for part in parts) if value.strip() == "1")


def rebuild_command(installed: str | None, amx: bool) -> str:
    """The shell command that rebuilds llama-cpp-python.

    With `amx`, it turns AMX off (only x86 compilers know those flags). Otherwise it builds for no particular processor,
    so that the compiler cannot get special instructions wrong.
    """
    flags = 'CMAKE_ARGS="-DLLAVA_BUILD=OFF'
    flags += f'" CFLAGS="{AMX_OFF}" CXXFLAGS="{AMX_OFF}"' if amx else ' -DGGML_NATIVE=OFF"'
    return _pip_line(flags, installed)


def _pip_line(environment: str, installed: str | None = None) -> str:
    package = "llama-cpp-python" if installed is None else f"llama-cpp-python=={installed}"
    options = "--force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python"
    return f"{environment} {sys.executable} -m pip install {options} {package}"


def _crash(files: Sequence[Path], use_extra_buffers: bool, timeout: float) -> str | None:
    """How llama.cpp crashed, on the first of `files` that makes it crash; None if it decodes all of them.

    Raises: EngineError when it refuses a file, or computes logits that are not finite.
    """
    for file in files:
        try:
            with LlamaCppEngine(file, use_extra_buffers=use_extra_buffers, batch_size=1, timeout=timeout) as engine:
                logits = engine.logits([1, 2, 3])
        except RuntimeDied as death:
            return death.signal or death.problem
        if not np.isfinite(logits).all():
            raise EngineError(f"the logits of a {file.stem} model are not finite")
    return None


def _write_tiny_model(path: Path) -> None:
    """One Llama layer of width 256 with random weights and no tokenizer, as F32."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_WIDTH)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(_VOCABULARY)
    writer.add_tokenizer_model("none")
    for name, rows in (
        ("attn_q", _WIDTH),
        ("attn_k", _WIDTH // 2),
        ("attn_v", _WIDTH // 2),
        ("attn_output", _WIDTH),
        ("ffn_gate", _WIDTH),
        ("ffn_up", _WIDTH),
        ("ffn_down", _WIDTH),
    ):
        writer.add_tensor(f"blk.0.{name}.weight", _random_matrix(random, rows))
    writer.add_tensor("token_embd.weight", _random_matrix(random, _VOCABULARY))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(_WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _random_matrix(random: np.random.Generator, rows: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return (random.standard_normal((rows, _WIDTH)) / 16).astype(np.float32)
