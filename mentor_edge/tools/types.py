"""`Tool`: a function a model may call, described by JSON Schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jsonschema

RemoteCall = Callable[[Mapping[str, Any], float], "Future[str]"]
"""Starts a call that runs elsewhere: (arguments, seconds it may take) -> what the model will read. The future raises
`ToolFailure` when the call failed."""


class ToolFailure(Exception):
    """A call went wrong, in words for the model."""


class Target(NamedTuple):
    """What a call of a tool runs. Tools that differ in name and description alone have the same one."""

    function: Callable[..., Any]
    convert: Callable[[Mapping[str, Any]], dict[str, Any]] | None
    state: Callable[[], Any] | None


@dataclass(frozen=True, eq=False)
class Tool:
    """A function a model may call.

    `parameters` is the JSON Schema of the arguments. `bound` are further keyword arguments of `function` that are
    fixed per task and never shown to the model (the rows of a lookup table, say). `state` makes the object that
    `function` takes first: one per conversation, shared by all tools with the same `state`. `remote` replaces
    `function` for tools that another program runs (MCP servers). `convert` turns JSON arguments into what `function`
    takes, where that is not the same; it raises `ToolFailure` for what it cannot convert.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    function: Callable[..., Any]
    bound: Mapping[str, Any] = field(default_factory=dict)
    state: Callable[[], Any] | None = None
    remote: RemoteCall | None = None
    convert: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None

    @cached_property
    def target(self) -> Target:
        return Target(self.function, self.convert, self.state)

    def to_openai(self) -> dict[str, Any]:
        """The schema as chat templates and OpenAI's API take it."""
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": dict(self.parameters)},
        }

    @cached_property
    def _validator(self) -> jsonschema.Draft202012Validator:
        return jsonschema.Draft202012Validator(dict(self.parameters))

    def argument_error(self, arguments: Mapping[str, Any]) -> str | None:
        """Why `arguments` do not fit the schema, in one line, or None when they do."""
        error = next(iter(self._validator.iter_errors(dict(arguments))), None)
        if error is None:
            return None
        where = ".".join(str(part) for part in error.absolute_path)
        return f"{where}: {error.message}" if where else error.message
