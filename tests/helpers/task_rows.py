"""Rows of tasks files, and ways to change and load them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mentor_edge.tasks import jsonl
from mentor_edge.tasks.types import Suite
from mentor_edge.tools.calculator import CALCULATOR

CALCULATORS = {tool.name: tool for tool in CALCULATOR}
CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 3}}}
ROW: dict[str, Any] = {
    "id": "sum",
    "messages": [{"role": "system", "content": "Box it."}, {"role": "user", "content": "2 + 3?"}],
    "tools": ["add"],
    "answer": "5",
    "reference": [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": "5"},
        {"role": "assistant", "content": r"\boxed{5}"},
    ],
}
FORECAST = {
    "type": "object",
    "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "where": {"type": "object"},
        "spans": {"type": "array", "items": {"type": "object"}}, "any": {"type": ["string", "null"]},
    },
    "required": ["city"],
}  # a table  # fmt: skip
SCHEMA = {"type": "function", "function": {"name": "forecast", "parameters": FORECAST}}
CALLS_ROW: dict[str, Any] = {
    "id": "rain",
    "messages": [{"role": "user", "content": "Rain in Paris?"}],
    "tools": [SCHEMA],
    "accepted_calls": [{"forecast": {"city": ["Paris"]}}],
    "reference": [
        {"role": "assistant", "tool_calls": [{"function": {"name": "forecast", "arguments": {"city": "paris"}}}]}
    ],
}


def changed(row: dict[str, Any], *path: Any, to: Any = ...) -> dict[str, Any]:
    """A copy of `row` with the value at `path` replaced by `to`, or removed without `to`."""
    copy = json.loads(json.dumps(row))
    parent = copy
    for part in path[:-1]:
        parent = parent[part]
    if to is ...:
        del parent[path[-1]]
    else:
        parent[path[-1]] = to
    return copy


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def loaded(tmp_path: Path, *rows: Any) -> Suite:
    return jsonl.load(written(tmp_path / "mine.jsonl", *rows), CALCULATORS)


def accepting(*calls: Any) -> dict[str, Any]:
    return CALLS_ROW | {"accepted_calls": list(calls)}
