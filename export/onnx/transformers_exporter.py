"""The ONNX exporter `transformers.exporters`, and what it shares with optimum: the parent's side.

Both make one float32 graph for prompts, single tokens and continuations. int8 and int4 are made from that graph
(`quantize_weights`). onnxruntime-genai finds its inputs and outputs by the names that genai_config.json lists. Compared
with the directories of onnxruntime-genai's builder:

- The export takes several times the CPU time. The authors of transformers.exporters call it experimental.
- The graph of transformers.exporters runs one conversation at a time, as `OnnxEngine` does with all graphs.
- The caches grow and are copied at every token, so long conversations become slower.
- Layers with a sliding window keep all positions. The answers are the same.

Measured with Qwen2, Qwen3, Llama, SmolLM3 and Gemma 3 (text); for every other family, parity with torch decides.
Everything runs in a child process (`capture_worker`), so a crash, a hang or a lack of memory becomes an error message
here.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path

from mentor_edge.engines.process.worker import RuntimeWorker
from mentor_edge.errors import EngineError, ExportError

from .child_environment import CHILD_ENVIRONMENT

# -P keeps the working directory off the module path: a folder named transformers there must not be imported.
COMMAND = [sys.executable, "-P", "-m", "mentor_edge.export.onnx.capture_worker"]
BITS = {"fp32": None, "int8": 8, "int4": 4}


def export_with_transformers(model_dir: Path, out: Path, precision: str, timeout: float = 3600.0) -> None:
    """Export a Hugging Face directory with `transformers.exporters` into the empty directory `out`.

    `export_onnx` calls this after checking the source, and then adds end tokens, search settings and template.
    `precision` is a key of `BITS`; `timeout` is the number of seconds that each stage may take.

    Raises: ExportError naming the stage (conversion or quantization) when a package is missing, the exporter cannot
    capture the model, or the child process crashes, hangs or runs out of memory.
    """
    run_exporter("transformers", model_dir, out, precision, timeout)


def run_exporter(exporter: str, model_dir: Path, out: Path, precision: str, timeout: float) -> None:
    """Capture, quantize and write in a child process. See `export_with_transformers`."""
    hint = "check that the machine has enough memory for the model in float32, or use --exporter genai"
    name, stage = f"the exporter {exporter!r}", "conversion"
    source, target, scratch = (str(path.resolve()) for path in (model_dir, out, out / "scratch"))
    try:
        with RuntimeWorker(name, COMMAND, hint=hint, timeout=timeout, environment=CHILD_ENVIRONMENT) as worker:
            worker.request("capture", f"capturing {model_dir}", exporter=exporter, source=source, scratch=scratch)
            if bits := BITS[precision]:
                stage = "quantization"
                worker.request("quantize", f"quantizing {model_dir} to {precision}", bits=bits)
            worker.request("write", f"writing {model_dir} as {precision}", target=target)
    except EngineError as error:
        # A message of torch.export may be pages long.
        problem = textwrap.shorten(error.problem, 500, placeholder=" ...")
        raise ExportError(f"{stage}: {problem}", error.hint or "use --exporter genai") from error
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(model_dir / file, out / file)
