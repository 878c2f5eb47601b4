"""Suites by name.

To add a suite:

1. Write `mentor_edge/tasks/NAME.py`. A suite that reads files has `load(path) -> Suite`, and a pydantic model of a row
   (`mentor_edge.rows.parse_row`), so that errors name file, line, field and value. A generated suite has
   `evaluation_suite() -> Suite`. Pass limits that are wide enough for every reference.
2. Add it to `_READ` or `_GENERATED` below. `mentor-edge evaluate`, `compare` and `tasks overlap` then know its name.
3. To train on it, add its name to `TasksConfig.suite` (recipes/config.py) and to `load_training_suite`
   (recipes/training_tasks.py).
4. Test it in `tests/tasks/test_NAME.py`: every reference passes `validate_references`, malformed rows are refused, and
   a generated suite keeps its `sha256`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mentor_edge.errors import TaskError, did_you_mean
from mentor_edge.tasks import bfcl, calculator, gsm8k, jsonl, musique
from mentor_edge.tasks.nano import suites as nano
from mentor_edge.tasks.types import Suite
from mentor_edge.tools.types import Tool

_GENERATED: Mapping[str, Callable[[], Suite]] = {
    "nano": nano.evaluation_suite,
    "calculator": calculator.evaluation_suite,
}
_READ: Mapping[str, Callable[[str | Path], Suite]] = {
    "gsm8k": gsm8k.load,
    "bfcl": bfcl.load,
    "musique": musique.load,
}
SUITES = (*_GENERATED, *_READ)
"""The names of all evaluation suites."""

_GENERATED_FOR_TRAINING: Mapping[str, Callable[[int], Suite]] = {
    "nano-train": nano.training_suite,
    "calculator-train": calculator.training_suite,
}
_TRAINING_TASKS = 1000  # as many as recipes generate by default


def load_suite(name: str, data: str | Path | None = None, limit: int | None = None) -> Suite:
    """Load an evaluation suite by name.

    Args:
        name: "nano" or "calculator", which are generated, or "gsm8k", "bfcl" or "musique", which are read.
        data: what to read: a JSONL file for "gsm8k", a directory for "bfcl" and "musique". Generated suites ignore it.
        limit: keep only the first `limit` tasks of every domain. None keeps all.

    Returns:
        The suite, with the limits of its conversations.

    Raises:
        TaskError: when the name is unknown, the data is missing, or a file is malformed.
    """
    if name not in SUITES:
        raise TaskError(
            f"there is no suite {name!r}{did_you_mean(name, SUITES)}",
            "give the name of a suite or the path of a tasks file",
        )
    if name in _GENERATED:
        suite = _GENERATED[name]()
    elif data is not None:
        suite = _READ[name](data)
    else:
        raise TaskError(f"the suite {name} needs its data", "give its path with --data PATH")
    return suite if limit is None else suite.at_most(limit)


def load_tasks(spec: str, tools: Mapping[str, Tool]) -> Suite:
    """Load training or evaluation tasks as the command line names them.

    `spec` is "nano-train" or "calculator-train" (1,000 tasks), the name of a suite, NAME:DATA for a suite that reads
    files, or the path of a JSONL file, whose tasks may use `tools`.

    Raises: TaskError when `spec` is neither, the data is missing, or a file is malformed.
    """
    if spec in _GENERATED_FOR_TRAINING:
        return _GENERATED_FOR_TRAINING[spec](_TRAINING_TASKS)
    name, _, data = spec.partition(":")
    if name in _READ and not data:
        raise TaskError(f"the suite {name} needs its data", f"write {name}:PATH")
    if name in SUITES:
        return load_suite(name, data or None)
    if not Path(spec).exists():
        near = did_you_mean(spec, [*_GENERATED_FOR_TRAINING, *SUITES])
        raise TaskError(
            f"there is no file and no suite {spec!r}{near}", "give the name of a suite or the path of a tasks file"
        )
    return jsonl.load(spec, tools)
