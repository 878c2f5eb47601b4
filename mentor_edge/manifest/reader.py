"""Reading manifest.json as JSON, with bounds: the file may come from anywhere."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any, NoReturn

from mentor_edge.errors import ArtifactError
from mentor_edge.path_kind import kind_of

MANIFEST = "manifest.json"
COPY_AGAIN = "copy the artifact again from an intact copy, or export it again"
_LARGEST = 16 * 2**20
"""Largest manifest in bytes; real ones have about ten thousand."""


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises: ArtifactError when the file is missing, is not a regular file, is too large, or does not contain a JSON
    object; also when a key occurs twice.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            damaged(path, "it is not a regular file")
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        kind = kind_of(path.parent)
        raise ArtifactError(
            f"{path.parent} is not an artifact; it is {kind.name} ({MANIFEST}: {error.strerror})",
            "an artifact is what `mentor-edge export` writes: a directory with manifest.json",
        ) from error
    if len(content) > _LARGEST:
        damaged(path, f"it has more than {_LARGEST >> 20} MiB")
    try:
        values = json.loads(content.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        damaged(path, str(error))
    if not isinstance(values, dict):
        damaged(path, "it is not a JSON object")
    return values


def digest_of(values: dict[str, Any]) -> str:
    """The SHA-256 of a JSON object, independent of its layout."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def damaged(path: Path, reason: str) -> NoReturn:
    """Raises: ArtifactError, always."""
    raise ArtifactError(f"{path} is damaged: {reason}", COPY_AGAIN)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key occurs twice")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
