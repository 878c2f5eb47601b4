"""The Jinja environment of chat templates: as in transformers (sandboxed, blocks trimmed), but without importing it.

Templates of others are compiled and rendered in a child process only (`render_worker`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache, cached_property
from typing import Any, NoReturn

import jinja2
import jinja2.meta
import jinja2.nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from mentor_edge.chat.limits import MEMORY, OUTPUT

_ASKS = ("defined", "undefined", "default", "d")
"""Jinja's tests and filters about variables that may be missing."""


class _GenerationTag(Extension):
    """Accept `{% generation %}` blocks, with which training templates mark assistant text, and render their content."""

    tags = {"generation"}  # noqa: RUF012 (Jinja declares it as an instance attribute)

    def parse(self, parser: jinja2.parser.Parser) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """Jinja's namespace without attributes such as `__class__`, which would lead out of the sandbox."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *given = args
        attributes = dict(*given, **kwargs)
        for name in attributes:
            _check_attribute(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: Any) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace cannot have the attribute {name!r}")


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    # Jinja's own filter escapes HTML characters; templates expect plain JSON, as transformers renders it.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


@cache
def environment() -> ImmutableSandboxedEnvironment:
    """The environment that all templates share."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    made.globals["namespace"] = _Namespace
    return made


class Fault(Exception):
    """Why a template cannot be used: the stage ("read", "compiled" or "rendered"), and the reason."""


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Turn whatever happens at a stage into a `Fault`: a template may raise anything."""
    try:
        yield
    except MemoryError as error:
        raise Fault(name, f"it takes more than {MEMORY >> 20} MiB of memory") from error
    except jinja2.TemplateSyntaxError as error:
        raise Fault("read", f"{error} (line {error.lineno})") from error
    except Exception as error:  # TypeError, RecursionError, SecurityError ...
        own = type(error) is jinja2.TemplateError
        raise Fault(name, str(error) if own else f"{type(error).__name__}: {error}") from error


class Template:
    """A template. Its methods raise `Fault`."""

    def __init__(self, source: str) -> None:
        self._source = source

    @cached_property
    def _code(self) -> jinja2.Template:
        with stage("compiled"):
            return environment().from_string(self._source)

    def check(self) -> None:
        """Compile it."""
        _ = self._code

    def variables(self) -> list[str]:
        """The variables that it reads, besides functions and those that it only sets."""
        with stage("read"):
            return _variables(self._source)

    def render(self, values: Mapping[str, Any]) -> str:
        """The text that it writes."""
        parts, length = [], 0
        code = self._code
        with stage("rendered"):
            for part in code.generate(values):
                parts.append(part)
                length += len(part)
                if length > OUTPUT:
                    raise ValueError(f"it writes more than {OUTPUT:,} characters")
            return "".join(parts)


def _variables(source: str) -> list[str]:
    tree = environment().parse(source)
    read = jinja2.meta.find_undeclared_variables(tree) - environment().globals.keys()
    # `find_undeclared_variables` also reports what is set in a branch or a loop and read there. A variable that the
    # template sets counts only if the template asks whether it is defined.
    assigned = {name.name for name in tree.find_all(jinja2.nodes.Name) if name.ctx == "store"}
    asked = {
        node.node.name
        for node in (*tree.find_all(jinja2.nodes.Test), *tree.find_all(jinja2.nodes.Filter))
        if node.name in _ASKS and isinstance(node.node, jinja2.nodes.Name)
    }
    return sorted(read - (assigned - asked))
