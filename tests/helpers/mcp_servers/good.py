"""A well-behaved MCP server: over standard streams, or over HTTP as `good.py --http PORT`, which prints the port."""

from __future__ import annotations

import asyncio
import os
import socket
import sys

from mcp.server.mcpserver import Image, MCPServer
from mcp_types import CallToolResult, EmbeddedResource, ResourceLink, TextContent, TextResourceContents

server = MCPServer("good", log_level="CRITICAL")
count = 0
arrived = 0
all_here = asyncio.Event()


@server.tool()
def add(a: int, b: int) -> int:
    """a plus b"""
    return a + b


@server.tool()
def echo(text: str) -> str:
    """The same text again."""
    return text


@server.tool()
def counter() -> int:
    """How often this has been called."""
    global count
    count += 1
    return count


@server.tool()
async def slow(seconds: float) -> str:
    """Wait."""
    await asyncio.sleep(seconds)
    return "done"


@server.tool()
async def meet(people: int) -> int:
    """Return as soon as so many calls wait here together."""
    global arrived
    arrived += 1
    if arrived == people:
        all_here.set()
    await all_here.wait()
    return arrived


@server.tool()
def big(n: int) -> str:
    """n letters"""
    return "x" * n


@server.tool()
def fail() -> int:
    """Does not work."""
    raise ValueError("no luck")


@server.tool()
def nothing() -> list[TextContent]:
    """Nothing at all."""
    return []


@server.tool(structured_output=False)
def picture() -> list[str | Image]:
    """A caption and a picture."""
    return ["a dot", Image(data=b"12345", format="png")]


@server.tool(structured_output=False)
def documents() -> list[EmbeddedResource | ResourceLink]:
    """One document in full, and where another one is."""
    return [
        EmbeddedResource(resource=TextResourceContents(uri="memo://1", text="read me")),
        ResourceLink(name="other", uri="memo://2"),
    ]


@server.tool()
def only_data() -> CallToolResult:
    """A result for programs, without text."""
    return CallToolResult(content=[], structured_content={"answer": 0})


@server.tool()
def environment() -> dict[str, str]:
    """The variables that this process sees."""
    return dict(os.environ)


@server.tool()
def pid() -> int:
    """The process of the server."""
    return os.getpid()


def listen() -> None:
    import uvicorn

    with socket.create_server(("127.0.0.1", int(sys.argv[2]))) as listener:
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(server.streamable_http_app(), log_level="critical")
        asyncio.run(uvicorn.Server(config).serve([listener]))


if __name__ == "__main__":
    if "--http" in sys.argv:
        listen()
    else:
        server.run()
