"""The Jinja environment of chat templates: as in transformers (sandboxed, blocks trimmed), but without importing it."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from typing import Any, NoReturn

import jinja2
import jinja2.meta
import jinja2.nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mentor_edge.errors import StudentError

GIVEN = ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token")
"""The variables that every template is rendered with."""

_ASKS = ("defined", "undefined", "default", "d")
"""Jinja's tests and filters about variables that may be missing."""


class _GenerationTag(Extension):
    """Accept `{% generation %}` blocks, with which training templates mark assistant text, and render their content."""

    tags = {"generation"}  # noqa: RUF012 (Jinja declares it as an instance attribute)

    def parse(self, parser: jinja2.parser.Parser) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    # Jinja's own filter escapes HTML characters; templates expect plain JSON, as transformers renders it.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return environment


def compiled(source: str, name: str) -> jinja2.Template:
    """The compiled template. Raises: StudentError, with its `name`, when the source is not valid Jinja."""
    try:
        return _environment().from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise StudentError(f"the chat template {name!r} is not valid Jinja: {error} (line {error.lineno})") from error
    except Exception as error:  # Jinja compiles to Python, which has limits of its own (nesting)
        raise StudentError(f"the chat template {name!r} cannot be compiled: {type(error).__name__}: {error}") from error


def variables(source: str) -> frozenset[str]:
    """The variables that a template reads, besides those that it is always rendered with and those that it only sets.

    Raises: jinja2.TemplateSyntaxError.
    """
    environment = _environment()
    tree = environment.parse(source)
    read = jinja2.meta.find_undeclared_variables(tree) - set(GIVEN) - environment.globals.keys()
    # `find_undeclared_variables` also reports what is set in a branch or a loop and read there. A variable that the
    # template sets counts only if the template asks whether it is defined.
    assigned = {name.name for name in tree.find_all(jinja2.nodes.Name) if name.ctx == "store"}
    asked = {
        node.node.name
        for node in (*tree.find_all(jinja2.nodes.Test), *tree.find_all(jinja2.nodes.Filter))
        if node.name in _ASKS and isinstance(node.node, jinja2.nodes.Name)
    }
    return frozenset(read - (assigned - asked))


def is_global(name: str) -> bool:
    """Whether Jinja or transformers gives every template a function or class of this name."""
    return name in _environment().globals
