"""`Tool`: a function that a model may call, described by JSON Schema."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from mentor_edge.errors import MentorEdgeWarning, ToolDefinitionError
from mentor_edge.readable import has_surrogates
from mentor_edge.tools.schemas.checking import ArgumentChecker
from mentor_edge.tools.schemas.reading import read_schema
from mentor_edge.tools.schemas.references import SchemaError
from mentor_edge.tools.schemas.size import CONTROLS

NAME_LIMIT, DESCRIPTION_LIMIT = 128, 20_000
"""Characters of a tool's name and description."""

RemoteCall = Callable[[Mapping[str, Any], float], "Future[str]"]
"""Starts a call that runs elsewhere: (arguments, seconds it may take) -> a future of what the model reads.

The future raises `ToolFailure` when the call failed.
"""


class ToolFailure(Exception):
    """A call failed. The model reads the text."""


class Target(NamedTuple):
    """What a call of a tool runs. Tools that differ only in name and description have the same target."""

    function: Callable[..., Any]
    convert: Callable[[Mapping[str, Any]], dict[str, Any]] | None
    state: Callable[[], Any] | None


@dataclass(frozen=True, eq=False)
class Tool:
    """A function that a model may call.

    `mentor_edge.tool` makes one from a typed Python function. Construct it directly if you have a JSON Schema.

    Example:
        roll = Tool("roll", "roll a die", {"type": "object", "properties": {}}, lambda: random.randint(1, 6))
    """

    name: str
    """What the model calls. Chat APIs accept 1 to 64 ASCII letters, digits, `_` and `-`; here, anything of at most 128
    characters without control characters is a name."""
    description: str
    """What the model reads about the tool: at most 20,000 characters."""
    parameters: Mapping[str, Any]
    """JSON Schema of the arguments, of type object. Calls are checked against it before `function` runs.

    A schema of any draft may be given. It is read as JSON Schema 2020-12 with references replaced by what they point
    to; a schema that is so already stays as it is.
    """
    function: Callable[..., Any]
    """What runs, in a child process. It receives the arguments by keyword and returns text or a JSON value."""
    bound: Mapping[str, Any] = field(default_factory=dict)
    """Further keyword arguments of `function`, JSON values that the model does not see: for example the rows of a
    lookup table that differ per task. The model cannot override them."""
    state: Callable[[], Any] | None = None
    """Makes the object that `function` receives as its first argument. All tools with the same `state` share one object
    per conversation."""
    per_conversation: bool = False
    """Whether the calls of a conversation run in a process of their own, so that what the function keeps in its module
    is not shared with other conversations. Tools with `state` always do."""
    remote: RemoteCall | None = None
    """Replaces `function` for tools that another program runs, such as an MCP server."""
    convert: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    """Turns JSON arguments into the types that `function` expects. It raises `ToolFailure` for arguments that it cannot
    convert, or whose text does not match a pattern. None: the function takes JSON values as they are."""

    def __post_init__(self) -> None:
        """Read the schema.

        Raises:
            ToolDefinitionError: the arguments cannot be known from the schema; the name, the description or the schema
                is too long or contains what cannot be written.
        """
        if not 0 < len(self.name) <= NAME_LIMIT or CONTROLS.search(self.name):
            raise ToolDefinitionError(
                f"the name {self.name[:60]!a} of a tool is not usable",
                f"use 1 to {NAME_LIMIT} characters, and no control characters",
            )
        if len(self.description) > DESCRIPTION_LIMIT or has_surrogates(self.description):
            raise ToolDefinitionError(
                f"tool {self.name!r}: its description has {len(self.description)} characters"
                f" (limit {DESCRIPTION_LIMIT}), or contains half of a surrogate pair",
                "models read the description with every prompt; shorten it",
            )
        try:
            reading = read_schema(self.parameters, check_patterns=self.convert is None)
        except SchemaError as error:
            raise ToolDefinitionError(
                f"tool {self.name!r}: its parameters are not a JSON Schema of arguments: {error}",
                "describe an object of moderate size, and put everything it refers to into the same schema",
            ) from error
        object.__setattr__(self, "parameters", reading.parameters)
        for note in reading.notes:
            warnings.warn(f"tool {self.name!r}: {note}", MentorEdgeWarning, stacklevel=3)

    @cached_property
    def target(self) -> Target:
        """What a call runs."""
        return Target(self.function, self.convert, self.state)

    def to_openai(self) -> dict[str, Any]:
        """The schema in the form that chat templates and OpenAI's API expect.

        Returns:
            `{"type": "function", "function": {"name": ..., "description": ..., "parameters": ...}}`.
        """
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": dict(self.parameters)},
        }

    @cached_property
    def _checker(self) -> ArgumentChecker:
        return ArgumentChecker(self.parameters, patterns=self.convert is None)

    def argument_error(self, arguments: Mapping[str, Any]) -> str | None:
        """Check the arguments of a call against the schema.

        Args:
            arguments: the JSON arguments by name.

        Returns:
            Why they do not fit the schema, in one line, or None if they fit.
        """
        return self._checker.problem(arguments)
