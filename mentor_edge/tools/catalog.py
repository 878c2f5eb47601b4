"""Loads tools by the specs that configurations and commands use.

| in YAML | on the command line | tools |
|---|---|---|
| `calculator`, or the name of one of its tools | the same | the twelve calculator tools, or that one |
| `python` | the same | runs code that the model writes; never offered unless you name it |
| `{mcp: "python server.py"}`, `{mcp: "http://127.0.0.1:8000/mcp"}` | `"mcp:python server.py"` | an MCP server's |
| `{search: corpus.jsonl}` | `search:corpus.jsonl` | `search` in a local corpus |
| `{import: "package.module:name"}`, `{import: "file.py:name"}` | `import:file.py:name` | a `Tool`, function or class |

Beside `mcp`, these keys are known:

- `only: [add, subtract]` or `except: [delete_all]` chooses tools of the server.
- `env` sets environment variables of a command: a mapping, or a list of names whose values it inherits.
- `headers: {Authorization: MY_VARIABLE}` sends headers to a URL. The values are those of environment variables.

On the command line, a spec that starts with `{` is such a mapping in YAML: `--tools '{mcp: "python server.py", only:
[add]}'`. Names without a target may share one spec, separated by commas: `add,subtract`.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mentor_edge.errors import ConfigError, MentorEdgeError
from mentor_edge.imports import import_object
from mentor_edge.tools.calculator import CALCULATOR
from mentor_edge.tools.definition import tool, tool_set
from mentor_edge.tools.specs import Source, ToolSpec, parsed, separated
from mentor_edge.tools.types import Tool

_CALCULATOR_TOOLS = {tool.name: tool for tool in CALCULATOR}


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

    Tools of a server that cannot be used are left out, with a `MentorEdgeWarning` each.

    Raises: ConfigError with all mistakes: unknown specs, what could not be started, imported or opened and why, two
    tools with the same name. Servers that were started are ended first.
    """
    problems: list[str] = []
    origins: dict[str, Source] = {}
    tools: list[Tool] = []
    with ExitStack() as servers:
        for spec in separated(specs):
            try:
                source = parsed(spec)
                loaded = _open(source, servers)
            except ValueError as error:
                problems.append(f"tools: {error}")
                continue
            except MentorEdgeError as error:
                reason = "; ".join(" ".join(part.split()) for part in (error.problem, error.hint) if part)
                problems.append(f"tools: {source}: {reason}")
                continue
            for name in (tool.name for tool in loaded):
                if name in origins:
                    choose = "; choose with only or except" if "mcp" in (source.kind, origins[name].kind) else ""
                    problems.append(f"tools: {name!r} comes from {origins[name]} and from {source}{choose}")
                origins.setdefault(name, source)
            tools += loaded
        if problems:
            raise ConfigError(problems)
        return ToolBox(tuple(sorted(tools, key=lambda tool: tool.name)), servers.pop_all())


def spec_mistakes(specs: Sequence[ToolSpec]) -> list[str]:
    """Check how `specs` are written, without starting or importing anything."""
    problems = []
    for spec in separated(specs):
        try:
            parsed(spec)
        except ValueError as error:
            problems.append(str(error))
    return problems


def _open(source: Source, servers: ExitStack) -> Sequence[Tool]:
    return _OPENERS[source.kind](source, servers) if source.kind in _OPENERS else (_CALCULATOR_TOOLS[source.kind],)


# Each kind ------------------------------------------------------------------------------------------------------------


def _calculator(source: Source, servers: ExitStack) -> Sequence[Tool]:
    return CALCULATOR


def _python(source: Source, servers: ExitStack) -> Sequence[Tool]:
    from mentor_edge.tools.python_code import python_tool

    return (python_tool(),)


def _server(source: Source, servers: ExitStack) -> Sequence[Tool]:
    from mentor_edge.tools.mcp.client import McpServer

    headers = {header: os.environ[variable] for header, variable in source.headers.items()}
    server = McpServer(
        source.target, environment=source.env, headers=headers, only=source.only, excluded=source.excluded
    )
    servers.callback(server.close)
    return server.tools()


def _corpus(source: Source, servers: ExitStack) -> Sequence[Tool]:
    from mentor_edge.tools.retrieval import Corpus, search_tool

    return (search_tool(Corpus.open(Path(source.target))),)


def _imported(source: Source, servers: ExitStack) -> Sequence[Tool]:
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


_OPENERS: Mapping[str, Callable[[Source, ExitStack], Sequence[Tool]]] = {
    "calculator": _calculator,
    "python": _python,
    "mcp": _server,
    "search": _corpus,
    "import": _imported,
}
