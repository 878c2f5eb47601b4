"""Writes the documents of an artifact: run.md, the model card and, last, the manifest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mentor_edge.files import atomic_file, sha256_of
from mentor_edge.manifest import MANIFEST, Manifest

from .card import license_of, model_card
from .run_lines import run_markdown

CARD, RUN = "README.md", "run.md"


def write_package(directory: Path, manifest: Manifest, base: Path) -> Manifest:
    """Write run.md, README.md and manifest.json. `base` is the directory of the base, for its licence.

    `manifest.sha256` is filled in with the hash of every file; the manifest is returned as written. manifest.json is
    written last: a directory without it is not an artifact.

    Raises: OutputError.
    """
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    names = [path.relative_to(directory).as_posix() for path in files]
    manifest = manifest.model_copy(update={"sha256": {}})
    manifest = _with_hashes(directory, manifest, [name for name in names if name != MANIFEST])
    _write(directory / RUN, run_markdown(manifest))
    _write(directory / CARD, model_card(manifest, license_of(base)))
    manifest = _with_hashes(directory, manifest, [RUN, CARD])
    manifest.write(directory)
    return manifest


def _with_hashes(directory: Path, manifest: Manifest, names: Iterable[str]) -> Manifest:
    hashes = {name: sha256_of(directory / name) for name in names}
    return Manifest.model_validate(manifest.model_dump() | {"sha256": manifest.sha256 | hashes})


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
