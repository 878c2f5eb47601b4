"""The models of manifest.json, and reading and writing them."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, NonNegativeInt, StringConstraints, ValidationError, model_validator

from mentor_edge.dequantized import Dequantized
from mentor_edge.errors import ArtifactError
from mentor_edge.files import write_json
from mentor_edge.manifest.reader import MANIFEST, damaged, digest_of, read_object
from mentor_edge.results import (
    BaseChoice,
    Calibration,
    ConversionParity,
    GateReport,
    MergeReport,
    Parity,
    Quantization,
    Result,
    Runtime,
    SuiteRecord,
    Survival,
    Verdict,
    first_problem,
)
from mentor_edge.template_record import TemplateRecord

__all__ = ["MANIFEST", "SCHEMA", "Manifest", "ManifestEntry", "Source"]

SCHEMA = 2
_KINDS = (".gguf", ".onnx", ".data", ".json", ".jinja", ".txt", ".model", ".md", ".jsonl")
"""Suffixes of the files that an artifact may have: weights, configuration, tokenizer, template, documents, outcomes.
Libraries and programs have others."""
_MOST_ENTRIES, _MOST_FILES = 200, 10_000
"""Each entry is compared with all others and with all files."""
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
"""The end of the name of one part of a GGUF file: llama.cpp would load the other parts too, which no entry lists."""


def _inside_the_artifact(path: str) -> str:
    pure = PurePosixPath(path)
    if (
        str(pure) != path  # such as "a//b", "./a", and what would be "." or empty
        or pure.is_absolute()
        or not pure.parts
        or ".." in pure.parts
        or any(character in "\\:" or not character.isprintable() for character in path)
        or path == MANIFEST
    ):
        raise ValueError(f"{path!r} is not the path of a file in the artifact")
    return path


RelativePath = Annotated[str, AfterValidator(_inside_the_artifact)]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class Source(Result):
    """The merged model that was exported, and what it was merged from."""

    model: str
    """The name of its Hugging Face directory. Artifacts of earlier versions have absolute paths here and below."""
    files: dict[str, str]
    """SHA-256 of its files, by name."""
    base: str | None = None
    """Hub id of the base or the name of its directory, if known."""
    adapter: str | None = None
    """The name of the adapter's directory, if known."""
    adapter_files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of the adapter's files, by name."""
    merged_onto: str | None = None
    """"16-bit" or "4-bit": the kind of base that the adapter was merged onto, if known."""
    choice: BaseChoice | None = None
    """Why this base was chosen, if there were two candidates."""
    dequantized: Dequantized | None = None
    """The GGUF file that the base was made from, if it was."""
    merge: MergeReport | None = None
    """What merging did, if `merge` made the model."""


class ManifestEntry(Result):
    """One exported model: a GGUF file, or an ONNX directory."""

    format: Literal["gguf", "onnx"]
    """The file format."""
    quant: str
    """The quantization, such as "q4_k_m" or "int4"."""
    path: RelativePath
    """Path relative to the artifact."""
    bytes: NonNegativeInt
    """Size of the file, or of all files of the directory."""
    role: Literal["shipped", "refused", "control"]
    """"shipped" if the model passed the gate, "refused" if not, "control" if it only tests the gate."""
    quantization: Quantization
    """What was really written: tensor types and fallbacks of a GGUF file, attributes of an ONNX graph."""
    parity: Parity
    """How the model compares with its source."""
    gate: GateReport
    """The gate's result."""
    runtime: Runtime
    """The program that the gate ran it with."""
    calibration: Calibration | None = None
    """The importance matrix, if one was used."""
    survival: Survival | None = None
    """How much of the adapter survived quantization, if the base is known."""

    @property
    def verdict(self) -> Verdict:
        """The gate's verdict."""
        return self.gate.verdict

    def owns(self, name: str) -> bool:
        """Whether the file `name`, relative to the artifact, belongs to this entry."""
        return name == self.path or (self.format == "onnx" and name.startswith(f"{self.path}/"))

    @model_validator(mode="after")
    def _shipped_only_if_passed(self) -> Self:
        if self.role == "shipped" and self.verdict is not Verdict.PASS:
            raise ValueError(f"{self.path} is shipped with the verdict {self.verdict.value!r}")
        return self


class Manifest(Result):
    """The content of manifest.json.

    The file also contains a `digest`: the SHA-256 of everything else. It shows damage, not forgery: the manifest is not
    signed. Two artifacts with the same digest are the same.
    """

    schema_version: int = SCHEMA
    """Version of this format."""
    source: Source
    """The model that was exported."""
    template_sha256: str
    """Hash of its chat template, which every exported file contains byte for byte."""
    template: TemplateRecord | None = None
    """Where this template comes from, and its arguments. None in files of an earlier version."""
    suite: SuiteRecord
    """The gate's tasks."""
    margin: float
    """The gate's largest accepted loss of accuracy, as a proportion."""
    parity: dict[str, ConversionParity]
    """How the unquantized file of each format compares with the source."""
    entries: Annotated[tuple[ManifestEntry, ...], Field(max_length=_MOST_ENTRIES)]
    """The exported models."""
    versions: dict[str, str]
    """Versions of the packages that made them."""
    sha256: Annotated[dict[RelativePath, Sha256], Field(max_length=_MOST_FILES)]
    """Hashes of all files of the artifact except manifest.json, by relative path."""

    @model_validator(mode="after")
    def _only_known_kinds(self) -> Self:
        for name in self.sha256:
            if not name.lower().endswith(_KINDS) or _PART.search(name):
                raise ValueError(f"{name} is not a kind of file that belongs in an artifact")
        return self

    @model_validator(mode="after")
    def _each_entry_once(self) -> Self:
        names = [(entry.format, entry.quant) for entry in self.entries]
        if len(set(names)) < len(names):
            raise ValueError("two entries have the same format and quantization")
        for entry in self.entries:
            if sum(entry.path == other.path or other.owns(entry.path) for other in self.entries) > 1:
                raise ValueError(f"{entry.path} belongs to two entries")
        return self

    @property
    def digest(self) -> str:
        """The SHA-256 of the manifest's content, independent of its layout."""
        return digest_of(self._values())

    def files_of(self, entry: ManifestEntry) -> dict[str, str]:
        """The SHA-256 of an entry's files, by path relative to the artifact."""
        return {name: digest for name, digest in self.sha256.items() if entry.owns(name)}

    def content_digest(self, entry: ManifestEntry) -> str:
        """One SHA-256 for an entry: the file's, or that of the lines "hash name" of a directory's files, sorted."""
        if entry.format == "gguf":
            return self.sha256[entry.path]
        files = self.files_of(entry)
        lines = sorted(f"{digest} {name[len(entry.path) + 1 :]}\n" for name, digest in files.items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Raises: ArtifactError when there is no manifest, it is damaged or of another schema version."""
        path = directory / MANIFEST
        if not os.path.lexists(path) and os.path.isfile(directory / "artifact.json"):
            raise _too_old(directory)
        return cls.parse(path, read_object(path))

    @classmethod
    def parse(cls, path: Path, values: dict[str, Any]) -> Manifest:
        """The manifest with the content `values` of the file `path`.

        Raises: ArtifactError as `read`.
        """
        if path.is_symlink():
            damaged(path, "it is a symbolic link")
        # Checked first: the meaning of the other fields depends on it.
        version = values.get("schema_version")
        if type(version) is not int or version < 1:
            damaged(path, f"schema_version is {version!r}")
        if version < SCHEMA:
            raise _too_old(path.parent)
        if version > SCHEMA:
            raise ArtifactError(
                f"{path} has schema version {version}; this mentor-edge reads {SCHEMA}", "upgrade mentor-edge"
            )
        content = {name: value for name, value in values.items() if name != "digest"}
        try:
            if values.get("digest") != digest_of(content):
                damaged(path, "its content does not match its digest")
            manifest = cls.model_validate(content)
        except RecursionError as error:
            damaged(path, str(error))
        except ValidationError as error:
            damaged(path, first_problem(error))
        for entry in manifest.entries:
            if not manifest.files_of(entry):
                damaged(path, f"sha256 lists no file of {entry.path}")
        return manifest

    def write(self, directory: Path) -> None:
        """Write manifest.json. Write it last: a directory without it is not an artifact. Raises: OutputError."""
        values = self._values()
        write_json(directory / MANIFEST, values | {"digest": digest_of(values)})

    def _values(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


def _too_old(directory: Path) -> ArtifactError:
    return ArtifactError(f"{directory} was made by an early version of mentor-edge", "export it again")
