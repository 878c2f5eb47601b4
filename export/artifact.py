"""`Artifact`: a directory of exported models with a manifest that says what each one is and how it did at the gate.

- manifest.json: sources, hashes, parity, verdicts (`mentor_edge.manifest`)
- README.md, run.md, Modelfile: the same for people, and the lines that run each model
- model-q8_0.gguf, onnx-int4/, ...: models that passed
- refused/: those that did not; controls/: models made to test the gate itself
- gate/: what every model did with every task of the gate
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mentor_edge.errors import ArtifactError
from mentor_edge.manifest import Manifest, ManifestEntry, check_entry


@dataclass(frozen=True)
class Artifact:
    """Exported models and how they were judged."""

    directory: Path
    manifest: Manifest

    @classmethod
    def load(cls, directory: str | Path) -> Artifact:
        """Raises: ArtifactError when there is no manifest, it is damaged or of another version."""
        return cls(Path(directory), Manifest.read(Path(directory)))

    def path(self, format: str, quant: str) -> Path:
        """The GGUF file or ONNX directory of a quantization, its hashes verified.

        Raises: ArtifactError when there is none, it is a control or did not pass the gate, or its content has changed.
        """
        for entry in self.manifest.entries:
            if (entry.format, entry.quant) == (format, quant):
                if entry.role == "control":
                    raise ArtifactError(f"{entry.path} is a control, made to test the gate itself", "it is not shipped")
                if entry.role == "refused":
                    raise ArtifactError(f"{entry.path} did not pass the gate: {entry.gate['explanation']}")
                check_entry(self.directory, self.manifest, entry)
                return self.directory / entry.path
        known = ", ".join(f"{entry.format}/{entry.quant}" for entry in self.manifest.entries)
        raise ArtifactError(f"{self.directory} holds no {format}/{quant} (it holds {known})")

    def summary(self) -> list[dict[str, Any]]:
        """A row of summary.json for each model; figures are those of the out-of-domain split where there is one."""
        return [self._row(entry) for entry in self.manifest.entries]

    def _row(self, entry: ManifestEntry) -> dict[str, Any]:
        splits = entry.gate["splits"]
        headline = splits.get("ood") or next(iter(splits.values()))
        return {
            "format": entry.format,
            "quant": entry.quant,
            "file": entry.path,
            "bytes": entry.bytes,
            "sha256": self.manifest.content_digest(entry),
            "verdict": entry.verdict,
            "n": headline["n"],
            "delta": headline["delta"],
            "ci": [headline["low"], headline["high"]],
            "malformed": entry.gate["malformed"]["artifact"],
            "flips": headline["lost"] + headline["gained"],
            "control": entry.role == "control",
            "splits": splits,
        }
