"""CPU seconds, peak memory and file size of every step of an export, for a model with Qwen2.5-0.5B's shape.

    python benchmarks/export.py [--converter PATH/convert_hf_to_gguf.py] [--exporters] [--model DIRECTORY] [--json FILE]

Each step runs in its own process, one after another. CPU seconds are user and system time of that process and its
children; memory is the largest resident set among them. `--converter` adds the upstream converter (it is in
llama-cpp-python's source distribution), `--exporters` adds transformers.exporters. Without `--model` the benchmark
makes a model with random weights: width 896, 24 layers, 14 query and 2 key heads, feed-forward width 4864, vocabulary
151,936, tied, bfloat16, 988 MB. Its tokenizer is Qwen2's own, from the file that the tests use
(tests/helpers/qwen2_tokenizer.py).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

QUANTS = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "q2_k")
LIMITS = {
    "gguf f16": {"cpu_s": 15, "rss_mb": 2048},
    **{f"gguf {kind}": {"cpu_s": 12, "rss_mb": 2048} for kind in QUANTS},
    "onnx int4": {"cpu_s": 30, "rss_mb": 6144, "mb": 320},
}
"""The targets: upper limits of CPU seconds, MiB of memory and MB of files."""

CONVERT = (
    "from pathlib import Path; from mentor_edge.export.gguf.convert import convert; "
    "convert(Path({model!r}), Path({out!r}), {dtype!r})"
)
QUANTIZE = (
    "from pathlib import Path; from mentor_edge.export.gguf.quantize import quantize; "
    "quantize(Path({source!r}), Path({out!r}), {kind!r})"
)
ONNX = (
    "from pathlib import Path; from mentor_edge.export.onnx.export import export_onnx; "
    "export_onnx(Path({model!r}), Path({out!r}), {precision!r}, exporter={exporter!r})"
)


def measure(command: Sequence[str], out: Path) -> dict[str, Any]:
    """Run a command. Returns its CPU seconds and peak memory, and the size of `out`, which it wrote."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    stderr = process.stderr.read().decode(errors="replace").strip().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        return {"failed": stderr[-1] if stderr else f"status {status}"}
    files = [out] if out.is_file() else [file for file in out.rglob("*") if file.is_file()]
    return {
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "rss_mb": usage.ru_maxrss // 1024,
        "mb": round(sum(file.stat().st_size for file in files) / 1e6, 1),
    }


def steps(model: Path, work: Path, converter: Path | None, exporters: bool) -> list[tuple[str, list[str], Path]]:
    """Name, command and output of every step, in order."""

    def python(code: str, **values: Any) -> list[str]:
        return [sys.executable, "-c", code.format(**{name: str(value) for name, value in values.items()})]

    f16, f32 = work / "f16.gguf", work / "f32.gguf"
    result = [
        ("gguf f16", python(CONVERT, model=model, out=f16, dtype="f16"), f16),
        ("gguf f32", python(CONVERT, model=model, out=f32, dtype="f32"), f32),
    ]
    if converter is not None:
        out = work / "upstream.gguf"
        upstream = [sys.executable, str(converter), str(model), "--outfile", str(out), "--outtype", "f16"]
        result.append(("gguf f16, upstream converter", upstream, out))
    for kind in QUANTS:
        out = work / f"{kind}.gguf"
        result.append((f"gguf {kind}", python(QUANTIZE, source=f16, out=out, kind=kind), out))
    choices = [("int4", "genai"), ("int8", "genai"), ("fp32", "genai")]
    choices += [("fp32", "transformers"), ("int4", "transformers")] if exporters else []
    for precision, exporter in choices:
        out = work / f"{exporter}-{precision}"
        name = f"onnx {precision}" + ("" if exporter == "genai" else f", {exporter}.exporters")
        result.append((name, python(ONNX, model=model, out=out, precision=precision, exporter=exporter), out))
    return result


def random_model(directory: Path) -> Path:
    """A model of Qwen2.5-0.5B's shape; the weights are drawn as at initialization."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from helpers.qwen2_tokenizer import make_qwen2_tokenizer
    from helpers.tiny_models import TEMPLATE

    tokenizer = make_qwen2_tokenizer(TEMPLATE)
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=896,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        intermediate_size=4864,
        vocab_size=151_936,
        tie_word_embeddings=True,
        max_position_embeddings=32_768,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        dtype="bfloat16",
    )
    Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--converter", type=Path)
    parser.add_argument("--exporters", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        model = arguments.model or random_model(work / "model")
        rows = {}
        for name, command, out in steps(model, work, arguments.converter, arguments.exporters):
            rows[name] = row = measure(command, out)
            over = {key: limit for key, limit in LIMITS.get(name, {}).items() if row.get(key, limit + 1) > limit}
            print(f"{name:<34} {row}" + (f"  target: at most {over}" if over else ""), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
