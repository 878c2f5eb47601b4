"""`Artifact`: a directory of exported models, with a manifest that describes each of them.

- manifest.json: sources, hashes, parity, verdicts (`mentor_edge.manifest`)
- README.md, run.md: the model card, and the commands that run each model
- model-q8_0.gguf, onnx-int4/, ...: models that passed the gate
- refused/: models that did not pass; controls/: models made to test the gate itself
- gate/: how the source and every model did on every task of the gate
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mentor_edge.errors import ArtifactError
from mentor_edge.manifest import Manifest, ManifestEntry, check_entry
from mentor_edge.results import ModelSummary


@dataclass(frozen=True)
class Artifact:
    """Exported models and their verdicts."""

    directory: Path
    """The artifact's directory."""
    manifest: Manifest
    """The content of its manifest.json."""

    @classmethod
    def load(cls, directory: str | Path) -> Artifact:
        """Read an artifact's manifest. Its files are verified by `path`, or when a model is loaded.

        Args:
            directory: the artifact's directory.

        Returns:
            The artifact.

        Raises:
            ArtifactError: when there is no manifest, or it is damaged or of another version.
        """
        return cls(Path(directory), Manifest.read(Path(directory)))

    def path(self, format: str, quant: str) -> Path:
        """The path of a model that passed the gate, after verifying its hashes.

        Args:
            format: "gguf" or "onnx".
            quant: the quantization, such as "q4_k_m" or "int4".

        Returns:
            A GGUF file or an ONNX directory.

        Raises:
            ArtifactError: when there is no such model, or it is a control, did not pass the gate or has changed.
        """
        for entry in self.manifest.entries:
            if (entry.format, entry.quant) == (format, quant):
                if entry.role == "control":
                    raise ArtifactError(f"{entry.path} is a control, made to test the gate itself", "it is not shipped")
                if entry.role == "refused":
                    raise ArtifactError(f"{entry.path} did not pass the gate: {entry.gate.explanation}")
                check_entry(self.directory, self.manifest, entry)
                return self.directory / entry.path
        available = ", ".join(f"{entry.format}/{entry.quant}" for entry in self.manifest.entries)
        raise ArtifactError(f"{self.directory} has no {format}/{quant} (it has {available})")

    def summary(self) -> list[ModelSummary]:
        """One row per model.

        Returns:
            The models in the manifest's order. The figures are those of the out-of-domain split if there is one.
        """
        return [self._row(entry) for entry in self.manifest.entries]

    def _row(self, entry: ManifestEntry) -> ModelSummary:
        headline = entry.gate.headline
        return ModelSummary(
            format=entry.format,
            quant=entry.quant,
            file=entry.path,
            bytes=entry.bytes,
            sha256=self.manifest.content_digest(entry),
            verdict=entry.verdict,
            n=headline.n,
            delta=headline.delta,
            ci=(headline.low, headline.high),
            malformed=entry.gate.malformed.exported,
            flips=headline.flips,
            control=entry.role == "control",
            splits=entry.gate.splits,
        )
