"""manifest.json of an artifact: what every exported file is, where it came from, how it was judged, and its SHA-256.

This is the one reader of manifests. It trusts nothing that it reads: an artifact may come from anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    ValidationError,
    model_validator,
    with_config,
)
from typing_extensions import TypedDict  # pydantic asks for it before Python 3.12

from mentor_edge.errors import ArtifactError
from mentor_edge.files import sha256_of, write_json

MANIFEST = "manifest.json"
SCHEMA = 1
_LARGEST = 16 * 2**20
"""Bytes of a manifest; real ones have some ten thousand."""
_AGAIN = "copy the artifact again from where it is whole, or export it again"


def _below_the_artifact(path: str) -> str:
    pure = PurePosixPath(path)
    if (
        str(pure) != path  # such as "a//b", "./a", and what would be "." or empty
        or pure.is_absolute()
        or not pure.parts
        or ".." in pure.parts
        or any(character in "\\:" or not character.isprintable() for character in path)
        or path == MANIFEST
    ):
        raise ValueError(f"{path!r} is no path of a file in the artifact")
    return path


RelativePath = Annotated[str, AfterValidator(_below_the_artifact)]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
VerdictName = Literal["pass", "fail", "inconclusive"]


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


@with_config(ConfigDict(extra="allow"))
class BothSides(TypedDict):
    """A count for the reference and for the exported model."""

    reference: int
    artifact: int


@with_config(ConfigDict(extra="allow"))
class SplitResult(TypedDict):
    """The paired test on one split: `PairedDifference`, its verdict, and the right answers of both sides."""

    verdict: VerdictName
    n: PositiveInt
    delta: float
    low: float
    high: float
    lost: int
    gained: int
    correct: BothSides


@with_config(ConfigDict(extra="allow"))
class GateResult(TypedDict):
    """What the gate found. `runtime` is what it ran the model with: at least its `engine`."""

    verdict: VerdictName
    margin: float
    splits: Annotated[dict[str, SplitResult], Field(min_length=1)]
    malformed: BothSides
    explanation: str
    runtime: dict[str, Any]


class ManifestEntry(_Record):
    """One exported model: a GGUF file, or an ONNX directory.

    `path` is relative to the artifact, `bytes` the size of all its files. `quantization` is what was really written:
    tensor types and fallbacks of a GGUF file, attributes of an ONNX graph. `delta` says how much of the adapter
    survived, when that is known.
    """

    format: Literal["gguf", "onnx"]
    quant: str
    path: RelativePath
    bytes: NonNegativeInt
    role: Literal["shipped", "refused", "control"]
    quantization: dict[str, Any]
    parity: dict[str, Any]
    gate: GateResult
    calibration: dict[str, Any] | None = None
    delta: dict[str, Any] | None = None

    @property
    def verdict(self) -> str:
        return self.gate["verdict"]

    def holds(self, name: str) -> bool:
        """Whether the file `name`, relative to the artifact, is the entry's own."""
        return name == self.path or (self.format == "onnx" and name.startswith(f"{self.path}/"))

    @model_validator(mode="after")
    def _shipped_only_when_passed(self) -> Self:
        if self.role == "shipped" and self.verdict != "pass":
            raise ValueError(f"{self.path} is shipped with the verdict {self.verdict!r}")
        return self


class Manifest(_Record):
    """The whole of manifest.json. `sha256` has every file of the artifact but the manifest itself, by relative path.

    On disk there is a `digest` beside these fields: the SHA-256 of the rest. It shows damage, not forgery: the manifest
    is not signed. Two artifacts with the same digest are the same.
    """

    schema_version: int = SCHEMA
    source: Source
    template_sha256: str
    suite: dict[str, Any]
    margin: float
    parity: dict[str, dict[str, Any]]
    entries: tuple[ManifestEntry, ...]
    versions: dict[str, str]
    sha256: dict[RelativePath, Sha256]

    @model_validator(mode="after")
    def _each_entry_once(self) -> Self:
        names = [(entry.format, entry.quant) for entry in self.entries]
        if len(set(names)) < len(names):
            raise ValueError("a format and quantization is there twice")
        for entry in self.entries:
            if sum(entry.path == other.path or other.holds(entry.path) for other in self.entries) > 1:
                raise ValueError(f"{entry.path} belongs to two entries")
        return self

    @property
    def digest(self) -> str:
        """The SHA-256 of what the manifest says, however it is laid out."""
        return _digest(self._values())

    def files_of(self, entry: ManifestEntry) -> dict[str, str]:
        """The SHA-256 of an entry's files, by path relative to the artifact."""
        return {name: digest for name, digest in self.sha256.items() if entry.holds(name)}

    def content_digest(self, entry: ManifestEntry) -> str:
        """One SHA-256 for an entry: the file's, or that of the lines "hash name" of a directory's files, sorted."""
        if entry.format == "gguf":
            return self.sha256[entry.path]
        files = self.files_of(entry)
        lines = sorted(f"{digest} {name[len(entry.path) + 1 :]}\n" for name, digest in files.items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Raises: ArtifactError when there is none, it is damaged or of another schema version."""
        path = directory / MANIFEST
        if not path.exists() and (directory / "artifact.json").is_file():
            raise ArtifactError(f"{directory} was made by an early version of mentor-edge", "export it again")
        return cls._of(path, _read_json(path))

    @classmethod
    def _of(cls, path: Path, values: dict[str, Any]) -> Manifest:
        # Before anything else: what the other fields mean depends on it.
        version = values.get("schema_version")
        if type(version) is not int or version < 1:
            _damaged(path, f"schema_version is {version!r}")
        if version > SCHEMA:
            raise ArtifactError(
                f"{path} has schema version {version}; this mentor-edge reads {SCHEMA}", "upgrade mentor-edge"
            )
        values = dict(values)
        try:
            if values.pop("digest", None) != _digest(values):
                _damaged(path, "its content does not have the digest that it names")
            manifest = cls.model_validate(values)
        except RecursionError as error:
            _damaged(path, str(error))
        except ValidationError as error:
            first = error.errors()[0]
            _damaged(path, f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}")
        for entry in manifest.entries:
            if not manifest.files_of(entry):
                _damaged(path, f"{entry.path} has no file in sha256")
        return manifest

    def write(self, directory: Path) -> None:
        """Write manifest.json: the last file of an artifact, since without it nothing is one. Raises: OutputError."""
        values = self._values()
        write_json(directory / MANIFEST, values | {"digest": _digest(values)})

    def _values(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self.model_dump_json())  # which writes null for what JSON has no number for
        return values


def verify(directory: Path) -> list[str]:
    """Hash every file of an artifact. Returns all that differs from its manifest, nothing when it is whole: changed,
    missing and unknown files, links, wrong sizes.

    Raises: ArtifactError when the manifest itself cannot be used.
    """
    manifest = Manifest.read(directory)
    root = directory.resolve()
    problems = [problem for entry in manifest.entries for problem in _changes(root, manifest, entry)]
    for name, digest in manifest.sha256.items():
        if not any(entry.holds(name) for entry in manifest.entries):
            problems += _file_problems(root, name) or _hash_problems(root, name, digest)
    return problems + _unknown_files(root, manifest)


def verify_entry(path: Path) -> ManifestEntry | None:
    """Verify a model that is about to be loaded, when it lies in an artifact: a GGUF file or an ONNX directory that the
    manifest beside it, or one folder up, knows. Returns its entry, or None for any other model, which nobody vouches
    for. Refused models and controls are verified like all others: who names one wants to look at it.

    It hashes everything, every time (a CPU-second per gigabyte); a time stamp proves nothing. It guards against damaged
    and mixed-up files, not against somebody who can write to the artifact.

    Raises: ArtifactError when a file differs from the manifest, or the manifest is damaged.
    """
    # As it is named and where it leads: a link in the artifact must not lead out of it, one into it is a way to load.
    for place in map(Path, dict.fromkeys((os.path.abspath(path), os.path.realpath(path)))):
        for directory in list(place.parents)[:2]:
            if not (directory / MANIFEST).is_file():
                continue
            values = _read_json(directory / MANIFEST)
            if "schema_version" not in values and "entries" not in values:
                continue  # somebody else's
            manifest = Manifest._of(directory / MANIFEST, values)
            name = place.relative_to(directory).as_posix()
            for entry in manifest.entries:
                if name == entry.path:
                    check_entry(directory, manifest, entry)
                    return entry
    return None


def check_entry(directory: Path, manifest: Manifest, entry: ManifestEntry) -> None:
    """Raises: ArtifactError when the files of an entry differ from the manifest."""
    root = directory.resolve()
    problems = _changes(root, manifest, entry)
    if entry.format == "onnx":
        # A runtime reads what it finds: a template or configuration that was not there changes what the model says.
        problems += _unknown_files(root, manifest, entry.path)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ArtifactError(f"{directory} differs from its manifest: {problems[0]}{more}", _AGAIN)


def _changes(root: Path, manifest: Manifest, entry: ManifestEntry) -> list[str]:
    """What is wrong with the files of an entry. `root` is the artifact's directory, with no link on the way to it."""
    files = manifest.files_of(entry)
    if problems := [problem for name in files for problem in _file_problems(root, name)]:
        return problems
    size = sum((root / name).stat().st_size for name in files)
    wrong_size = f"{entry.path} has {size} bytes, not {entry.bytes}"
    if size > entry.bytes:
        return [wrong_size]  # and may take forever to read
    problems = [problem for name, digest in files.items() for problem in _hash_problems(root, name, digest)]
    return problems or [wrong_size] * (size != entry.bytes)


def _file_problems(root: Path, name: str) -> list[str]:
    """Whether there is a plain file below `root`, which is free of links itself."""
    path = root / name
    try:
        if path.resolve(strict=True) != path:
            return [f"{name} is a symbolic link, or behind one"]
        return [] if stat.S_ISREG(path.stat().st_mode) else [f"{name} is no file"]
    except FileNotFoundError:
        return [f"{name} is missing"]
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
        return [f"{name} cannot be read ({error})"]


def _hash_problems(root: Path, name: str, expected: str) -> list[str]:
    try:
        found = sha256_of(root / name)
    except OSError as error:
        return [f"{name} cannot be read ({error})"]
    return [] if found == expected else [f"{name} has the SHA-256 {found[:12]}…, not {expected[:12]}…"]


def _unknown_files(root: Path, manifest: Manifest, below: str = "") -> list[str]:
    """What lies in a folder of the artifact and not in its manifest; a link to a folder counts as a file."""
    found = []
    for folder, folders, files in os.walk(root / below):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        found += [Path(folder, name).relative_to(root).as_posix() for name in (*files, *links)]
    known = {*manifest.sha256, MANIFEST}
    return [f"{name} is not in the manifest" for name in sorted(found) if name not in known]


def _damaged(path: Path, reason: str) -> NoReturn:
    raise ArtifactError(f"{path} is damaged: {reason}", _AGAIN)


def _read_json(path: Path) -> dict[str, Any]:
    """Raises: ArtifactError when there is no JSON object, or one with a key twice."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            _damaged(path, "it is no file")
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise ArtifactError(f"{path.parent} holds no artifact ({MANIFEST}: {error.strerror})") from error
    if len(content) > _LARGEST:
        _damaged(path, f"it has more than {_LARGEST >> 20} MiB")
    try:
        values = json.loads(content.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        _damaged(path, str(error))
    if not isinstance(values, dict):
        _damaged(path, "it is no JSON object")
    return values


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key is there twice")
    return values


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _digest(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
