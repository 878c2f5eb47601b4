"""manifest.json of an artifact: what every exported file is, where it came from, the gate's verdict, and its SHA-256.

This is the one reader of manifests. It does not trust what it reads: an artifact may come from anywhere.
"""

from __future__ import annotations

from mentor_edge.manifest.models import MANIFEST, SCHEMA, Manifest, ManifestEntry, Source
from mentor_edge.manifest.verification import check_entry, verify, verify_entry

__all__ = ["MANIFEST", "SCHEMA", "Manifest", "ManifestEntry", "Source", "check_entry", "verify", "verify_entry"]
