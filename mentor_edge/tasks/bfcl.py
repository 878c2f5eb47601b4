"""Single-turn tasks of the Berkeley Function Calling Leaderboard (BFCL v4, Python).

Data: `BFCL_v4_<category>.json` and `possible_answer/BFCL_v4_<category>.json`, verbatim from the bfcl_eval wheel
2026.3.23 (ShishirPatil/gorilla, Apache-2.0). `mentor_edge.tasks.call_matching` compares calls with the answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from mentor_edge.messages import Message
from mentor_edge.rows import Text, parse_row, read_rows, require_file, shown
from mentor_edge.tasks.types import AgentLimits, Suite, Task, never_executed
from mentor_edge.tools.types import Tool

VERSION = "v4-2026.3.23"
LIMITS = AgentLimits(tool_rounds=0, tokens_per_turn=1024, completion_tokens=1024)
"""Limits of one conversation: one turn, and no call is executed."""
CATEGORIES = ("simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance")

_JSON_SCHEMA_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}


class _Message(BaseModel):
    role: Text
    content: Text


class _Function(BaseModel):
    name: Text
    description: Text
    parameters: dict[str, Any]


class _TaskRow(BaseModel):
    """A row of `BFCL_v4_<category>.json`. `question` contains the messages of every turn; there is one turn."""

    id: Text
    question: Annotated[list[list[_Message]], Field(min_length=1)]
    function: list[_Function]


class _AnswerRow(BaseModel):
    """A row of `possible_answer/`: per call, `{function: {parameter: [accepted values]}}`."""

    id: Text
    ground_truth: list[dict[str, dict[str, Any]]]


def load(directory: str | Path) -> Suite:
    """Read the five categories as one suite: split "ood", domain = category, schemas in plain JSON Schema.

    `accepted_calls` is BFCL's ground truth, one `{function: {parameter: [accepted values]}}` per call; it is empty for
    irrelevance, where no call is right. The tools cannot be executed: score the calls of the first turn.

    Raises: TaskError when a file is missing or malformed.
    """
    directory = Path(directory)
    require_file(directory / f"BFCL_v4_{CATEGORIES[0]}.json", "a directory with the files of BFCL v4")
    tasks: list[Task] = []
    for category in CATEGORIES:
        name = f"BFCL_v4_{category}.json"
        accepted: dict[str, Sequence[Any]] = {}
        if category != "irrelevance":
            accepted = dict(read_rows(directory / "possible_answer" / name, _answer, what="BFCL answers"))
        parse = partial(_task, category=category, accepted=accepted)
        tasks += read_rows(directory / name, parse, what="BFCL tasks")
    return Suite("bfcl", VERSION, tuple(tasks), LIMITS)


def _answer(row: Any) -> tuple[str, Sequence[Any]]:
    answer = parse_row(_AnswerRow, row)
    return answer.id, answer.ground_truth


def _task(row: Any, category: str, accepted: Mapping[str, Sequence[Any]]) -> Task:
    """Raises: ValueError for a row that is not a BFCL task or has no answer."""
    parsed = parse_row(_TaskRow, row)
    if category != "irrelevance" and parsed.id not in accepted:
        raise ValueError(f"id: {parsed.id!r} has no answer in possible_answer/")
    return Task(
        parsed.id,
        tuple(Message(message.role, message.content) for message in parsed.question[0]),
        tuple(
            Tool(
                function.name,
                function.description,
                _json_schema(function.parameters, f"function[{i}].parameters"),
                never_executed,
            )
            for i, function in enumerate(parsed.function)
        ),
        "ood",
        category,
        accepted_calls=tuple(accepted.get(parsed.id, ())),
    )


def _json_schema(schema: Any, path: str) -> dict[str, Any]:
    """`schema` with BFCL's type names replaced by JSON Schema's, at every depth."""
    if not isinstance(schema, dict) or not isinstance(schema.get("type"), str):
        raise ValueError(f"{path}: expected a schema with a type, found {shown(schema)}")
    if not isinstance(schema.get("properties", {}), dict):
        raise ValueError(f"{path}.properties: expected an object, found {shown(schema['properties'])}")
    converted = dict(schema)
    converted["type"] = _JSON_SCHEMA_TYPES.get(schema["type"], schema["type"])
    if "properties" in schema:  # by the names of the parameters, one of which may be "type"
        converted["properties"] = {
            name: _json_schema(part, f"{path}.properties.{name}") for name, part in schema["properties"].items()
        }
    if "items" in schema:
        converted["items"] = _json_schema(schema["items"], f"{path}.items")
    return converted
