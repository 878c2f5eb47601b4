"""Real pretrained models, as ../shared/models/fetch.py writes them. Tests that need one are marked `models`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

MODELS = Path(os.environ.get("MENTOR_EDGE_MODELS", Path.home() / ".cache" / "mentor-edge" / "models"))
"""The output folder of fetch.py."""


def real_model(name: str) -> Path:
    """The directory NAME or the file NAME.gguf in `MODELS`. The test is skipped if it has not been fetched."""
    path = MODELS / name
    if not path.exists():
        pytest.skip(f"{path} is missing; fetch it with ../shared/models/fetch.py")
    return path
