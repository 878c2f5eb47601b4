"""The input of an export: a model directory, or a base, its adapter and the directories of the merged models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mentor_edge.errors import ExportError

from .checkpoint import read_json


@dataclass(frozen=True)
class Source:
    """A model to export, and what it was merged from."""

    merged: Mapping[str, Path]
    """Hugging Face directories to choose from, by the base that the adapter was merged onto ("16-bit" or "4-bit", see
    `merge`; empty for a model that was not merged from anything known)."""
    base: str | None = None
    """Directory or hub id of the base, if known. The export then also measures how much of the adapter survived
    quantization."""
    adapter: Path | None = None
    """Directory of the adapter, if known."""

    @classmethod
    def of(cls, model: str | Path | Source) -> Source:
        """A source for any Hugging Face directory.

        Args:
            model: the directory, or a source, which is returned as it is.

        Returns:
            The source.

        Raises:
            ExportError: when the directory has no model, or its weights are quantized already.
        """
        if isinstance(model, Source):
            return model
        if not (Path(model) / "config.json").is_file():
            raise ExportError(f"{model} is not a model (config.json is missing)", "give a Hugging Face directory")
        if read_json(Path(model) / "config.json").get("quantization_config"):
            raise ExportError(f"the weights of {model} are quantized already", "give the model in 16 or 32 bits")
        return cls({"": Path(model)})
