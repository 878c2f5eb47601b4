"""The package around the exported files: model card, run lines, Modelfile, and last the manifest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mentor_edge.chat import ChatTemplate
from mentor_edge.errors import ExportError
from mentor_edge.files import atomic_file, sha256_of
from mentor_edge.manifest import MANIFEST, Manifest

from .card import license_of, model_card
from .ollama import modelfile
from .run_lines import run_markdown

CARD, RUN, MODELFILE = "README.md", "run.md", "Modelfile"


def write_package(directory: Path, manifest: Manifest, template: ChatTemplate) -> Manifest:
    """Write README.md, run.md, a Modelfile where the template allows one, and manifest.json with the hash of every
    file, which `manifest.sha256` need not have yet. Returns the manifest as written.

    The manifest comes last: a directory without it is no artifact.

    Raises: OutputError.
    """
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    names = [path.relative_to(directory).as_posix() for path in files]
    manifest = manifest.model_copy(update={"sha256": {}})
    manifest = _with_hashes(directory, manifest, [name for name in names if name != MANIFEST])
    documents = [RUN, CARD]
    refusal = _write_modelfile(directory, manifest, template)
    if refusal is None:
        documents.append(MODELFILE)
    _write(directory / RUN, run_markdown(manifest, ollama_refusal=refusal))
    _write(directory / CARD, model_card(manifest, license_of(Path(manifest.source.base or manifest.source.model))))
    manifest = _with_hashes(directory, manifest, documents)
    manifest.write(directory)
    return manifest


def _write_modelfile(directory: Path, manifest: Manifest, template: ChatTemplate) -> str | None:
    """Write a Modelfile for the first GGUF file that passed, or say why there is none."""
    for entry in manifest.entries:
        if entry.format == "gguf" and entry.role == "shipped":
            try:
                text = modelfile(template, entry.path, entry.gate["runtime"].get("context_length"))
            except ExportError as error:
                return error.problem
            _write(directory / MODELFILE, text)
            return None
    return "no GGUF file passed the gate"


def _with_hashes(directory: Path, manifest: Manifest, names: Iterable[str]) -> Manifest:
    hashes = {name: sha256_of(directory / name) for name in names}
    return Manifest.model_validate(manifest.model_dump() | {"sha256": manifest.sha256 | hashes})


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
