"""Reading manifest.json as JSON: the file may come from anywhere."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NoReturn

from mentor_edge.errors import ArtifactError
from mentor_edge.json_object import read_json
from mentor_edge.path_kind import kind_of

MANIFEST = "manifest.json"
COPY_AGAIN = "copy the artifact again from an intact copy, or export it again"


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises: ArtifactError when the file is missing, is not a regular file, is too large, or does not contain a JSON
    object; also when a key occurs twice.
    """
    try:
        return read_json(path, strict=True)
    except OSError as error:
        kind = kind_of(path.parent)
        raise ArtifactError(
            f"{path.parent} is not an artifact; it is {kind.name} ({MANIFEST}: {error.strerror})",
            "an artifact is what `mentor-edge export` writes: a directory with manifest.json",
        ) from error
    except ValueError as error:
        damaged(path, str(error))


def digest_of(values: dict[str, Any]) -> str:
    """The SHA-256 of a JSON object, independent of its layout."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def damaged(path: Path, reason: str) -> NoReturn:
    """Raises: ArtifactError, always."""
    raise ArtifactError(f"{path} is damaged: {reason}", COPY_AGAIN)
