"""Which of the tools that a server lists are offered to the model.

One tool that cannot be used leaves the others usable. It is left out, and the caller says so.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NoReturn

from mentor_edge.errors import ToolDefinitionError, did_you_mean
from mentor_edge.readable import one_line
from mentor_edge.rows import shown
from mentor_edge.tools.types import Tool

_NAME = re.compile(r"[A-Za-z0-9_./-]{1,128}")


@dataclass(frozen=True, slots=True)
class Choice:
    """The tools that the user chose by name."""

    only: tuple[str, ...] | None = None
    """None: all."""
    excluded: tuple[str, ...] = ()

    def includes(self, name: str) -> bool:
        """Whether a tool is wanted."""
        return name not in self.excluded and (self.only is None or name in self.only)


@dataclass(frozen=True, slots=True)
class Offer:
    """What became of the tools of a server."""

    tools: tuple[Tool, ...]
    left_out: tuple[str, ...]
    """The reason why a tool is not among them, one each."""
    mistakes: tuple[str, ...]
    """What is wrong with the choice: unknown names, and tools asked for by name that cannot be used."""


def offered_tools(
    listed: Sequence[Any],
    refused: Container[str],
    choice: Choice,
    start: Callable[[str, Mapping[str, Any], float], Future[str]],
) -> Offer:
    """Make tools of what a server `listed`.

    `refused` are names that mcp's session does not call. `start` starts a call: (name, arguments, seconds).
    """
    tools: dict[str, Tool] = {}
    left_out: list[tuple[str | None, str]] = []
    names: list[str] = []
    for entry in listed:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            left_out.append((None, f"a tool without a name: {shown(entry)}"))
            continue
        names.append(name)
        if not choice.includes(name):
            continue
        if not _NAME.fullmatch(name):
            left_out.append(
                (name, f"tool {one_line(name, 100)!r}: a name has 1 to 128 ASCII letters, digits and _ - . /")
            )
        elif name in tools:
            left_out.append((name, f"tool {name!r}: it is listed twice, and the first is used"))
        elif name in refused:
            left_out.append((name, f"tool {name!r}: its x-mcp-header annotations are invalid"))
        else:
            try:
                tools[name] = _tool(name, entry, start)
            except ToolDefinitionError as error:
                left_out.append((name, error.problem))
    asked_for = choice.only or ()
    mistakes = [
        f"there is no tool {one_line(name, 100)!r}{did_you_mean(name, names)}"
        for name in (*asked_for, *choice.excluded)
        if name not in names
    ]
    mistakes += [reason for name, reason in left_out if name in asked_for and name not in tools]
    reasons = tuple(dict.fromkeys(reason for _, reason in left_out))
    return Offer(tuple(tools.values()), reasons, tuple(mistakes))


def _tool(name: str, entry: Mapping[str, Any], start: Callable[..., Future[str]]) -> Tool:
    texts = [entry.get(key) for key in ("description", "title")]
    description = next((text for text in texts if isinstance(text, str)), "")
    remote = functools.partial(start, name)
    return Tool(name, description, entry.get("inputSchema"), _runs_on_the_server, remote=remote)  # type: ignore[arg-type]


def _runs_on_the_server(**arguments: Any) -> NoReturn:
    raise NotImplementedError("an MCP server runs this tool")
