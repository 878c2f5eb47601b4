"""The ONNX exporter `optimum.exporters.onnx`, for environments that have it.

It is part of the package optimum-onnx, whose newest release (0.1) needs transformers below 4.58. This project trains
with 5.23, so the two cannot be installed together. In a separate environment it exports the same five families, and
onnxruntime-genai opens the result. Its graph is not fused; it takes an attention mask and batches.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mentor_edge.errors import ExportError

from .transformers_exporter import run_exporter


def export_with_optimum(model_dir: Path, out: Path, precision: str, timeout: float = 3600.0) -> None:
    """Export a Hugging Face directory with optimum into the empty directory `out`.

    Arguments and errors are those of `export_with_transformers`.

    Raises: ExportError, also when optimum-onnx is not installed.
    """
    try:
        version("optimum-onnx")
    except PackageNotFoundError as error:
        raise ExportError(
            f"the exporter 'optimum' needs the package optimum-onnx, which is not installed: its release 0.1 needs "
            f"transformers<4.58, and this environment has {version('transformers')}",
            "use --exporter genai or --exporter transformers, or export in another environment: "
            "pip install 'mentor-edge[onnx]' 'optimum-onnx==0.1.*' 'transformers<4.58'",
        ) from error
    run_exporter("optimum", model_dir, out, precision, timeout)
