"""What is exported: a model directory, or a base with a trained adapter and the ways in which they were merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mentor_edge.errors import ExportError

from .checkpoint import read_json


@dataclass(frozen=True)
class Source:
    """`merged` has the Hugging Face directories to choose from, by the base that the adapter was merged onto ("16-bit",
    "4-bit"; see `merge`). `base` (a directory or hub id) and `adapter` are what they were made of, where that is known:
    then the export also says how much of the adapter survived quantization."""

    merged: Mapping[str, Path]
    base: str | None = None
    adapter: Path | None = None

    @classmethod
    def of(cls, model: str | Path | Source) -> Source:
        """Any Hugging Face directory as a source that was not merged from anything known.

        Raises: ExportError when it holds no model, or one that is quantized already.
        """
        if isinstance(model, Source):
            return model
        if not (Path(model) / "config.json").is_file():
            raise ExportError(f"{model} holds no model (config.json is missing)", "give a Hugging Face directory")
        if read_json(Path(model) / "config.json").get("quantization_config"):
            raise ExportError(f"the weights of {model} are quantized already", "give the model in 16 or 32 bits")
        return cls({"": Path(model)})
