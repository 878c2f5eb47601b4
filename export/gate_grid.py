"""The gate's figures as a table, for reports and for the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mentor_edge.evaluation.document import Grid

HEADER = ("file", "MB", "gate", "split", "n", "points", "90 % interval", "flips", "split's verdict")


def gate_grid(files: Sequence[Mapping[str, Any]]) -> Grid:
    """One row per file and split of `Artifact.summary()`. The verdict of a file is the worst of its splits."""
    rows = []
    for file in files:
        name = ("" if file["format"] == "gguf" else "onnx ") + file["quant"] + (" (control)" if file["control"] else "")
        for split, result in file["splits"].items():
            flips = result["lost"] + result["gained"]
            interval = f"[{100 * result['low']:+.2f}, {100 * result['high']:+.2f}]"
            figures = [str(result["n"]), f"{100 * result['delta']:+.2f}", interval, str(flips), result["verdict"]]
            rows.append([name, f"{file['bytes'] / 1e6:.2f}", file["verdict"], split, *figures])
            name = ""
    return Grid(HEADER, rows)
