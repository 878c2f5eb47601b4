"""Export: merge, convert, quantize, check parity, gate, package."""

from __future__ import annotations

from .artifact import Artifact
from .gate_run import evaluate_directory, evaluate_file
from .merge import bases_to_try, merge
from .pipeline import export, require_pass
from .source import Source

__all__ = [
    "Artifact",
    "Source",
    "bases_to_try",
    "evaluate_directory",
    "evaluate_file",
    "export",
    "merge",
    "require_pass",
]
