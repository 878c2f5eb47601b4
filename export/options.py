"""The options of an export, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from mentor_edge.engines.llama_cpp.quantizer import TENSOR_TYPES
from mentor_edge.errors import ExportError, did_you_mean
from mentor_edge.results import Measure

from .gate import MARGIN
from .gguf.quantize import KINDS, NEED_MATRIX, UNQUANTIZED
from .onnx.export import EXPORTERS, PRECISIONS

DEFAULT_QUANTS = ("q8_0", "q4_k_m")
MEASURES: tuple[Measure, ...] = get_args(Measure)
MATRIX_CHOICES = ("auto", "always", "never")
_GAIN_FROM_A_MATRIX = ("iq", "q3_k")
"""Prefixes of the kinds that a matrix improved in our measurements. It did not improve q4_k_m, q4_0 and q2_k."""


@dataclass(frozen=True)
class ExportOptions:
    """Which files to make, and how. `export` documents every option."""

    gguf: Sequence[str] = ()
    """GGUF kinds to ship."""
    onnx: Sequence[str] = ()
    """ONNX precisions to ship."""
    controls: Sequence[str] = ()
    """GGUF kinds that only test whether the gate can fail."""
    margin: float = MARGIN
    """Largest accepted loss of accuracy, as a proportion."""
    measure: Measure = "skill"
    """What counts as right in the gate, one of `MEASURES`."""
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Types of single GGUF tensors, by regular expressions over their names."""
    importance_matrix: str = "auto"
    """One of `MATRIX_CHOICES`."""
    converter: Path | None = None
    """An upstream convert_hf_to_gguf.py."""
    exporter: str = "genai"
    """The ONNX exporter, one of `EXPORTERS`."""
    onnx_options: Mapping[str, str] = field(default_factory=dict)
    """Settings of onnxruntime-genai's builder."""
    threads: int | None = None
    """Processor threads of the gate, shared by the files that run at once."""

    def check(self) -> None:
        """Raises: ExportError that lists every mistake."""
        problems = []
        for kind in dict.fromkeys((*self.gguf, *self.controls)):
            if kind not in ("f32", *KINDS):
                problems.append(f"unknown quantization {kind!r}{did_you_mean(kind, ('f32', *KINDS))}")
            elif kind in NEED_MATRIX and self.importance_matrix == "never":
                problems.append(f"{kind} cannot be made without an importance matrix")
        for type_ in self.overrides.values():
            if type_.lower() not in (known := [name.lower() for name in TENSOR_TYPES]):
                problems.append(f"unknown tensor type {type_!r}{did_you_mean(type_.lower(), known)}")
        for precision in self.onnx:
            if precision not in PRECISIONS:
                problems.append(f"unknown ONNX precision {precision!r}{did_you_mean(precision, PRECISIONS)}")
        if self.converter is not None and not self.converter.exists():
            problems.append(f"the converter {self.converter} does not exist")
        if self.exporter not in EXPORTERS:
            problems.append(f"unknown exporter {self.exporter!r}{did_you_mean(self.exporter, EXPORTERS)}")
        if self.importance_matrix not in MATRIX_CHOICES:
            problems.append(f"importance_matrix is {self.importance_matrix!r}, not one of {', '.join(MATRIX_CHOICES)}")
        if self.onnx_options and self.exporter != "genai":
            problems.append(f"options of the ONNX builder have no effect with the exporter {self.exporter!r}")
        if not 0 < self.margin < 1:
            problems.append(f"the margin is {self.margin:g}; it is a proportion, such as 0.02 for two points")
        if self.measure not in MEASURES:
            problems.append(f"the gate's measure is {self.measure!r}, not one of {', '.join(MEASURES)}")
        if self.threads is not None and self.threads < 1:
            problems.append(f"threads is {self.threads}; it must be at least 1")
        if not (self.gguf or self.onnx or self.controls):
            problems.append("no format to export is named")
        if problems:
            raise ExportError("; ".join(problems))

    def wants_matrix(self, kind: str) -> bool:
        """Whether a GGUF kind is quantized with an importance matrix."""
        if self.importance_matrix == "always":
            return kind not in (*UNQUANTIZED, "q8_0")
        gains = kind.startswith(_GAIN_FROM_A_MATRIX)
        return kind in NEED_MATRIX or (self.importance_matrix == "auto" and gains)
