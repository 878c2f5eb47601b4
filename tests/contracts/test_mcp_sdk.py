"""What mentor_edge.tools.mcp relies on in the mcp package.

Upstream files: `mcp/client/stdio.py`, `mcp/client/session.py`, `mcp/shared/jsonrpc_dispatcher.py`.
"""

from __future__ import annotations

import sys
from typing import Any

import anyio
import mcp
import pytest
from mcp.client import stdio
from mcp.shared.message import SessionMessage

from mentor_edge.tools.mcp.connection import _is_closed
from mentor_edge.tools.mcp.server_supervisor import GRACE_SECONDS


def test_a_closed_transport_is_the_error_that_we_recognize():
    """`_is_closed` compares code and message: servers may use the code alone for errors of their own."""

    async def call_after_the_end() -> Exception:
        to_client, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](1)
        to_server, from_client = anyio.create_memory_object_stream[SessionMessage](1)
        async with from_client, mcp.ClientSession(from_server, to_server) as session:
            await to_client.aclose()
            with pytest.raises(mcp.MCPError) as caught:
                await session.initialize()
            return caught.value

    assert _is_closed(anyio.run(call_after_the_end))
    assert not _is_closed(mcp.MCPError(code=mcp.types.CONNECTION_CLOSED, message="out of cheese"))


def test_a_command_inherits_a_few_variables_and_malformed_lines_arrive_as_exceptions(monkeypatch):
    """`Endpoint.environment` adds to these variables; `Connection._filter` counts the exceptions."""
    monkeypatch.setenv("MY_API_KEY", "secret")
    code = "import os; print('not JSON'); print(sorted(os.environ.keys() - {'LC_CTYPE'}))"

    async def two_lines() -> list[Any]:
        parameters = mcp.StdioServerParameters(command=sys.executable, args=["-I", "-c", code])
        async with stdio.stdio_client(parameters) as (read, _):
            return [await read.receive(), await read.receive()]

    lines = anyio.run(two_lines)
    assert all(isinstance(line, Exception) for line in lines)
    assert "'PATH'" in str(lines[1]) and "MY_API_KEY" not in str(lines[1])


def test_a_server_has_time_to_end_before_mcp_kills_its_supervisor():
    assert GRACE_SECONDS < stdio.PROCESS_TERMINATION_TIMEOUT
