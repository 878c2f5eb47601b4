"""The input of an export: a model directory, or a base, its adapter and the directories of the merged models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mentor_edge.chat.setting import TemplateSetting
from mentor_edge.errors import ExportError
from mentor_edge.model_directory import HUB_ID

from .checkpoint import read_config


def public_name(model: str) -> str:
    """What an artifact says about where a model came from: its hub id, or the last part of its path. The rest of a path
    belongs to the machine that made the artifact; hashes identify the files."""
    return model if HUB_ID.fullmatch(model) and not Path(model).exists() else Path(model).resolve().name


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
    student: str | None = None
    """Directory or hub id of the student, if the base is a copy of it with another chat template."""

    def with_template(self, setting: TemplateSetting, target: Path) -> Source:
        """The same model with another chat template.

        Args:
            setting: the template and its arguments; the model's own if nothing is set.
            target: the directory to make, if something is set.

        Returns:
            The source; this one if nothing is set.

        Raises:
            ExportError: when the model comes from a run, which has the template that it was trained with.
            StudentError: when the template does not suit the model.
        """
        if not setting:
            return self
        if self.adapter is not None:
            raise ExportError(
                "a run is exported with the chat template that it was trained with, not with another one",
                "leave out the template and its arguments, or set them in the recipe and fit again",
            )
        from mentor_edge.engines.torch.templated import templated_directory

        merged = {base: templated_directory(str(path), target, setting) for base, path in self.merged.items()}
        return replace(self, merged=merged)

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
        if read_config(Path(model)).get("quantization_config"):
            raise ExportError(f"the weights of {model} are quantized already", "give the model in 16 or 32 bits")
        return cls({"": Path(model)})
