"""Making tools from Python: `tool` from a typed function, `tool_set` from a class.

pydantic builds the schema from the signature. The description is the first paragraph of the docstring; parameters are
described by `Annotated[..., Field(description=...)]`. A definition that a model could not use is refused at once.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, overload

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError, SchemaError

from mentor_edge.errors import ToolDefinitionError
from mentor_edge.tools.schemas.reading import read_schema
from mentor_edge.tools.types import Tool, ToolFailure

_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


@overload
def tool(function: Callable[..., Any], *, per_conversation: bool = False) -> Tool: ...
@overload
def tool(*, per_conversation: bool = False) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None, *, per_conversation: bool = False
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a `Tool` from a typed function with a docstring.

    The function receives the types in its annotations: enums, dates, nested pydantic models. A `float` parameter
    receives an int when the model wrote a whole number, so large numbers keep their digits.

    Example:
        @tool
        def forecast(city: str, days: Annotated[int, Field(ge=1, le=7)] = 1) -> list[str]:
            \"""Weather of the next days.\"""
            return ["sunny"] * days

    Args:
        function: a function, synchronous or `async`. Its name and the first paragraph of its docstring are what the
            model reads.
        per_conversation: whether the calls of a conversation run in a process of their own: `@tool(per_conversation=
            True)`. What the function keeps in its module is then not shared with other conversations. It costs a new
            process per conversation. Without it, calls of all conversations share processes, and only the working
            directory and `os.environ` are restored after each call.

    Returns:
        The tool. Call `tool.function` to run it in this process.

    Raises:
        ToolDefinitionError: the docstring or an annotation is missing, JSON cannot express a type or a default, a
            parameter cannot be passed by name, or chat APIs refuse the name. The message names tool and parameter.
    """
    if function is None:
        return functools.partial(tool, per_conversation=per_conversation)
    if inspect.isclass(function):
        raise ToolDefinitionError(f"{function.__name__} is a class", "make its methods tools with tool_set")
    defined = _define(function, list(_signature(function).parameters.values()))
    return replace(defined, per_conversation=True) if per_conversation else defined


def tool_set(cls_or_factory: type | Callable[[], Any]) -> tuple[Tool, ...]:
    """Make tools from the public methods of a class. They share one instance per conversation.

    A public method is a function that the class itself defines and whose name does not start with an underscore.
    Inherited methods, properties and other attributes do not become tools.

    Example:
        class Counter:
            def __init__(self) -> None:
                self.count = 0

            def step(self, by: int = 1) -> int:
                \"""Add to the counter and return it.\"""
                self.count += by
                return self.count


        tools = tool_set(Counter)

    Args:
        cls_or_factory: the class, or a callable that creates an instance without arguments: a `functools.partial` of
            the class, or a function whose return annotation is the class. It is called when a conversation first calls
            one of the tools.

    Returns:
        The tools, in the order of the methods.

    Raises:
        ToolDefinitionError: a method is not a valid `tool`, or is a static or class method; the class has no public
            methods, cannot be created without arguments, or is unknown because the factory has no return annotation.
    """
    cls = _class_of(cls_or_factory)
    for parameter in _signature(cls_or_factory).parameters.values():
        if parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            raise ToolDefinitionError(
                f"tool set {cls.__name__!r} cannot be created without {parameter.name!r}",
                f"give the parameter a default, or pass functools.partial({cls.__name__}, {parameter.name}=...)",
            )
    tools = []
    for name, attribute in vars(cls).items():
        if name.startswith("_"):
            continue
        if isinstance(attribute, staticmethod | classmethod):
            raise ToolDefinitionError(
                f"tool set {cls.__name__!r}: {name!r} is a {type(attribute).__name__}",
                "make it a plain method, or start its name with an underscore",
            )
        if inspect.isfunction(attribute):
            parameters = list(_signature(attribute).parameters.values())
            if not parameters:
                raise ToolDefinitionError(f"tool set {cls.__name__!r}: {name!r} has no self parameter", "add it")
            tools.append(_define(attribute, parameters[1:], state=cls_or_factory))
    if not tools:
        raise ToolDefinitionError(
            f"tool set {cls.__name__!r} defines no public methods",
            "inherited methods do not count: define them here",
        )
    return tuple(tools)


def _class_of(factory: Callable[..., Any]) -> type:
    if inspect.isclass(factory):
        return factory
    if isinstance(factory, functools.partial):
        return _class_of(factory.func)
    try:
        cls = get_type_hints(factory).get("return")
    except (NameError, TypeError):
        cls = None
    if not inspect.isclass(cls):
        raise ToolDefinitionError(
            f"tool_set cannot tell which class {factory!r} returns", "annotate the class as its return type"
        )
    return cls


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise ToolDefinitionError(f"{function!r} cannot be a tool: {error}", "wrap it in a function") from error


def _define(
    function: Callable[..., Any], parameters: list[inspect.Parameter], state: Callable[[], Any] | None = None
) -> Tool:
    name = getattr(function, "__name__", repr(function))
    if not _NAME.fullmatch(name):
        raise ToolDefinitionError(
            f"tool {name!r} has a name that chat APIs refuse",
            "define a function with 1 to 64 ASCII letters, digits and underscores",
        )
    description = inspect.getdoc(function)
    if not description:
        hint = "the docstring is what the model reads; write one"
        if sys.flags.optimize >= 2:
            hint = "Python has removed it (-OO, or PYTHONOPTIMIZE=2), and models read it: unset PYTHONOPTIMIZE"
        raise ToolDefinitionError(f"tool {name!r} has no docstring", hint)
    types_of = {p.name: _annotation(function, name, p) for p in parameters}
    adapters = {p.name: _adapter(name, p, types_of[p.name]) for p in parameters}
    defaults = {
        p.name: _json_default(name, p, adapters[p.name]) for p in parameters if p.default is not inspect.Parameter.empty
    }
    convertible = {key: adapter for key, adapter in adapters.items() if not _needs_no_conversion(types_of[key])}
    return Tool(
        name,
        description.split("\n\n")[0],
        _schema(adapters, defaults),
        function,
        state=state,
        convert=functools.partial(_converted, convertible) if convertible else None,
    )


def _annotation(function: Callable[..., Any], name: str, parameter: inspect.Parameter) -> Any:
    where = f"tool {name!r}: parameter {parameter.name!r}"
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        raise ToolDefinitionError(f"{where} cannot be passed by name", "models pass all arguments by name")
    if parameter.annotation is parameter.empty:
        raise ToolDefinitionError(f"{where} has no type annotation", "the annotation is what the model reads; write it")
    # One at a time, and without the return type: get_type_hints fails at the first name it cannot resolve.
    alone = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    names = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        return get_type_hints(alone, names, include_extras=True)[parameter.name]
    except (NameError, SyntaxError, TypeError, AttributeError) as error:
        raise ToolDefinitionError(
            f"{where} has a type that cannot be resolved: {error}",
            "define or import the type at the top level of the function's module",
        ) from error


def _adapter(name: str, parameter: inspect.Parameter, annotation: Any) -> TypeAdapter[Any]:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        adapter.json_schema()
    except PydanticUserError as error:
        raise ToolDefinitionError(
            f"tool {name!r}: parameter {parameter.name!r} has a type without JSON Schema: {error.message}",
            "use JSON types, enums, dates or pydantic models",
        ) from error
    except SchemaError as error:  # a pattern, for instance
        reason = " ".join(str(error).split())
        raise ToolDefinitionError(
            f"tool {name!r}: pydantic refuses the annotation of parameter {parameter.name!r}: {reason}",
            "correct the annotation; pydantic's patterns have no look-around unless the model's config asks for it",
        ) from error
    return adapter


def _json_default(name: str, parameter: inspect.Parameter, adapter: TypeAdapter[Any]) -> Any:
    where = f"tool {name!r}: the default {parameter.default!r} of parameter {parameter.name!r}"
    try:
        adapter.validate_python(parameter.default)
        default = adapter.dump_python(parameter.default, mode="json")
    except ValidationError as error:
        raise ToolDefinitionError(
            f"{where} does not fit its annotation: {error.errors()[0]['msg']}",
            "include the type of the default in the annotation, such as `int | None`",
        ) from error
    except PydanticSerializationError as error:
        raise ToolDefinitionError(
            f"{where} cannot be expressed in JSON", "use None and set the value inside the function"
        ) from error
    return default


def _schema(adapters: Mapping[str, TypeAdapter[Any]], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Schema of the parameters. Nested types are inlined, because small models do not follow references; only
    recursive types stay under `$defs`."""
    generated, shared = TypeAdapter.json_schemas([(key, "validation", adapter) for key, adapter in adapters.items()])
    properties = {key: generated[key, "validation"] for key in adapters}
    definitions = {"$defs": shared["$defs"]} if "$defs" in shared else {}
    read = read_schema({"type": "object", "properties": properties, **definitions}, check_patterns=False).parameters
    schemas = {key: _sorted(schema) for key, schema in read["properties"].items()}
    for key, default in defaults.items():
        schemas[key] = dict(sorted({**schemas[key], "default": default}.items()))
    required = [key for key in adapters if key not in defaults]
    return {
        **({"$defs": _sorted({"properties": read["$defs"]})["properties"]} if "$defs" in read else {}),
        "properties": schemas,
        **({"required": required} if required else {}),
        "type": "object",
        "additionalProperties": False,
    }


def _sorted(schema: Any) -> Any:
    """`schema` without titles, and with its keys in pydantic's order: schemas must not change."""
    if isinstance(schema, list):
        return [_sorted(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain: dict[str, Any] = {}
    for key, value in sorted(schema.items()):
        if key in ("properties", "patternProperties"):  # a parameter may be named "title"
            plain[key] = {name: _sorted(part) for name, part in value.items()}
        elif key in ("default", "const", "enum", "examples"):
            plain[key] = value
        elif key != "title":
            plain[key] = _sorted(value)
    return plain


def _needs_no_conversion(annotation: Any) -> bool:
    """Whether the function can take the JSON value unchanged. Conversion costs time, and digits: pydantic turns whole
    numbers into floats for a `float` parameter. An `int` needs conversion, because 1.0 is an integer in JSON Schema."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        described = all(isinstance(extra, str) or _only_describes(extra) for extra in arguments[1:])
        return described and _needs_no_conversion(arguments[0])
    if origin is Literal:
        return all(type(value) in (str, bool, type(None)) for value in arguments)
    if origin in (Union, types.UnionType, list, dict):
        return all(_needs_no_conversion(argument) for argument in arguments)
    return annotation in (str, float, bool, types.NoneType, None, list, dict, Any, object)


def _only_describes(extra: Any) -> bool:
    """Whether JSON Schema checks all that `extra` demands. Patterns are pydantic's: it has its own syntax for them."""
    return isinstance(extra, FieldInfo) and all(getattr(part, "pattern", None) is None for part in extra.metadata)


def _converted(adapters: Mapping[str, TypeAdapter[Any]], arguments: Mapping[str, Any]) -> dict[str, Any]:
    converted = dict(arguments)
    for name, adapter in adapters.items():
        if name in arguments:
            try:
                converted[name] = adapter.validate_json(json.dumps(arguments[name]))
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in (name, *first["loc"]))
                raise ToolFailure(f"invalid arguments: {where}: {first['msg']}") from None
    return converted
