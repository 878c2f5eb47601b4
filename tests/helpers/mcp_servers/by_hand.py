"""The few MCP messages that a server needs, written by hand, so that the broken servers can break them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

Message = dict[str, Any]


def requests() -> Iterator[Message]:
    for line in sys.stdin:
        yield json.loads(line)


def send(message: object) -> None:
    write(json.dumps(message) + "\n")


def write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def answer(request: Message, result: object) -> None:
    send({"jsonrpc": "2.0", "id": request["id"], "result": result})


def text(value: str) -> Message:
    return {"content": [{"type": "text", "text": value}]}


def tool(name: str, **properties: Any) -> Message:
    return {"name": name, "description": name, "inputSchema": {"type": "object", "properties": properties}}


def initialized(request: Message) -> None:
    about = {"name": "by hand", "version": "1"}
    answer(request, {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": about})


def serve(tools: list[Message], call: Callable[[Message], None], about: Message | None = None) -> None:
    """Answer everything except tool calls, which `call` handles. `about` replaces the answer to `initialize`."""
    for request in requests():
        match request.get("method"):
            case "initialize" if about is not None:
                answer(request, about)
            case "initialize":
                initialized(request)
            case "tools/list":
                answer(request, {"tools": tools})
            case "tools/call":
                call(request)
            case "ping":
                answer(request, {})
