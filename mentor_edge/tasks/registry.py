"""Suites by name."""

from __future__ import annotations

from pathlib import Path

from mentor_edge.errors import TaskError
from mentor_edge.tasks import bfcl, calculator, gsm8k, musique
from mentor_edge.tasks.nano import suites as nano
from mentor_edge.tasks.types import Suite

_GENERATED = {"nano": nano.evaluation_suite, "calculator": calculator.evaluation_suite}
_READ = {"gsm8k": gsm8k.load, "bfcl": bfcl.load, "musique": musique.load}
SUITES = (*_GENERATED, *_READ)


def load_suite(name: str, data: str | Path | None = None, limit: int | None = None) -> Suite:
    """A suite by name: "nano" and "calculator" are generated; "gsm8k" reads a file, "bfcl" and "musique" a directory,
    given as `data`.

    `limit` keeps the first tasks of every domain.

    Raises: TaskError for an unknown name, missing data, or malformed files.
    """
    if name not in SUITES:
        raise TaskError(f"there is no suite {name!r}", f"known suites: {', '.join(SUITES)}")
    if name in _GENERATED:
        suite = _GENERATED[name]()
    elif data is not None:
        suite = _READ[name](data)
    else:
        raise TaskError(f"the suite {name} needs its data", "give its path with --data PATH")
    return suite if limit is None else suite.at_most(limit)
