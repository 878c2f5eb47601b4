"""Reads the schema of a tool's arguments, of whatever dialect, as JSON Schema 2020-12 without references.

A schema comes from a program in any language, or from a person, and names its dialect or not. Three outcomes:

- What has one sensible meaning is read as that: older drafts by their keywords, `$ref` replaced by its definition
  (only definitions that contain themselves stay, under `$defs`), OpenAPI's `nullable`, type names of programming
  languages, keywords whose value is null. A schema that needs none of this stays as it is, key by key.
- A keyword that cannot be read, or that no value can fulfil together with others, is left out, and `Reading.notes` says
  so. The check of arguments is looser then.
- A schema whose arguments cannot be known is refused: not an object, or references to other documents or without end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mentor_edge.rows import shown
from mentor_edge.tools.schemas.contradictions import resolve, without_slashes
from mentor_edge.tools.schemas.keywords import (
    ANNOTATIONS,
    BOUNDS,
    COUNTS,
    is_json,
    is_list_of_names,
    is_number,
    is_valid,
)
from mentor_edge.tools.schemas.patterns import pattern_problem
from mentor_edge.tools.schemas.references import (
    LIST_KEYWORDS,
    NAMED_KEYWORDS,
    REFERENCES,
    SCHEMA_KEYWORDS,
    Document,
    Resolver,
    SchemaError,
)
from mentor_edge.tools.schemas.size import CONTROLS, DEPTH_LIMIT, check_work, size_problem
from mentor_edge.tools.schemas.time_limit import TooSlow, limited, seconds_left

PART_LIMIT = 4_000
"""How many schemas the result may contain. If it were larger, references stay references."""

PATTERN_LIMIT = 256
"""How many different patterns a schema may contain."""

TYPE_NAMES: Mapping[str, str] = {
    "object": "object", "dict": "object", "dictionary": "object", "map": "object", "struct": "object",
    "array": "array", "list": "array", "tuple": "array", "set": "array", "sequence": "array",
    "string": "string", "str": "string", "text": "string", "char": "string", "date": "string", "datetime": "string",
    "date-time": "string", "time": "string", "uuid": "string", "email": "string", "url": "string", "uri": "string",
    "bytes": "string", "file": "string", "path": "string",
    "integer": "integer", "int": "integer", "int32": "integer", "int64": "integer", "long": "integer",
    "number": "number", "float": "number", "double": "number", "decimal": "number", "float32": "number",
    "float64": "number", "boolean": "boolean", "bool": "boolean", "null": "null", "none": "null",
}  # a table  # fmt: skip
_ANY = ("any", "unknown", "mixed")

_DROPPED = frozenset(
    {"$schema", "$id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$vocabulary", "$defs", "definitions",
     "components", "nullable", "additionalItems", "discriminator", *REFERENCES}
)  # a table  # fmt: skip
_MAY_BE_NULL = frozenset({"default", "const", "example", "examples"})
_OLD_SIBLINGS = ("draft-03", "draft-04", "draft-06", "draft-07")
"""Drafts in which a reference hides the constraints beside it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A schema as JSON Schema 2020-12."""

    parameters: Mapping[str, Any]
    """The schema of an object; the one that was read, if nothing had to change."""
    notes: tuple[str, ...] = ()
    """What could not be read and is not checked, each with the path of the parameter."""


def read_schema(schema: Any, *, check_patterns: bool = True) -> Reading:
    """Read the schema of a tool's arguments.

    `check_patterns` says whether patterns are going to be checked, and so have to be readable.

    Raises: SchemaError, which says why the arguments cannot be known.
    """
    if schema is None or schema is True:
        schema = {}
    if not isinstance(schema, Mapping):
        raise SchemaError(f"expected a JSON Schema of an object, found {shown(schema)}")
    if problem := size_problem(schema):
        raise SchemaError(problem)
    try:
        with limited():
            document = Document(schema)
            try:
                reader = _Reader(document, check_patterns, inline=True)
                parameters = reader.root()
            except _TooLarge:
                document.keep()
                reader = _Reader(document, check_patterns, inline=False)
                parameters = reader.root()
            check_work(parameters)
    except TooSlow:
        raise SchemaError("it takes too long to read") from None
    return Reading(schema if parameters == schema else parameters, tuple(reader.notes))


class _TooLarge(Exception):
    """The result is too large when references are replaced by what they point to."""


class _Reader:
    def __init__(self, document: Document, check_patterns: bool, *, inline: bool) -> None:
        self.notes: dict[str, None] = {}
        self._document = document
        self._used: set[str] = set()
        self._check_patterns = check_patterns
        self._inline = inline
        self._parts = self._depth = 0
        self._in_condition = False
        self._patterns: set[str] = set()
        old = document.specification.name in ("draft-03", "draft-04")
        self._dropped = _DROPPED | {"id"} if old else _DROPPED

    def root(self) -> dict[str, Any]:
        document = self._document
        read = self._schema(document.root, "", None)
        if not isinstance(read, dict):
            raise SchemaError("it accepts nothing")
        parameters = self._object(read)
        names = {node: name for node, name in document.names.items() if name}
        definitions = {}
        for node, name in names.items():
            target = document.definition(node)
            definitions[name] = self._schema(target.schema, name, target.resolver)
        if definitions:
            parameters = {"$defs": definitions, **parameters}
        if {"unevaluatedProperties", "patternProperties"} <= self._used:  # jsonschema compares them by Python's re
            parameters = _without(parameters, "unevaluatedProperties")
            self._note("", "unevaluatedProperties is not checked beside patternProperties")
        if problem := size_problem(parameters):
            raise _TooLarge if self._inline else SchemaError(problem)
        return parameters

    def _object(self, read: dict[str, Any]) -> dict[str, Any]:
        """The root, which must be an object; authors leave out the type."""
        kind = read.get("type")
        if kind == "object":
            return read
        if kind is not None and not (isinstance(kind, list) and "object" in kind):
            raise SchemaError(f"its type is {kind!r}, not 'object'")
        if kind is None and not read.keys() - ANNOTATIONS:
            return {"type": "object", "properties": {}, **read}
        return {"type": "object", **{key: value for key, value in read.items() if key != "type"}}

    def _note(self, path: str, what: str) -> None:
        self.notes[f"parameter {path!r}: {what}" if path else what] = None

    # Any schema

    def _schema(self, schema: Any, path: str, resolver: Resolver) -> Any:
        """Returns a boolean, or a new dict with the keywords in the order of `schema`."""
        if schema is None:
            return {}
        if isinstance(schema, bool):
            return schema
        if isinstance(schema, str):  # {"city": "string"}
            schema = {"type": schema}
        if not isinstance(schema, Mapping):
            self._note(path, f"expected a schema, found {shown(schema)}; any value is accepted")
            return {}
        self._parts += 1
        self._depth += 1
        if self._inline and (self._parts > PART_LIMIT or self._depth > DEPTH_LIMIT):
            raise _TooLarge
        seconds_left()
        resolver = self._document.inside(schema, resolver)
        reference = next((schema[key] for key in REFERENCES if isinstance(schema.get(key), str)), None)
        if reference is not None:
            read = self._reference(reference, schema, path, resolver)
        else:
            read = self._keywords_of(schema, path, resolver)
        self._depth -= 1
        return _nullable(read) if schema.get("nullable") is True else read

    def _reference(self, reference: str, schema: Mapping[str, Any], path: str, resolver: Resolver) -> Any:
        target = self._document.resolve(reference, resolver)
        siblings = self._keywords_of(schema, path, resolver)
        if self._document.specification.name in _OLD_SIBLINGS:
            siblings = {key: value for key, value in siblings.items() if key in ANNOTATIONS}
        name = self._document.names.get(id(target.schema))
        if name is not None:
            return {"$ref": f"#/$defs/{name}" if name else "#", **siblings}
        definition = self._schema(target.schema, path, target.resolver)
        if not siblings:
            return definition
        if isinstance(definition, bool):
            definition = {} if definition else {"not": {}}
        return _both(definition, siblings)

    def _keywords_of(self, schema: Mapping[str, Any], path: str, resolver: Resolver) -> dict[str, Any]:
        read: dict[str, Any] = {}
        required: list[str] = []
        self._used |= schema.keys()
        for keyword, value in schema.items():
            if keyword in self._dropped or (value is None and keyword not in _MAY_BE_NULL and keyword in _KNOWN):
                continue
            if keyword == "type":
                self._type(value, read, path)
            elif keyword == "items":
                self._items(value, schema.get("additionalItems"), read, path, resolver)
            elif keyword in SCHEMA_KEYWORDS:
                self._inner(keyword, value, read, path, resolver)
            elif keyword in LIST_KEYWORDS:
                self._list(keyword, value, read, path, resolver)
            elif keyword in NAMED_KEYWORDS:
                required += self._named(keyword, value, read, path, resolver)
            elif keyword == "dependencies":
                self._dependencies(value, read, path, resolver)
            elif keyword in _KNOWN:
                self._constraint(keyword, value, schema, read, path)
            elif is_json(value):
                read[keyword] = value
        if required:
            given = read.get("required", [])
            read["required"] = [*given, *(name for name in required if name not in given)]
        if not self._in_condition:
            for note in resolve(read, is_root=not path):
                self._note(path, note)
        return read

    def _type(self, value: Any, read: dict[str, Any], path: str) -> None:
        kinds = value if isinstance(value, list) else [value]
        known = [TYPE_NAMES.get(kind.lower()) if isinstance(kind, str) else None for kind in kinds]
        unknown = [
            kind for kind, name in zip(kinds, known, strict=True) if name is None and str(kind).lower() not in _ANY
        ]
        if unknown:
            self._note(path, f"{shown(unknown[0])} is not a type; any value is accepted")
        if kinds and None not in known:
            read["type"] = list(dict.fromkeys(known)) if isinstance(value, list) else known[0]

    def _items(self, value: Any, rest: Any, read: dict[str, Any], path: str, resolver: Resolver) -> None:
        if not isinstance(value, list):
            self._inner("items", value, read, path, resolver)
            return
        # Before draft 2020-12, a list of schemas: one for each item, and `additionalItems` for the rest.
        if value:
            read["prefixItems"] = [self._schema(part, f"{path}[{i}]", resolver) for i, part in enumerate(value)]
        if rest is not None:
            read["items"] = self._schema(rest, f"{path}[]", resolver)

    def _inner(self, keyword: str, value: Any, read: dict[str, Any], path: str, resolver: Resolver) -> None:
        outside, self._in_condition = self._in_condition, self._in_condition or keyword in ("not", "if")
        read[keyword] = self._schema(value, f"{path}[]" if keyword == "items" else path, resolver)
        self._in_condition = outside

    def _list(self, keyword: str, value: Any, read: dict[str, Any], path: str, resolver: Resolver) -> None:
        if not isinstance(value, list):
            self._note(path, f"{keyword} is not a list, and is not checked")
        elif value:
            read[keyword] = [self._schema(part, path, resolver) for part in value]

    def _named(self, keyword: str, value: Any, read: dict[str, Any], path: str, resolver: Resolver) -> list[str]:
        """Returns the names that are required by a `required: true` of their own, as in draft 3."""
        if not isinstance(value, Mapping):
            self._note(path, f"{keyword} is not an object, and is not checked")
            return []
        required = []
        read[keyword] = {}
        for name, part in value.items():
            if keyword == "properties" and CONTROLS.search(name):
                raise SchemaError(f"the name of a parameter contains control characters: {name[:60]!a}")
            inner = f"{path}.{name}".removeprefix(".")
            schema = self._schema(part, inner, resolver)
            if isinstance(schema, bool):  # templates expect an object
                schema = {} if schema else {"not": {}}
            read[keyword][name] = schema
            if keyword == "properties" and isinstance(part, Mapping) and part.get("required") is True:
                required.append(name)
            if keyword == "patternProperties":
                self._pattern(name, path)
        return required

    def _dependencies(self, value: Any, read: dict[str, Any], path: str, resolver: Resolver) -> None:
        if not isinstance(value, Mapping):
            self._note(path, "dependencies is not an object, and is not checked")
            return
        names = {name: part for name, part in value.items() if is_list_of_names(part)}
        schemas = {name: part for name, part in value.items() if isinstance(part, Mapping)}
        if names:
            read["dependentRequired"] = names
        if schemas:
            read["dependentSchemas"] = {name: self._schema(part, path, resolver) for name, part in schemas.items()}

    # Constraints whose value is not a schema

    def _constraint(self, keyword: str, value: Any, schema: Mapping[str, Any], read: dict[str, Any], path: str) -> None:
        if keyword in ("exclusiveMinimum", "exclusiveMaximum") and isinstance(value, bool):
            # Draft 4: it says whether the bound beside it is exclusive.
            bound = schema.get(keyword.replace("exclusiveM", "m"))
            if value and is_number(bound):
                read[keyword] = bound
        elif keyword in ("minimum", "maximum") and schema.get(f"exclusive{keyword.capitalize()}") is True:
            if not is_number(value):
                self._note(path, f"{keyword} is {shown(value)}, and is not checked")
        elif keyword == "divisibleBy":  # draft 3
            self._constraint("multipleOf", value, schema, read, path)
        elif keyword == "required":
            self._required(value, read, path)
        elif keyword == "pattern" and isinstance(value, str):
            read[keyword] = pattern = without_slashes(value) if self._check_patterns else value
            if pattern != value:
                self._note(path, f"the pattern {value!r} is read as {pattern!r}")
            self._pattern(pattern, path)
        elif is_valid(keyword, value):
            read[keyword] = value
        else:
            self._note(path, f"{keyword} is {shown(value)}, and is not checked")

    def _required(self, value: Any, read: dict[str, Any], path: str) -> None:
        if isinstance(value, bool):  # of draft 3; `_named` reads it
            return
        names = [value] if isinstance(value, str) else value
        if not is_list_of_names(names):
            self._note(path, f"required is {shown(value)}, and is not checked")
        else:
            read["required"] = list(dict.fromkeys(names))

    def _pattern(self, pattern: str, path: str) -> None:
        self._patterns.add(pattern)
        if len(self._patterns) > PATTERN_LIMIT:
            raise SchemaError(f"it contains more than {PATTERN_LIMIT} patterns")
        seconds_left()
        if self._check_patterns and (problem := pattern_problem(pattern)):
            self._note(path, f"the pattern {pattern!r} is not checked: {problem}")


_KNOWN = frozenset(
    {"type", "enum", "const", "required", "pattern", "uniqueItems", "dependentRequired", "divisibleBy", "dependencies",
     *ANNOTATIONS, *COUNTS, *BOUNDS, *SCHEMA_KEYWORDS, *LIST_KEYWORDS, *NAMED_KEYWORDS}
)  # a table  # fmt: skip


def _nullable(schema: Any) -> Any:
    """`schema`, or null: OpenAPI 3.0 writes it as `nullable: true`."""
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema or "allOf" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    widened = dict(schema)
    if isinstance(kind := schema.get("type"), str):
        widened["type"] = [kind, "null"] if kind != "null" else kind
    elif isinstance(kind, list):
        widened["type"] = [*kind, *(["null"] if "null" not in kind else [])]
    if "enum" in schema and None not in schema["enum"]:
        widened["enum"] = [*schema["enum"], None]
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema and {"type": "null"} not in schema[keyword]:
            widened[keyword] = [*schema[keyword], {"type": "null"}]
    return widened


def _both(definition: dict[str, Any], siblings: dict[str, Any]) -> dict[str, Any]:
    """A definition, with the annotations and further constraints beside the reference to it."""
    annotations = {key: value for key, value in siblings.items() if key in ANNOTATIONS or key not in _KNOWN}
    further = {key: value for key, value in siblings.items() if key not in annotations}
    if not definition.keys() - ANNOTATIONS:
        return {**definition, **siblings}
    if all(key in definition and definition[key] == value for key, value in further.items()):
        return {**definition, **annotations}
    return {**definition, **annotations, "allOf": [*definition.get("allOf", []), further]}


def _without(schema: Any, keyword: str) -> Any:
    if isinstance(schema, dict):
        return {key: _without(value, keyword) for key, value in schema.items() if key != keyword}
    return [_without(part, keyword) for part in schema] if isinstance(schema, list) else schema
