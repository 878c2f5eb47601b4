"""Loads tools by the specs that configurations and commands use.

| in YAML | on the command line | tools |
|---|---|---|
| `calculator`, or the name of one of its tools | the same | the twelve calculator tools, or that one |
| `python` | the same | runs code that the model writes; never offered unless you name it |
| `{mcp: "python server.py"}`, `{mcp: "http://127.0.0.1:8000/mcp"}` | `"mcp:python server.py"` | an MCP server's |
| `{search: corpus.jsonl}` | `search:corpus.jsonl` | `search` in a local corpus |
| `{import: "package.module:name"}`, `{import: "file.py:name"}` | `import:file.py:name` | a `Tool`, function or class |

`{mcp: ..., env: ...}` sets environment variables of the server: a mapping, or a list of names whose values it inherits.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mentor_edge.errors import ConfigError, MentorEdgeError, did_you_mean
from mentor_edge.imports import import_object
from mentor_edge.tools.calculator import CALCULATOR
from mentor_edge.tools.definition import tool, tool_set
from mentor_edge.tools.types import Tool

ToolSpec = str | Mapping[str, Any]
"""Specifies where tools come from; the table above lists the forms."""

_CALCULATOR = {tool.name: tool for tool in CALCULATOR}


@dataclass(frozen=True)
class ToolBox:
    """Loaded tools, and the servers behind them.

    Use it as a context manager, or call `close`. After that the tools of servers no longer work.
    """

    tools: tuple[Tool, ...]
    """In alphabetical order, as the agent offers them."""
    _servers: ExitStack = field(default_factory=ExitStack, repr=False)

    @cached_property
    def by_name(self) -> dict[str, Tool]:
        """The tools by their names."""
        return {tool.name: tool for tool in self.tools}

    def close(self) -> None:
        """End the servers."""
        self._servers.close()

    def __enter__(self) -> ToolBox:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def load_tools(specs: Sequence[ToolSpec]) -> ToolBox:
    """Load the tools of all `specs`: start servers, import modules, open corpora.

    Raises: ConfigError with all mistakes: unknown specs, what could not be started, imported or opened and why, two
    tools with the same name. Servers that were started are ended first.
    """
    problems: list[str] = []
    origins: dict[str, str] = {}
    tools: list[Tool] = []
    with ExitStack() as servers:
        for spec in specs:
            try:
                source = _parsed(spec)
                loaded = source.open(servers)
            except ValueError as error:
                problems.append(f"tools: {error}")
                continue
            except MentorEdgeError as error:
                reason = "; ".join(" ".join(part.split()) for part in (error.problem, error.hint) if part)
                problems.append(f"tools: {source}: {reason}")
                continue
            for name in (tool.name for tool in loaded):
                if name in origins:
                    problems.append(f"tools: {name!r} comes from {origins[name]} and from {source}")
                origins.setdefault(name, str(source))
            tools += loaded
        if problems:
            raise ConfigError(problems)
        return ToolBox(tuple(sorted(tools, key=lambda tool: tool.name)), servers.pop_all())


def spec_mistakes(specs: Sequence[ToolSpec]) -> list[str]:
    """Check how `specs` are written, without starting or importing anything."""
    problems = []
    for spec in specs:
        try:
            _parsed(spec)
        except ValueError as error:
            problems.append(str(error))
    return problems


@dataclass(frozen=True, slots=True)
class _Source:
    kind: str
    target: str = ""
    env: Mapping[str, str] = field(default_factory=dict)

    def open(self, servers: ExitStack) -> Sequence[Tool]:
        return _OPENERS[self.kind](self, servers) if self.kind in _OPENERS else (_CALCULATOR[self.kind],)

    def __str__(self) -> str:
        return f"{self.kind}:{self.target}" if self.target else self.kind


_PLAIN = ("calculator", "python", *_CALCULATOR)
_WITH_TARGET = ("mcp", "search", "import")


def _parsed(spec: ToolSpec) -> _Source:
    if isinstance(spec, str):
        kind, _, target = spec.partition(":")
        if kind in _WITH_TARGET and target.strip():
            return _Source(kind, target.strip())
        if spec in _PLAIN:
            return _Source(spec)
        if kind in _WITH_TARGET:
            raise ValueError(f"{spec!r} needs a target: {kind}:...")
        forms = [f"{name}:..." for name in _WITH_TARGET]
        raise ValueError(f"{spec!r} is not a tool{did_you_mean(spec, [*_PLAIN, *forms])}")
    if not isinstance(spec, Mapping):
        raise ValueError(f"{spec!r} is neither text nor a mapping")
    named = [key for key in spec if key in _WITH_TARGET]
    unknown = [str(key) for key in spec if key not in (*_WITH_TARGET, "env")]
    if unknown:
        raise ValueError(f"{spec!r}: unknown key {unknown[0]!r}{did_you_mean(unknown[0], [*_WITH_TARGET, 'env'])}")
    if len(named) != 1 or ("env" in spec and named != ["mcp"]):
        raise ValueError(f"{spec!r} must have one of the keys {', '.join(_WITH_TARGET)} (and env, if any, with mcp)")
    target = spec[named[0]]
    if not isinstance(target, str) or not target.strip():
        raise ValueError(f"{spec!r}: {named[0]} must be text, got {target!r}")
    return _Source(named[0], target.strip(), _environment(spec.get("env", {})))


def _environment(env: Any) -> dict[str, str]:
    if isinstance(env, Mapping) and all(isinstance(key, str) and isinstance(env[key], str) for key in env):
        return dict(env)
    if not isinstance(env, Sequence) or isinstance(env, str) or not all(isinstance(name, str) for name in env):
        raise ValueError(f"env must be a list of names or a mapping of names to text, got {env!r}")
    if missing := [name for name in env if name not in os.environ]:
        raise ValueError(f"env: not set here: {', '.join(missing)}")
    return {name: os.environ[name] for name in env}


# Each kind ------------------------------------------------------------------------------------------------------------


def _calculator(source: _Source, servers: ExitStack) -> Sequence[Tool]:
    return CALCULATOR


def _python(source: _Source, servers: ExitStack) -> Sequence[Tool]:
    from mentor_edge.tools.python_code import python_tool

    return (python_tool(),)


def _server(source: _Source, servers: ExitStack) -> Sequence[Tool]:
    from mentor_edge.tools.mcp.client import McpServer

    server = McpServer(source.target, environment=source.env)
    servers.callback(server.close)
    return server.tools()


def _corpus(source: _Source, servers: ExitStack) -> Sequence[Tool]:
    from mentor_edge.tools.retrieval import Corpus, search_tool

    return (search_tool(Corpus.open(Path(source.target))),)


def _imported(source: _Source, servers: ExitStack) -> Sequence[Tool]:
    if ":" not in source.target:
        raise ValueError(f"{source}: write import:package.module:name or import:file.py:name")
    try:
        imported = import_object(source.target)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    if isinstance(imported, Tool):
        return (imported,)
    if inspect.isclass(imported):
        return tool_set(imported)
    if callable(imported):
        return (tool(imported),)
    raise ValueError(f"{source}: expected a Tool, a function or a class, found {type(imported).__name__}")


_OPENERS: Mapping[str, Callable[[_Source, ExitStack], Sequence[Tool]]] = {
    "calculator": _calculator,
    "python": _python,
    "mcp": _server,
    "search": _corpus,
    "import": _imported,
}
