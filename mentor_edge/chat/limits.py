"""What a chat template may use. Real templates have at most 30 KB and render in a millisecond."""

from __future__ import annotations

OUTPUT = 1 << 23
"""Characters of a rendered conversation: two million tokens."""
MEMORY = 512 << 20
"""Bytes of address space of the process that renders."""
SECONDS = 2.0
"""Processor seconds of a template beyond those that each request adds; MENTOR_EDGE_TEMPLATE_SECONDS changes it."""
SECONDS_PER_REQUEST = 0.02
SECONDS_PER_BYTE = 1e-6
"""A conversation of a megabyte adds a second."""
REASON = 1000
"""Characters of a template's error message that are kept."""
