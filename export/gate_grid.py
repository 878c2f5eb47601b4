"""The gate's figures as a table, for reports and for the screen."""

from __future__ import annotations

from collections.abc import Sequence

from mentor_edge.evaluation.document import Grid
from mentor_edge.results import ModelSummary

HEADER = ("file", "MB", "gate", "split", "n", "points", "90 % interval", "flips", "split's verdict")


def gate_grid(models: Sequence[ModelSummary]) -> Grid:
    """One row per model and split, from `Artifact.summary()`. A model's verdict is the worst of its splits'."""
    rows = []
    for model in models:
        name = ("" if model.format == "gguf" else "onnx ") + model.quant + (" (control)" if model.control else "")
        for split, result in model.splits.items():
            interval = f"[{100 * result.low:+.2f}, {100 * result.high:+.2f}]"
            figures = [str(result.n), f"{100 * result.delta:+.2f}", interval, str(result.flips), result.verdict]
            rows.append([name, f"{model.bytes / 1e6:.2f}", model.verdict, split, *figures])
            name = ""
    return Grid(HEADER, rows)
