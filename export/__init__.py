"""Export: merge, convert, quantize, check parity, gate."""

from __future__ import annotations

from .artifact import Artifact
from .merge import merge
from .pipeline import evaluate_directory, evaluate_file, export, require_pass

__all__ = ["Artifact", "evaluate_directory", "evaluate_file", "export", "merge", "require_pass"]
