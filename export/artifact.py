"""`Artifact`: a directory of exported files with a manifest that says what each one is and how it did at the gate.

- artifact.json: source, hashes, parity, verdicts
- model-q8_0.gguf, ...: files that passed
- refused/: files that did not; controls/: files made to test the gate itself
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mentor_edge.errors import ExportError
from mentor_edge.files import sha256_of, write_json

MANIFEST = "artifact.json"
_VERSION = 1


@dataclass(frozen=True)
class ArtifactFile:
    """One exported file. `file` is relative to the artifact; `tensor_types` are those really written."""

    format: str
    quant: str
    file: str
    bytes: int
    sha256: str
    tensor_types: dict[str, int]
    gate: dict[str, Any]
    control: bool = False

    @property
    def verdict(self) -> str:
        return str(self.gate["verdict"])

    def summary(self) -> dict[str, Any]:
        """The row of summary.json; figures are those of the out-of-domain split."""
        headline = self.gate["splits"].get("ood") or next(iter(self.gate["splits"].values()))
        return {
            "format": self.format, "quant": self.quant, "file": self.file, "bytes": self.bytes, "sha256": self.sha256,
            "verdict": self.verdict, "n": headline["n"], "delta": headline["delta"],
            "ci": [headline["low"], headline["high"]], "malformed": self.gate["malformed"]["artifact"],
            "flips": headline["lost"] + headline["gained"], "control": self.control, "splits": self.gate["splits"],
        }  # fmt: skip


@dataclass(frozen=True)
class Artifact:
    """Exported files and how they were judged. `parity` is the F32 comparison with the source model."""

    directory: Path
    source: str
    template_sha256: str
    suite: dict[str, Any]
    parity: dict[str, Any]
    files: Sequence[ArtifactFile] = field(default_factory=tuple)

    def path(self, format: str, quant: str) -> Path:
        """The file of a format and quantization, its hash verified.

        Raises: ExportError when there is none, it is a control or did not pass the gate, or its content has changed.
        """
        for file in self.files:
            if (file.format, file.quant) == (format, quant):
                if file.control:
                    raise ExportError(f"{file.file} is a control, made to test the gate itself", "it is never shipped")
                if file.verdict != "pass":
                    raise ExportError(f"{file.file} did not pass the gate: {file.gate['explanation']}")
                path = self.directory / file.file
                if not path.is_file() or sha256_of(path) != file.sha256:
                    raise ExportError(f"{path} is missing or differs from its manifest", "export it again")
                return path
        known = ", ".join(f"{file.format}/{file.quant}" for file in self.files)
        raise ExportError(f"{self.directory} holds no {format}/{quant} (it holds {known})")

    def save(self, directory: Path) -> None:
        write_json(
            directory / MANIFEST,
            {
                "version": _VERSION, "source": self.source, "template_sha256": self.template_sha256,
                "suite": self.suite, "parity": self.parity, "files": [vars(file) for file in self.files],
            },
        )  # fmt: skip

    @classmethod
    def load(cls, directory: str | Path) -> Artifact:
        """Raises: ExportError when there is no manifest or it is damaged."""
        directory = Path(directory)
        try:
            values = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
            files = tuple(ArtifactFile(**file) for file in values["files"])
            return cls(directory, values["source"], values["template_sha256"], values["suite"], values["parity"], files)
        except OSError as error:
            raise ExportError(f"{directory} holds no artifact ({MANIFEST}: {error.strerror})") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ExportError(f"{directory / MANIFEST} is damaged: {error!r}") from error
