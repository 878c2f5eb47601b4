"""Does this llama.cpp build work? A tiny quantized model, made on the spot and decoded in a child process."""

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
# What makes decoding several times faster, in llama.cpp's words, and the flag in /proc/cpuinfo that says it is there.
_FASTER = {"AVX2": "avx2", "FMA": "fma", "F16C": "f16c", "DOTPROD": "asimddp"}
_AMX_FLAGS = {"amx_tile", "amx_int8", "amx_bf16"}
_WIDTH = 256  # columns of a weight: K-quants fall back to other types on rows that 256 does not divide
_VOCABULARY = 64


@dataclass(frozen=True, slots=True)
class LlamaCheck:
    """What was found. `ok`: engines work as they are. `fallback_works`: whether they work with
    `use_extra_buffers=False`, None when that was not needed or not tried. `message` is for people. `instructions` are
    those that the build uses, in llama.cpp's words ("AVX2", "AMX_INT8", "REPACK")."""

    ok: bool
    message: str
    fallback_works: bool | None = None
    instructions: frozenset[str] = frozenset()


def check_llama_cpp(timeout: float = 60.0) -> LlamaCheck:
    """Decode three tokens with a tiny quantized model of every kind in `KINDS`.

    Known failure (llama-cpp-python 0.3.36 built on an AMX machine by gcc 12): a crash in the first batch of more than
    one token of any quantized model, because gcc 12 takes `_tile_loadconfig` to read 8 bytes of 64. A crash is
    therefore tried again without AMX and repacking. `timeout` is in seconds, per request. Never raises for a broken
    llama.cpp: that is what the result says.
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
                instructions = _instructions(worker.request("about", "starting")["system"])
                for kind in KINDS:
                    files.append(target := source.with_name(f"{kind}.gguf"))
                    reply = worker.request(
                        "quantize", f"quantizing to {kind}", source=str(source), target=str(target), kind=kind
                    )
                    if reply["code"] != 0:
                        raise EngineError(f"quantizing to {kind} failed: {' '.join(reply['log'])}")
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
    way_out = "Until then, engines work with use_extra_buffers=False." if fallback else "Without AMX it crashes too."
    return LlamaCheck(
        False,
        f"llama-cpp-python {installed} crashes on quantized models ({crash} in a 3-token decode). {cause}"
        f"Rebuild it: {rebuild_command(installed, amx)}\n{way_out}",
        fallback,
        instructions,
    )


def slow_build(instructions: frozenset[str], flags: frozenset[str]) -> str | None:
    """What a llama.cpp build leaves unused of a processor with these flags (`machine.processor_flags`), with the
    command that builds it anew; None when it uses what matters."""
    unused = [name for name, flag in _FASTER.items() if flag in flags and name not in instructions]
    if not unused:
        return None
    flags_ = 'CMAKE_ARGS="-DLLAVA_BUILD=OFF"'
    if flags & _AMX_FLAGS:
        flags_ += f' CFLAGS="{AMX_OFF}" CXXFLAGS="{AMX_OFF}"'
    return f"uses no {', '.join(unused)}, which this processor has: it decodes slowly. {_pip_line(flags_)}"


def _instructions(system: str) -> frozenset[str]:
    """From llama_print_system_info: "CPU : SSE3 = 1 | AVX2 = 1 | OPENMP = 1 | "."""
    parts = system.replace(":", "|").split("|")
    return frozenset(name.strip() for name, _, value in (part.partition("=") for part in parts) if value.strip() == "1")


def rebuild_command(installed: str | None, amx: bool) -> str:
    """The shell command that builds llama-cpp-python anew: without AMX where that is the trouble (only x86 compilers
    know those flags), else without any instruction that the building machine's compiler might get wrong."""
    flags = 'CMAKE_ARGS="-DLLAVA_BUILD=OFF'
    flags += f'" CFLAGS="{AMX_OFF}" CXXFLAGS="{AMX_OFF}"' if amx else ' -DGGML_NATIVE=OFF"'
    return _pip_line(flags, installed)


def _pip_line(environment: str, installed: str | None = None) -> str:
    package = "llama-cpp-python" if installed is None else f"llama-cpp-python=={installed}"
    options = "--force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python"
    return f"{environment} {sys.executable} -m pip install {options} {package}"


def _crash(files: Sequence[Path], use_extra_buffers: bool, timeout: float) -> str | None:
    """How llama.cpp died on the first file that it died on, or None.

    Raises: EngineError when it refuses a file or computes nonsense without dying.
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
