r"""Tasks of your own: one JSON object per line. docs/tasks.md explains the fields with examples.

    {"id": "sum-1", "messages": [{"role": "user", "content": "What is 2 + 3?"}], "tools": ["add"], "answer": "5",
     "reference": [{"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 2, "b": 3}}}]},
                   {"role": "tool", "content": "5"}, {"role": "assistant", "content": "\\boxed{5}"}]}

- `id`: text, unique in the file.
- `messages`: the prompt in OpenAI's chat format. It contains a user message and does not end with one of the
  assistant's.
- `tools`: names of tools that have an implementation, or OpenAI function schemas, in the order in which they are
  offered. The default is all tools that have an implementation, by name. A schema whose name has an implementation is
  executed by it; any other is offered and never executed.
- One of `answer` (text), `answers` (all accepted answers) and `accepted_calls` (`mentor_edge.tasks.accepted_calls`).
- `reference`, or a list of `references`: what a teacher did after the prompt, in OpenAI's chat format.
- `split`: "id" (the default) or "ood".
- `domain`: the group that results are reported by. The default is the suite's name.
- `gold_passages`: the `doc_id`s of the passages that contain what the answer needs, for retrieval.

Other fields are refused, because a misspelt field would be ignored silently.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import jsonschema

from mentor_edge.errors import TaskError, ToolDefinitionError, did_you_mean
from mentor_edge.messages import Ending, Message, ToolCall, Trajectory
from mentor_edge.rows import field_path, read_rows, shown
from mentor_edge.tasks.accepted_calls import read_accepted_calls
from mentor_edge.tasks.answers.judge import boxed_answer
from mentor_edge.tasks.types import Suite, Task, never_executed
from mentor_edge.tools.types import Tool

VERSION = "1"
_PROBLEMS_SHOWN = 10
"""Problems of one line."""
_Schema = dict[str, Any]


def _object(*required: str, **properties: _Schema) -> _Schema:
    return {"type": "object", "required": list(required), "additionalProperties": False, "properties": properties}


_STRING: _Schema = {"type": "string"}
_NOT_EMPTY: _Schema = {"type": "string", "pattern": r"\S"}
_FUNCTION_CALL = _object("name", "arguments", name=_STRING, arguments={"type": ["object", "string"]})
_MESSAGE = _object(
    "role",
    role={"enum": ["system", "user", "assistant", "tool"]},
    content={"type": ["string", "null"]},
    tool_calls={
        "type": "array",
        "items": _object("function", id=_STRING, type={"const": "function"}, function=_FUNCTION_CALL),
    },
    tool_call_id=_STRING,
    name=_STRING,
)
_NO_PARAMETERS: _Schema = {"type": "object", "properties": {}}
_MESSAGES: _Schema = {"type": "array", "minItems": 1, "items": _MESSAGE}
_FUNCTION = _object(
    "name", name=_NOT_EMPTY, description=_STRING, parameters={"type": ["object", "null"]}, strict={"type": "boolean"}
)
_ACCEPTED_CALL: _Schema = {
    "type": "object",
    "if": {"required": ["name"], "properties": {"name": _STRING}},
    "then": _object("name", "arguments", name=_STRING, arguments={"type": "object"}),
    "else": {
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": {"type": "object", "additionalProperties": {"type": "array", "minItems": 1}},
    },
}

ROW_SCHEMA: _Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    **_object(
        "id",
        "messages",
        id=_NOT_EMPTY,
        messages=_MESSAGES,
        tools={
            "type": "array",
            "items": _object("function", type={"const": "function"}, function=_FUNCTION)
            | {"type": ["string", "object"]},
        },
        answer=_NOT_EMPTY,
        answers={"type": "array", "minItems": 1, "items": _NOT_EMPTY},
        accepted_calls={"type": "array", "items": _ACCEPTED_CALL},
        reference=_MESSAGES,
        references={"type": "array", "minItems": 1, "items": _MESSAGES},
        split={"enum": ["id", "ood"]},
        domain=_NOT_EMPTY,
        gold_passages={"type": "array", "minItems": 1, "items": _NOT_EMPTY},
    ),
}
"""The JSON Schema of a line. `load` also checks what a schema cannot express: one kind of answer, known tools, whose
turn it is."""

_VALIDATOR = jsonschema.Draft202012Validator(ROW_SCHEMA)


def load(path: str | Path, tools: Mapping[str, Tool] | None = None) -> Suite:
    """Read a JSONL file as a suite that has the name of the file.

    `tools` are the implementations, by name: see `mentor_edge.tools.catalog.load_tools`.

    Raises: TaskError naming file, line, field and value seen; the first five malformed lines are listed together.
    """
    path = Path(path)
    offered_tools = _OfferedTools(tools or {})
    rows = read_rows(path, lambda row: _task(row, offered_tools, path.stem), what="tasks", unique="id")
    return Suite(path.stem, VERSION, tuple(rows))


def line_numbers(path: Path) -> dict[str, int]:
    """The line of every task, by id, in a file that `load` has read without an error."""
    with path.open("rb") as lines:
        return {json.loads(line)["id"]: number for number, line in enumerate(lines, start=1) if line.strip()}


def to_row(task: Task) -> dict[str, Any]:
    """Convert a task into a row. `load` reads it as the same task, given the same implementations.

    Raises: TaskError when the task accepts neither answers nor calls.
    """
    row: dict[str, Any] = {
        "id": task.id,
        "messages": [message.to_openai() for message in task.prompt],
        "tools": list(task.tool_schemas),
    }
    if task.accepted_calls is not None:
        row["accepted_calls"] = list(task.accepted_calls)
    elif task.answers:
        row["answers"] = list(task.answers)
    else:
        raise TaskError(f"task {task.id} accepts neither answers nor calls")
    if task.references:
        row["references"] = [[message.to_openai() for message in reference.messages] for reference in task.references]
    if task.gold_passages:
        row["gold_passages"] = list(task.gold_passages)
    return row | {"split": task.split, "domain": task.domain}


class _OfferedTools:
    """Builds the tools of rows. A schema that many rows repeat is checked and converted once."""

    def __init__(self, implementations: Mapping[str, Tool]) -> None:
        self._implementations = implementations
        self._by_schema: dict[str, Tool] = {}

    def of(self, row: Mapping[str, Any]) -> tuple[Tool, ...]:
        if "tools" not in row:
            if not self._implementations:
                raise ValueError("tools: missing, and there are no implementations to offer instead")
            return tuple(self._implementations[name] for name in sorted(self._implementations))
        offered: dict[str, Tool] = {}
        for i, item in enumerate(row["tools"]):
            path = f"tools[{i}]"
            tool = self._by_name(item, path) if isinstance(item, str) else self._from_schema(item, path)
            if tool.name in offered:
                raise ValueError(f"{path}: {tool.name!r} is offered twice")
            offered[tool.name] = tool
        return tuple(offered.values())

    def _by_name(self, name: str, path: str) -> Tool:
        if name not in self._implementations:
            known = did_you_mean(name, sorted(self._implementations))
            raise ValueError(f"{path}: tool {name!r} has no implementation{known}; give one or write its schema")
        return self._implementations[name]

    def _from_schema(self, schema: Mapping[str, Any], path: str) -> Tool:
        key = json.dumps(schema, sort_keys=True)
        if key not in self._by_schema:
            function = schema["function"]
            parameters = function.get("parameters", _NO_PARAMETERS)
            name, description = function["name"], function.get("description", "")
            try:
                tool = self._implementations.get(name) or Tool(name, "", _NO_PARAMETERS, never_executed)
                self._by_schema[key] = replace(tool, description=description, parameters=parameters)
            except ToolDefinitionError as error:
                raise ValueError(f"{path}.function: {error.problem}") from None
        return self._by_schema[key]


def _task(row: Any, offered_tools: _OfferedTools, suite: str) -> Task:
    _check_json(row)
    errors = islice(_VALIDATOR.iter_errors(row), _PROBLEMS_SHOWN)  # each one that is found takes time
    if problems := list(dict.fromkeys(map(_problem, errors))):
        raise ValueError("; ".join(problems))
    if len(given := [name for name in ("answer", "answers", "accepted_calls") if name in row]) != 1:
        raise ValueError(
            f"give one of answer, answers and accepted_calls (found {' and '.join(given) or 'none of them'})"
        )
    if "reference" in row and "references" in row:
        raise ValueError("give reference or references, not both")
    prompt = _messages(row["messages"], "messages")
    if all(message.role != "user" for message in prompt):
        raise ValueError("messages: no user message")
    if prompt[-1].role == "assistant":
        raise ValueError("messages: the last one is the assistant's; put the teacher's messages in reference")
    tools = offered_tools.of(row)
    by_name = {tool.name: tool for tool in tools}
    domain = row.get("domain", suite)
    if domain == "irrelevance" and row.get("accepted_calls"):
        raise ValueError("domain: in BFCL's irrelevance no call is right; give another domain, or no accepted calls")
    answers = row.get("answers", [row["answer"]] if "answer" in row else [])
    references = (
        [_reference(row["reference"], "reference")]
        if "reference" in row
        else [_reference(messages, f"references[{i}]") for i, messages in enumerate(row.get("references", ()))]
    )
    if answers:
        _check_executable(references, by_name)
    return Task(
        row["id"],
        prompt,
        tools,
        row.get("split", "id"),
        domain,
        answer=answers[0] if answers else None,
        accepted_calls=None if answers else read_accepted_calls(row["accepted_calls"], by_name),
        reference=references[0] if references else None,
        other_references=tuple(references[1:]),
        other_answers=tuple(answers[1:]),
        gold_passages=tuple(row.get("gold_passages", ())),
    )


def _check_json(value: Any) -> None:
    """Refuse what Python's reader accepts and JSON does not (NaN), and text that tokenizers cannot encode."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise ValueError("contains half of a surrogate pair") from None


def _reference(rows: Sequence[Mapping[str, Any]], path: str) -> Trajectory:
    messages = _messages(rows, path)
    if messages[0].role != "assistant" or not {message.role for message in messages} <= {"assistant", "tool"}:
        raise ValueError(f"{path}: must start with an assistant message and contain only assistant and tool messages")
    last = messages[-1]
    if last.role == "assistant" and not last.tool_calls:
        return Trajectory(messages, boxed_answer(last.content), Ending.ANSWERED)
    return Trajectory(messages, None, Ending.OUT_OF_TURNS)


def _check_executable(references: Iterable[Trajectory], tools: Mapping[str, Tool]) -> None:
    for reference in references:
        for call in reference.calls:
            if call.name in tools and tools[call.name].function is never_executed:
                raise ValueError(
                    f"the reference calls {call.name!r}, which has a schema and no implementation: give one with "
                    f"--tools import:FILE.py:{call.name}, or under tools: in the recipe"
                )


def _messages(rows: Sequence[Mapping[str, Any]], path: str) -> tuple[Message, ...]:
    """Read OpenAI messages. A tool result without a name gets the name of the tool whose call it answers."""
    messages: list[Message] = []
    waiting: list[tuple[str | None, str]] = []  # id and tool of the calls that have no result yet
    for i, row in enumerate(rows):
        role, calls = row["role"], row.get("tool_calls", ())
        if role != "assistant" and (calls or row.get("content") is None):
            raise ValueError(f"{path}[{i}]: a {role} message needs content and must not have tool_calls")
        parsed = tuple(_call(call["function"], f"{path}[{i}].tool_calls[{j}]") for j, call in enumerate(calls))
        name = row.get("name")
        if role == "tool" and waiting:
            call_id, tool_name = waiting.pop(0)
            if row.get("tool_call_id", call_id) != call_id:
                raise ValueError(
                    f"{path}[{i}].tool_call_id: expected {shown(call_id)}, found {shown(row['tool_call_id'])}: "
                    "results must be in the order of their calls"
                )
            name = tool_name if name is None else name
        if calls:
            waiting = [(call.get("id"), read.name) for call, read in zip(calls, parsed, strict=True)]
        messages.append(Message(role, row.get("content") or "", parsed, name))
    return tuple(messages)


def _call(function: Mapping[str, Any], path: str) -> ToolCall:
    arguments = function["arguments"]
    if isinstance(arguments, str):  # as the API sends them
        try:
            arguments = json.loads(arguments)
            _check_json(arguments)
        except ValueError:
            arguments = None
        if not isinstance(arguments, dict):
            raise ValueError(f"{path}.function.arguments: not a JSON object: {shown(function['arguments'])}")
    return ToolCall(function["name"], arguments)


# jsonschema's errors in our words ------------------------------------------------------------------------------------

_TYPE_NAMES = {"string": "text", "array": "a list", "object": "an object", "boolean": "true or false", "null": "null"}


def _problem(error: jsonschema.ValidationError) -> str:
    path = field_path(error.absolute_path)
    rule: Any = error.validator_value
    value: Any = error.instance
    match error.validator:
        case "type":
            kinds = [rule] if isinstance(rule, str) else rule
            reason = f"expected {' or '.join(_TYPE_NAMES[kind] for kind in kinds)}, found {shown(value)}"
            if path == "messages":
                reason += " (a plain string skips the chat template, and the student would train on noise)"
        case "required":
            missing = [field_path([*error.absolute_path, name]) for name in rule if name not in value]
            return "; ".join(f"{name}: missing" for name in missing)
        case "additionalProperties":
            schema: Any = error.schema
            known = schema["properties"]
            unknown = (name for name in value if name not in known)
            reason = "; ".join(f"unknown field {name!r}{did_you_mean(name, known)}" for name in islice(unknown, 3))
        case "enum" | "const":
            allowed = rule if error.validator == "enum" else [rule]
            reason = f"expected {' or '.join(map(shown, allowed))}, found {shown(value)}"
        case "pattern" | "minItems":
            reason = "is empty"
        case _:
            reason = (
                'expected {"name": ..., "arguments": {...}} or {function: {parameter: [accepted values]}}, '
                f"found {shown(value)}"
            )
    return f"{path}: {reason}" if path else reason
