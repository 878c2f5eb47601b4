"""Makes the answers of servers acceptable to mcp's session.

mcp's models refuse a whole list of tools because of one tool, a whole result because of one part, and a server because
of its version. Here such answers are rewritten before the session reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

import pydantic
from mcp.shared.message import SessionMessage
from mcp_types import INTERNAL_ERROR, ErrorData, JSONRPCError, JSONRPCRequest, JSONRPCResponse, jsonrpc_message_adapter

from mentor_edge.tools.mcp.nesting import shallow
from mentor_edge.tools.mcp.results import readable_result

_MOST_TOOLS = 1_000


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
        """Rewrite the result of a call, a list of tools, or what a server says about itself."""
        identifier: Any = answer.id
        if identifier not in self._methods and isinstance(identifier, str) and identifier.isdecimal():
            identifier = int(identifier)  # mcp accepts it, too
        match self._methods.pop(identifier, None):
            case "tools/call":
                answer.result = readable_result(answer.result)
            case "initialize" if "protocolVersion" in answer.result:
                answer.result = _introduction(answer.result)
            case "tools/list" if isinstance(answer.result.get("tools"), list):
                self.listed = answer.result["tools"]
                few = self.listed[:_MOST_TOOLS]  # of more, all are refused, and the session would read them for long
                named = [tool for tool in few if isinstance(tool, dict) and isinstance(tool.get("name"), str)]
                answer.result = {**answer.result, "tools": [_for_session(tool) for tool in named]}


def repaired(refusal: Exception) -> SessionMessage | None:
    """The answer that mcp could not read because of its envelope or its depth, or None if it was not an answer.

    Envelopes that mcp refuses are errors without a message or with a text as their code, results that are not objects,
    and a missing `jsonrpc`. Left out, the caller would wait in vain.
    """
    if not isinstance(refusal, pydantic.ValidationError):
        return None
    refused = refusal.errors()[0]
    if refused["type"] == "json_invalid" and "recursion limit" in refused["msg"] and isinstance(refused["input"], str):
        try:
            return SessionMessage(jsonrpc_message_adapter.validate_json(shallow(refused["input"]), by_name=False))
        except pydantic.ValidationError as of_the_envelope:
            refusal = of_the_envelope
    # No answer has a method, and pydantic quotes the object in which a field is missing.
    quoted = (
        error["input"] for error in refusal.errors() if error["type"] == "missing" and error["loc"][-1] == "method"
    )
    written = next((value for value in quoted if isinstance(value, dict)), {})
    identifier = written.get("id")
    if not isinstance(identifier, int | str) or isinstance(identifier, bool) or written.get("jsonrpc", "2.0") != "2.0":
        return None
    if (failure := written.get("error")) is not None:
        return SessionMessage(JSONRPCError(jsonrpc="2.0", id=identifier, error=_error(failure)))
    if "result" not in written:
        return None
    result = written["result"] if isinstance(written["result"], dict) else {"content": written["result"]}
    return SessionMessage(JSONRPCResponse(jsonrpc="2.0", id=identifier, result=result))


def _error(written: Any) -> ErrorData:
    fields = written if isinstance(written, dict) else {"message": written}
    code, message = fields.get("code"), fields.get("message")
    if not isinstance(message, str) or not message:
        message = json.dumps(written, ensure_ascii=False)
    elif isinstance(code, str):
        message = f"{message} ({code})"
    return ErrorData(code=code if type(code) is int else INTERNAL_ERROR, message=message, data=fields.get("data"))


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


def _introduction(written: Mapping[str, Any]) -> dict[str, Any]:
    """What a server says about itself, reduced to what is needed to use its tools."""
    about = written.get("serverInfo")
    named = {key: str(about.get(key, "")) for key in ("name", "version")} if isinstance(about, dict) else {}
    rest = {key: written[key] for key in ("protocolVersion", "_meta") if key in written}
    return {**rest, "capabilities": {"tools": {}}, "serverInfo": {"name": "", "version": "", **named}}


def _for_session(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as mcp's session has to know it: properties name headers, and no output schema must refuse a result."""
    schema = tool.get("inputSchema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or not all(isinstance(part, dict) for part in properties.values()):
        properties = {}
    return {"name": tool["name"], "inputSchema": {"type": "object", "properties": properties}}
