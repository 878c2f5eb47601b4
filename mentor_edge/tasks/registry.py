"""Suites by name."""

from __future__ import annotations

from pathlib import Path

from mentor_edge.agent import AgentLimits
from mentor_edge.errors import TaskError
from mentor_edge.tasks import bfcl, gsm8k
from mentor_edge.tasks.nano.suites import evaluation_suite
from mentor_edge.tasks.types import Suite

SUITES = ("nano", "gsm8k", "bfcl")

LIMITS = {
    "nano": AgentLimits(tool_rounds=5, tokens_per_turn=48, completion_tokens=256),
    "gsm8k": AgentLimits(tool_rounds=12, tokens_per_turn=192, completion_tokens=1024),
    "bfcl": AgentLimits(tool_rounds=0, tokens_per_turn=256, completion_tokens=512),
}
"""Limits of one conversation of each suite, wide enough for its references."""


def load_suite(name: str, data: str | Path | None = None, limit: int | None = None) -> Suite:
    """A suite by name: "nano" is generated; "gsm8k" reads a file and "bfcl" a directory given as `data`.

    `limit` keeps the first tasks of every domain.

    Raises: TaskError for an unknown name, missing data, or malformed files.
    """
    if name not in SUITES:
        raise TaskError(f"there is no suite {name!r}", f"known suites: {', '.join(SUITES)}")
    if name != "nano" and data is None:
        raise TaskError(f"the suite {name} needs its data", "give its path with --data PATH")
    if name == "nano":
        suite = evaluation_suite()
    else:
        assert data is not None
        suite = (gsm8k if name == "gsm8k" else bfcl).load(Path(data))
    return suite if limit is None else suite.at_most(limit)
