"""Paths of the project's own files and of the shared data, for tests."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""
DOCS = ROOT / "docs"
DATA = ROOT / "tests" / "data"
SERVERS = Path(__file__).parent / "mcp_servers"
SHARED = Path(os.environ.get("MENTOR_EDGE_DATA", ROOT.parent / "shared" / "data"))
"""Data sets that are too large for the project. Tests that need them are skipped if they are missing."""
