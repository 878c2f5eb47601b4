"""The tools that were offered with a conversation, as the parser needs them: their names and parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_DECORATED = re.compile(
    r"(?:functions|tools|default_api|tool_code)\.([^\s:]+?)(?:\.call)?(?::\d+)?|(.+?)(?:\.call|:\d+)"
)
"""What models write around a name: `functions.f:0` (Kimi), `default_api.f` (Gemma), `f.call` (Llama 3.1)."""
_PYTHON_CONSTANTS = {"True": True, "False": False, "None": None}
_JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


@dataclass(frozen=True, slots=True)
class OfferedTools:
    """Names and parameters of the offered tools."""

    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By name of the tool: the JSON Schema of every parameter, by its name."""

    @classmethod
    def of(cls, schemas: Iterable[Any]) -> OfferedTools:
        """Read OpenAI function schemas, or names alone. Whatever is neither is left out: the parser must not fail."""
        named = [{"name": schema} if isinstance(schema, str) else schema for schema in schemas]
        functions = [schema.get("function", schema) for schema in named if isinstance(schema, Mapping)]
        return cls({name: _properties(function) for function in functions if (name := _name(function))})

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order of the schemas."""
        return tuple(self.parameters)

    @property
    def signatures(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Every name with the names of its parameters."""
        return tuple((name, tuple(schemas)) for name, schemas in self.parameters.items())

    def own_name(self, written: str) -> str:
        """The offered name that `written` means, or `written` itself."""
        if written not in self.parameters and (match := _DECORATED.fullmatch(written)):
            stripped = match[1] or match[2]
            return stripped if stripped in self.parameters else written
        return written

    def offers(self, written: str) -> bool:
        """Whether `written` is the name of an offered tool."""
        return self.own_name(written) in self.parameters

    def accepts(self, name: str, keys: Iterable[str]) -> bool:
        """Whether the offered tool `name` has parameters with all these names."""
        return set(keys) <= self.parameters[name].keys()

    def typed(self, name: str, key: str, text: str) -> Any:
        """The value of an argument that was written as plain text, without quotes.

        The parameter's schema decides between text and JSON. Without a schema the value is JSON if it can be decoded,
        otherwise text.
        """
        types = _types(self.parameters.get(self.own_name(name), {}).get(key))
        if types == {"string"}:
            return text
        try:
            bare = text.strip()
            value = _PYTHON_CONSTANTS[bare] if bare in _PYTHON_CONSTANTS else json.loads(bare)
        except (ValueError, RecursionError):
            return text
        return value if "string" not in types or _has_type(value, types) else text


def _name(function: Any) -> str | None:
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) and name.strip() else None


def _properties(function: Any) -> Mapping[str, Any]:
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    return properties if isinstance(properties, Mapping) else {}


def _types(schema: Any) -> set[str]:
    """The types that a schema names, in itself or one level down; empty if it names none."""
    if not isinstance(schema, Mapping):
        return set()
    options = [schema]
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), Sequence) and not isinstance(schema[key], str):
            options += [option for option in schema[key] if isinstance(option, Mapping)]
    named = [option.get("type") for option in options]
    return {
        one
        for types in named
        for one in (types if isinstance(types, list | tuple) else [types])
        if isinstance(one, str)
    }


def _has_type(value: Any, types: set[str]) -> bool:
    allowed = tuple(kind for name in types for kind in _JSON_TYPES.get(name, ()))
    if isinstance(value, bool):
        return bool in allowed
    return isinstance(value, allowed)
