"""Export: merge, convert, quantize, check parity, gate, package."""

from __future__ import annotations

from .artifact import Artifact
from .merge import bases_to_try, merge
from .pipeline import evaluate_directory, evaluate_file, export, require_pass
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
