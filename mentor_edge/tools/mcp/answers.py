"""Makes the answers of servers acceptable to mcp's session.

mcp's models refuse a whole list of tools because of one tool, and a whole result because of one part. Here such answers
are rewritten before the session reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCRequest, JSONRPCResponse

from mentor_edge.tools.mcp.results import readable_result


class Answers:
    """The answers to requests, each read by what its request asked for."""

    def __init__(self) -> None:
        self.listed: list[Any] = []
        """The tools of the last page, as the server wrote them."""
        self._methods: dict[Any, str] = {}

    def expect(self, request: JSONRPCRequest) -> None:
        """Remember a request that is being sent."""
        self._methods[request.id] = request.method

    def make_readable(self, answer: JSONRPCResponse) -> None:
        """Rewrite the result of a call, or a list of tools."""
        identifier: Any = answer.id
        if identifier not in self._methods and isinstance(identifier, str) and identifier.isdecimal():
            identifier = int(identifier)  # mcp accepts it, too
        match self._methods.pop(identifier, None):
            case "tools/call":
                answer.result = readable_result(answer.result)
            case "tools/list" if isinstance(answer.result.get("tools"), list):
                self.listed = answer.result["tools"]
                named = [tool for tool in self.listed if isinstance(tool, dict) and isinstance(tool.get("name"), str)]
                answer.result = {**answer.result, "tools": [_for_session(tool) for tool in named]}


class Outbox:
    """The stream to the server, as mcp's session uses it."""

    def __init__(self, stream: Any, answers: Answers) -> None:
        self._stream = stream
        self._answers = answers

    async def send(self, item: SessionMessage) -> None:
        """Send a message."""
        if isinstance(item.message, JSONRPCRequest):
            self._answers.expect(item.message)
        await self._stream.send(item)

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()


def _for_session(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as mcp's session has to know it: properties name headers, and no output schema must refuse a result."""
    schema = tool.get("inputSchema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or not all(isinstance(part, dict) for part in properties.values()):
        properties = {}
    return {"name": tool["name"], "inputSchema": {"type": "object", "properties": properties}}
