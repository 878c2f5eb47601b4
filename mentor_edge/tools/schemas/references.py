"""References between the parts of one JSON Schema document. Nothing is ever fetched."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple

from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, Schema, specification_with

from mentor_edge.tools.schemas.time_limit import seconds_left

REFERENCES = ("$ref", "$recursiveRef", "$dynamicRef")

SCHEMA_KEYWORDS = frozenset(
    {"additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then",
     "unevaluatedItems", "unevaluatedProperties"}
)  # a table  # fmt: skip
"""Keywords whose value is a schema."""
LIST_KEYWORDS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
"""Keywords whose value is a list of schemas; `items` was one before draft 2020-12."""
NAMED_KEYWORDS = frozenset({"properties", "patternProperties", "dependentSchemas"})
"""Keywords whose value contains schemas by name."""
IN_PLACE = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies"})
"""Keywords whose schemas apply to the same value as the schema that contains them."""

PART_LIMIT = 10_000
"""How many schemas a document may contain."""

DEFINITION_LIMIT = 1_000
"""How many of them references may point to."""

Resolver = Any
"""referencing's, whose type is private; None for that of the whole document."""


class SchemaError(ValueError):
    """A schema cannot be used. The text completes a sentence about it."""


class Target(NamedTuple):
    """What a reference points to."""

    schema: Any
    resolver: Resolver
    """Resolves the references inside."""


class Document:
    """A schema and the definitions it refers to.

    Raises: SchemaError when a reference cannot be resolved, when the schema refers to itself without end (the same
    value would be checked against the same schema again), or when it is too large.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root = {key: root[key] for key in root if key not in ("$id", "id") or isinstance(root[key], str)}
        declared = root.get("$schema")
        self.specification = specification_with(_known_dialect(declared), DRAFT202012) if declared else DRAFT202012
        self.names: dict[int, str] = {}
        """Names under `$defs` of the schemas that refer to themselves, by identity; "" is the root."""
        self._names_of_targets: dict[int, str] = {id(root): ""}
        self._targets: dict[int, Target] = {}
        self._edges: dict[int, dict[int, bool]] = {}
        self._parts = 0
        self._explore(root, None)
        if self._in_cycles(in_place=True):
            raise SchemaError("it refers to itself without end")
        self.keep(self._in_cycles())

    @cached_property
    def _root_resolver(self) -> Any:
        """Made when it is needed: most schemas contain no references."""
        resource = self.specification.create_resource(self.root)
        try:
            identifier = resource.id() or ""
            registry = Registry[Schema]().with_resource(identifier, resource)
        except ValueError as error:
            raise SchemaError(f"its identifier cannot be read: {error}") from None
        with suppress(AttributeError, LookupError, TypeError, ValueError):  # malformed definitions
            registry = registry.crawl()  # once, and not for every reference
        return registry.resolver(identifier)

    def resolve(self, reference: str, resolver: Resolver) -> Target:
        """Raises: SchemaError when the document does not contain what `reference` names."""
        try:
            found = (resolver or self._root_resolver).lookup(reference)
        except (Unresolvable, AttributeError, LookupError, TypeError, ValueError):  # also malformed definitions
            raise SchemaError(f"the reference {reference!r} cannot be resolved") from None
        if not isinstance(found.contents, Mapping | bool):
            raise SchemaError(f"the reference {reference!r} does not point to a schema")
        return Target(found.contents, found.resolver)

    def inside(self, schema: Mapping[str, Any], resolver: Resolver) -> Resolver:
        """The resolver for what `schema` contains: an identifier changes the base of references."""
        if schema is self.root or not isinstance(schema.get("$id", schema.get("id")), str):
            return resolver
        try:
            return (resolver or self._root_resolver).in_subresource(self.specification.create_resource(schema))
        except (AttributeError, TypeError, ValueError):
            return resolver

    def keep(self, nodes: Sequence[int] | None = None) -> None:
        """Give names to definitions, so that references to them stay. None: to all."""
        for node in self._edges if nodes is None else nodes:
            if node not in self.names:
                self.names[node] = self._names_of_targets[node]

    def definition(self, node: int) -> Target:
        """A schema that has a name."""
        return self._targets[node]

    def _explore(self, schema: Mapping[str, Any], resolver: Resolver) -> None:
        waiting = [(schema, resolver)]
        self._edges[id(schema)] = {}
        while waiting:
            node, resolver = waiting.pop()
            for reference, inner, in_place in self._references(node, self.inside(node, resolver), True):
                seconds_left()
                target = self.resolve(reference, inner)
                if not isinstance(target.schema, Mapping):
                    continue
                key = id(target.schema)
                edges = self._edges[id(node)]
                edges[key] = edges.get(key, False) or in_place
                if key not in self._edges:
                    if len(self._targets) == DEFINITION_LIMIT:
                        raise SchemaError(f"it refers to more than {DEFINITION_LIMIT} definitions")
                    self._edges[key] = {}
                    self._targets[key] = target
                    self._names_of_targets[key] = self._new_name(reference)
                    waiting.append((target.schema, target.resolver))

    def _references(self, schema: Any, resolver: Resolver, in_place: bool) -> Iterator[tuple[str, Resolver, bool]]:
        """The references in `schema`, and whether each applies to the same value as `schema` itself."""
        self._parts += 1
        if self._parts > PART_LIMIT:
            raise SchemaError(f"it contains more than {PART_LIMIT} schemas")
        resolver = self.inside(schema, resolver)
        for keyword in REFERENCES:
            if isinstance(schema.get(keyword), str):
                yield schema[keyword], resolver, in_place
        for keyword, child in children(schema):
            yield from self._references(child, resolver, in_place and keyword in IN_PLACE)

    def _in_cycles(self, in_place: bool = False) -> list[int]:
        """The nodes from which references lead back to them. `in_place`: by references that apply to the same value."""
        bit = {node: 1 << index for index, node in enumerate(self._edges)}
        reached = {  # as sets of bits; Warshall's algorithm
            node: sum(bit[target] for target, same_value in edges.items() if same_value or not in_place)
            for node, edges in self._edges.items()
        }
        for middle in self._edges:
            for node in self._edges:
                if reached[node] & bit[middle]:
                    reached[node] |= reached[middle]
        return [node for node in self._edges if reached[node] & bit[node]]

    def _new_name(self, reference: str) -> str:
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", reference.rpartition("/")[2].rpartition("#")[2]).strip("_") or "schema"
        used = set(self._names_of_targets.values())
        return next(name for name in (plain, *(f"{plain}_{n}" for n in range(2, len(used) + 3))) if name not in used)


def children(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The schemas directly inside `schema`, with their keywords. Boolean and malformed ones are left out."""
    for keyword, value in schema.items():
        inner: list[Any] = []
        if keyword in NAMED_KEYWORDS or keyword == "dependencies":
            inner = list(value.values()) if isinstance(value, Mapping) else []
        elif keyword in LIST_KEYWORDS or keyword in SCHEMA_KEYWORDS:
            inner = value if isinstance(value, list) else [value]
        yield from ((keyword, child) for child in inner if isinstance(child, Mapping))


def _known_dialect(declared: Any) -> str:
    """The identifier of a dialect as `referencing` spells it. Authors add and forget `#`, `/` and the s of https."""
    text = declared.rstrip("#/") if isinstance(declared, str) else ""
    host, _, path = text.partition("://")[2].partition("/")
    old = path.startswith("draft-0")
    return f"http://{host}/{path}#" if old else f"https://{host}/{path}"
