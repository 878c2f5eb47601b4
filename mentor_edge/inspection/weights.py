"""What the headers of safetensors files state: names, types and shapes of weights. No weights are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mentor_edge.errors import StudentError
from mentor_edge.inspection.expected_weights import has_own_head, weight_problems
from mentor_edge.weight_files import weight_files


@dataclass(frozen=True)
class WeightFacts:
    """The weights of a directory, as transformers would load them."""

    dtypes: Mapping[str, int] = field(default_factory=dict)
    """The number of weights of each type, the most frequent first."""
    bytes: int = 0
    """Size of the files."""
    own_head: bool | None = None
    """Whether they hold an output head of their own; None without weights."""
    problems: tuple[str, ...] = ()
    """Why they cannot be loaded."""


def weight_facts(directory: Path, config: Mapping[str, Any]) -> WeightFacts:
    """Read the headers of a directory's weights. Nothing raises: damage is reported as a problem, and so is what the
    configuration of its language model needs and the weights lack."""
    try:
        files, problems = weight_files(directory), list[str]()
    except StudentError as error:
        files, problems = [], [f"{error.problem}; {error.hint}"]
    dtypes: dict[str, int] = {}
    tensors: dict[str, tuple[int, ...]] = {}
    size = 0
    for path in files:
        try:
            size += path.stat().st_size
            with safe_open(path, framework="numpy") as file:
                for tensor in file.keys():  # noqa: SIM118 (it is not a mapping)
                    entry = file.get_slice(tensor)
                    kind = str(entry.get_dtype())
                    dtypes[kind] = dtypes.get(kind, 0) + math.prod(entry.get_shape())
                    tensors[tensor] = tuple(entry.get_shape())
        except (OSError, SafetensorError) as error:
            problems.append(f"{path.name} is damaged: {error}")
    if not problems:
        names = ", ".join(path.name for path in files)
        problems = weight_problems(tensors, config) if tensors else [f"{names} contains no weights"]
    ordered = dict(sorted(dtypes.items(), key=lambda item: -item[1]))
    own_head = has_own_head(tensors) if tensors else None
    return WeightFacts(ordered, size, own_head, tuple(problems))
