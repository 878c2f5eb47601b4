"""What the headers of safetensors files state: names, types and shapes of weights. No weights are read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_HEAD = "lm_head.weight"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "consolidated.00.pth")


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


def weight_facts(directory: Path) -> WeightFacts:
    """Read the headers of a directory's weights. Nothing raises: damage is reported as a problem."""
    names, problems = _files(directory)
    dtypes: dict[str, int] = {}
    tensors: set[str] = set()
    size = 0
    for name in names:
        path = directory / name
        try:
            size += path.stat().st_size
            with safe_open(path, framework="numpy") as file:
                for tensor in file.keys():  # noqa: SIM118 (it is not a mapping)
                    entry = file.get_slice(tensor)
                    kind = str(entry.get_dtype())
                    dtypes[kind] = dtypes.get(kind, 0) + math.prod(entry.get_shape())
                    tensors.add(tensor)
        except FileNotFoundError:
            problems.append(f"{name} is missing, which {_INDEX} names")
        except (OSError, SafetensorError) as error:
            problems.append(f"{name} is damaged: {error}")
    ordered = dict(sorted(dtypes.items(), key=lambda item: -item[1]))
    own_head = any(name == _HEAD or name.endswith(f".{_HEAD}") for name in tensors) if tensors else None
    return WeightFacts(ordered, size, own_head, tuple(problems))


def _files(directory: Path) -> tuple[list[str], list[str]]:
    """The files that transformers loads, and why there are none."""
    if (directory / _SINGLE).is_file():
        return [_SINGLE], []
    index = directory / _INDEX
    if index.is_file():
        try:
            return sorted({Path(name).name for name in json.loads(index.read_bytes())["weight_map"].values()}), []
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return [], [f"{_INDEX} is damaged: {type(error).__name__}: {error}"]
    if pickles := [name for name in _PICKLES if (directory / name).exists()]:
        return [], [f"its weights are in {pickles[0]}, which can run code; only safetensors are read"]
    return [], [f"it has no weights ({_SINGLE} is missing)"]
