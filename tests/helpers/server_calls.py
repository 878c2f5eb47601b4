"""Starting MCP servers and calling their tools, for tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from helpers.paths import SERVERS
from mentor_edge.tools.mcp.client import McpServer
from mentor_edge.tools.types import Tool, ToolFailure

LONG = 30.0  # seconds; passes only when something is broken


def server(script: str, *arguments: str, **options: Any) -> McpServer:
    return McpServer([sys.executable, str(SERVERS / script), *arguments], name=script, **options)


@contextmanager
def http_server(port: int = 0) -> Iterator[int]:
    command = [sys.executable, str(SERVERS / "good.py"), "--http", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def named(opened: McpServer) -> dict[str, Tool]:
    return {tool.name: tool for tool in opened.tools()}


def call(tool: Tool, timeout: float = LONG, /, **arguments: Any) -> str:
    assert tool.remote is not None
    return tool.remote(arguments, timeout).result(2 * LONG)


def failure(tool: Tool, timeout: float = LONG, /, **arguments: Any) -> str:
    with pytest.raises(ToolFailure) as caught:
        call(tool, timeout, **arguments)
    return str(caught.value)
