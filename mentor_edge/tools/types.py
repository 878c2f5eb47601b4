"""`Tool`: a function a model may call, described by JSON Schema."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_type_hints

import jsonschema
import pydantic

from mentor_edge.errors import ToolDefinitionError


@dataclass(frozen=True, eq=False)
class Tool:
    """A function a model may call.

    `parameters` is the JSON Schema of the arguments. `bound` are further keyword arguments of `function` that are
    fixed per task and never shown to the model (the rows of a lookup table, say).
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    function: Callable[..., Any]
    bound: Mapping[str, Any] = field(default_factory=dict)

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


def tool(function: Callable[..., Any]) -> Tool:
    """Make a `Tool` of a typed function: schema from its signature (through pydantic), description from its docstring.

    Raises: ToolDefinitionError when the docstring or a type is missing, or a type has no JSON Schema.
    """
    name = function.__name__
    description = inspect.getdoc(function)
    if not description:
        raise ToolDefinitionError(f"tool {name!r} has no docstring", "the docstring is what the model reads; write one")
    hints = get_type_hints(function)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ToolDefinitionError(f"tool {name!r}: parameter {parameter.name!r} cannot be passed by name")
        if parameter.name not in hints:
            raise ToolDefinitionError(f"tool {name!r}: parameter {parameter.name!r} has no type annotation")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], default)
    try:
        schema = pydantic.create_model(name, **fields).model_json_schema()
    except pydantic.errors.PydanticUserError as error:
        raise ToolDefinitionError(f"tool {name!r} has a type without JSON Schema: {error.message}") from error
    schema.pop("title", None)
    for property_schema in schema.get("properties", {}).values():
        property_schema.pop("title", None)
    schema["additionalProperties"] = False
    return Tool(name, description.split("\n\n")[0], schema, function)
