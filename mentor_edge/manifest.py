"""manifest.json of an artifact: what every exported file is, where it came from, how it was judged, and its SHA-256."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

MANIFEST = "manifest.json"
SCHEMA = 1


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Record):
    """The merged model that was exported. `files` are the SHA-256 of its files, by name."""

    model: str
    files: dict[str, str]
    base: str | None = None
    adapter: str | None = None
    adapter_files: dict[str, str] = {}
    merge: dict[str, Any] = {}


class ManifestEntry(_Record):
    """One exported model: a GGUF file, or an ONNX directory.

    `path` is relative to the artifact. `quantization` is what was really written: tensor types and fallbacks of a GGUF
    file, attributes of an ONNX graph. `delta` says how much of the adapter survived, when that is known.
    """

    format: Literal["gguf", "onnx"]
    quant: str
    path: str
    bytes: int
    role: Literal["shipped", "refused", "control"]
    quantization: dict[str, Any]
    parity: dict[str, Any]
    gate: dict[str, Any]
    calibration: dict[str, Any] | None = None
    delta: dict[str, Any] | None = None

    @property
    def verdict(self) -> str:
        return str(self.gate["verdict"])


class Manifest(_Record):
    """The whole of manifest.json. `sha256` has every file of the artifact but the manifest itself, by relative path."""

    schema_version: int = SCHEMA
    source: Source
    template_sha256: str
    suite: dict[str, Any]
    margin: float
    parity: dict[str, dict[str, Any]]
    entries: tuple[ManifestEntry, ...]
    versions: dict[str, str]
    sha256: dict[str, str]

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Raises: ArtifactError when there is none, it is damaged or of another schema version."""
        raise NotImplementedError

    def write(self, directory: Path) -> None:
        raise NotImplementedError
