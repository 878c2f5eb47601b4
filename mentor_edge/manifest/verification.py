"""Comparing the files of an artifact with its manifest."""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path

from mentor_edge.errors import ArtifactError, MentorEdgeWarning
from mentor_edge.files import files_below, sha256_of
from mentor_edge.manifest.models import Manifest, ManifestEntry
from mentor_edge.manifest.reader import COPY_AGAIN, MANIFEST, read_object

_LARGEST_DOCUMENT = 1 << 30
"""Bytes of a file of outcomes, the largest kind."""


def verify(directory: Path) -> list[str]:
    """Hash every file of an artifact and compare it with the manifest.

    Returns one sentence per difference: changed, missing and unknown files, links, wrong sizes. Empty if the artifact
    is intact.

    Raises: ArtifactError when the manifest itself cannot be used.
    """
    manifest = Manifest.read(directory)
    root = directory.resolve()
    problems = [problem for entry in manifest.entries for problem in _changes(root, manifest, entry)]
    for name, digest in manifest.sha256.items():
        if not any(entry.owns(name) for entry in manifest.entries):
            problems += _file_problems(root, name) or _document_problems(root, name, digest)
    return problems + _unknown_files(root, manifest)


def verify_entry(path: Path) -> ManifestEntry | None:
    """Verify a model that is about to be loaded, if it is part of an artifact: a GGUF file or an ONNX directory listed
    in the manifest beside it or one folder up.

    Returns its entry, or None for any other model. A `MentorEdgeWarning` reports a model that is in an artifact, but
    not in its manifest, and one that did not pass its gate. Refused models and controls are verified too: a user who
    names one intends to look at it. Every call hashes all files of the model (a CPU-second per gigabyte), because a
    time stamp proves nothing. This guards against damaged and mixed-up files, not against somebody who can write to the
    artifact.

    Raises: ArtifactError when a file differs from the manifest, or the manifest is damaged.
    """
    without_entry = None
    # The path as given, and the file it links to: a link inside the artifact must not lead out of it, but a link from
    # elsewhere into the artifact is a legitimate way to load a model.
    for location in map(Path, dict.fromkeys((os.path.abspath(path), os.path.realpath(path)))):
        for directory in list(location.parents)[:2]:
            if not os.path.lexists(directory / MANIFEST):
                continue
            values = read_object(directory / MANIFEST)
            if "schema_version" not in values and "entries" not in values:
                continue  # another program's manifest.json
            manifest = Manifest.parse(directory / MANIFEST, values)
            name = location.relative_to(directory).as_posix()
            for entry in manifest.entries:
                if name == entry.path:
                    check_entry(directory, manifest, entry)
                    if entry.role == "refused":
                        _warn(f"{path} did not pass its gate ({entry.verdict}): it may be worse than its source")
                    return entry
            without_entry = directory
    if without_entry is not None:
        _warn(f"{path} is not in the manifest of the artifact {without_entry}: nobody vouches for it")
    return None


def _warn(sentence: str) -> None:
    warnings.warn(sentence, MentorEdgeWarning, stacklevel=4)


def check_entry(directory: Path, manifest: Manifest, entry: ManifestEntry) -> None:
    """Raises: ArtifactError when the files of an entry differ from the manifest."""
    root = directory.resolve()
    problems = _changes(root, manifest, entry)
    if entry.format == "onnx":
        # The runtime reads every file it finds: an added template or configuration changes the model's output.
        problems += _unknown_files(root, manifest, entry.path)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ArtifactError(f"{directory} differs from its manifest: {problems[0]}{more}", COPY_AGAIN)


def _changes(root: Path, manifest: Manifest, entry: ManifestEntry) -> list[str]:
    """The problems of an entry's files. `root` is the artifact's resolved directory."""
    files = manifest.files_of(entry)
    if problems := [problem for name in files for problem in _file_problems(root, name)]:
        return problems
    size = sum((root / name).stat().st_size for name in files)
    wrong_size = f"{entry.path} has {size} bytes, not {entry.bytes}"
    if size > entry.bytes:
        return [wrong_size]  # hashing it might take forever
    problems = [problem for name, digest in files.items() for problem in _hash_problems(root, name, digest)]
    return problems or [wrong_size] * (size != entry.bytes)


def _file_problems(root: Path, name: str) -> list[str]:
    """Empty if `name` is a regular file below `root` and no link leads to it. `root` is resolved."""
    path = root / name
    try:
        if path.resolve(strict=True) != path:
            return [f"{name} is a symbolic link, or below one"]
        return [] if stat.S_ISREG(path.stat().st_mode) else [f"{name} is not a regular file"]
    except FileNotFoundError:
        return [f"{name} is missing"]
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
        return [f"{name} cannot be read ({error})"]


def _document_problems(root: Path, name: str, expected: str) -> list[str]:
    """Those of a file that belongs to no model: the manifest does not state its size."""
    if (size := (root / name).stat().st_size) > _LARGEST_DOCUMENT:
        return [f"{name} has {size} bytes, more than any document"]  # hashing it might take forever
    return _hash_problems(root, name, expected)


def _hash_problems(root: Path, name: str, expected: str) -> list[str]:
    try:
        actual = sha256_of(root / name)
    except OSError as error:
        return [f"{name} cannot be read ({error})"]
    return [] if actual == expected else [f"{name} has the SHA-256 {actual[:12]}…, not {expected[:12]}…"]


def _unknown_files(root: Path, manifest: Manifest, below: str = "") -> list[str]:
    """Files in a folder of the artifact that its manifest does not list, and folders that cannot be read. A link to a
    folder counts as a file."""
    known = {*manifest.sha256, MANIFEST}
    problems: list[str] = []

    def unreadable(folder: Path, error: OSError) -> None:
        problems.append(f"{_name(folder, root)} cannot be read ({error.strerror})")

    names = [_name(file, root) for file in files_below(root / below, unreadable, links=True)]
    unknown = sorted(name for name in names if name not in known)
    return problems + [f"{name if name.isprintable() else ascii(name)} is not in the manifest" for name in unknown]


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
