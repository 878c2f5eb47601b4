"""Tools of MCP servers: programs in any language that offer tools over the Model Context Protocol.

A server is a command, which is started and used over its standard input and output, or the URL of a server that already
runs. Any fault of a server becomes a failed call that the model reads, never a hang: see `McpServer`. A command runs
with the rights of the user, but of the environment it sees only PATH, HOME and a few similar variables.

All servers of a process share one thread. Nothing here survives a fork: a child process gets an error, not a copy.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import shlex
import threading
import time
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

import mcp_types
import pydantic_core
from mcp import MCPError

from mentor_edge.errors import ToolServerError
from mentor_edge.tools.mcp.connection import Connection, ConnectionLost, Endpoint, describe, within
from mentor_edge.tools.schemas import schema_problem
from mentor_edge.tools.types import Tool, ToolFailure

RESTARTS, RESTART_SECONDS = 3, 60.0
"""The next call restarts a server that has ended, but at most this many times in this many seconds."""

LAST_LINES = 5
"""How many lines of a server's standard error an error message quotes."""

T = TypeVar("T")


class McpServer:
    """The tools of one MCP server. Use it as a context manager, or call `close`.

    Tools keep the names that the server gives them; two servers may use the same name.

    A call that takes too long fails alone. The server is asked to cancel it, and is ended only if it does not answer a
    ping either. When a server ends, its calls in progress fail, and the next call restarts it. Its state, which all
    conversations share, is lost then.

    Args:
        target: a command (one string as for a shell, or a sequence of words) or an http(s) URL.
        name: what error messages call the server. Default: the command, or the URL without user, password and query.
        environment: variables for a command, besides the few it inherits.
        headers: sent with each request to a URL.
        start_timeout: seconds until the server must have listed its tools.
        ping_timeout: seconds until a server that missed a call's limit must answer a ping.
        output_limit: characters of one result.

    Raises:
        ToolServerError: the command is empty or cannot be parsed.
    """

    def __init__(
        self,
        target: str | Sequence[str],
        *,
        name: str | None = None,
        environment: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        start_timeout: float = 20.0,
        ping_timeout: float = 5.0,
        output_limit: int = 8192,
    ) -> None:
        self._endpoint = _endpoint(target, environment or {}, headers or {})
        self.name = name or _display_name(self._endpoint)
        self._start_timeout = start_timeout
        self._ping_timeout = ping_timeout
        self._output_limit = output_limit
        self._pid: int | None = None
        # Only the event loop uses the rest.
        self._closed = False
        self._connection: Connection | None = None
        self._restarts: deque[float] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def tools(self) -> tuple[Tool, ...]:
        """Connect, if not connected yet, and return the tools that the server offers.

        Raises:
            ToolServerError: the server cannot be started, does not speak MCP, does not answer in time, or offers a tool
                that cannot be called.
        """
        if self._pid is None:
            self._pid = os.getpid()
        elif self._pid != os.getpid():
            raise ToolServerError(f"{self} belongs to another process", "open the server in the process that uses it")
        return tuple(self._tool(listed) for listed in self._wait_for(self._list()))

    def close(self) -> None:
        """End the server and every process that it started. Calls in progress fail. `tools` opens the server again."""
        if self._pid == os.getpid():
            self._wait_for(self._close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __str__(self) -> str:
        return f"the MCP server {self.name!r}"

    def _tool(self, listed: mcp_types.Tool) -> Tool:
        problem = schema_problem(listed.input_schema)
        if problem is not None:
            raise ToolServerError(
                f"{self} describes the arguments of its tool {listed.name!r} wrongly: {problem}",
                "fix the server: MCP requires a JSON Schema of an object",
            )
        return Tool(
            listed.name,
            listed.description or listed.title or "",
            listed.input_schema,
            _runs_on_the_server,
            remote=functools.partial(self._start, listed.name),
        )

    def _start(self, name: str, arguments: Mapping[str, Any], timeout: float) -> Future[str]:
        if self._pid != os.getpid():
            refused: Future[str] = Future()
            refused.set_exception(ToolFailure(f"{self} belongs to another process and cannot be called from this one"))
            return refused
        return asyncio.run_coroutine_threadsafe(self._call(name, arguments, timeout), _loop_of(os.getpid()))

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, _loop_of(os.getpid()))
        try:
            return future.result()
        finally:
            future.cancel()  # after Ctrl-C; otherwise it has ended

    # From here on: what runs on the event loop.

    async def _list(self) -> list[mcp_types.Tool]:
        if self._connection is None or self._connection.ended:
            self._connect()
        connection = self._connection
        assert connection is not None
        self._closed = False
        try:
            await connection.opened()
        except ConnectionLost as lost:
            quoted = "".join(f"\n  {line[:200]}" for line in connection.log[-LAST_LINES:])
            stderr_tail = f"; its last lines on standard error:{quoted}" if quoted else ""
            raise ToolServerError(f"{self} {lost}{stderr_tail}", _hint(self._endpoint)) from None
        return connection.tools

    async def _call(self, name: str, arguments: Mapping[str, Any], timeout: float) -> str:
        _check_sendable(arguments)
        connection = self._current()
        try:
            result = await within(timeout, connection.call(name, arguments))
        except TimeoutError:
            self._track(connection.check(self._ping_timeout))
            raise ToolFailure(f"the tool did not return within {timeout:g} s{connection.malformed_note}") from None
        except ConnectionLost as lost:
            again = "" if self._closed else "; a further call tries again, but what it remembered is lost"
            raise ToolFailure(f"{self} {lost}{again}"[: self._output_limit]) from None
        except MCPError as error:
            raise ToolFailure(error.message[: self._output_limit]) from None
        except Exception as error:  # a malformed answer
            raise ToolFailure(describe(error)[: self._output_limit]) from None
        return self._text(result)

    def _current(self) -> Connection:
        """The connection, or a new one if the last has ended.

        Raises: ToolFailure if the server keeps ending.
        """
        if self._closed or self._connection is None:
            raise ToolFailure(f"{self} is closed")
        if self._connection.ended:
            now = time.monotonic()
            while self._restarts and now - self._restarts[0] > RESTART_SECONDS:
                self._restarts.popleft()
            if len(self._restarts) >= RESTARTS:
                raise ToolFailure(f"{self} keeps ending: it was restarted {RESTARTS} times in {RESTART_SECONDS:g} s")
            self._restarts.append(now)
            self._connect()
        return self._connection

    def _connect(self) -> None:
        self._connection = Connection(self._endpoint, self._start_timeout)
        self._track(self._connection.task)

    def _track(self, work: asyncio.Task[None] | Coroutine[Any, Any, None]) -> None:
        """Keep a reference to a task until it is done: `close` waits for it, and asyncio keeps none."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _close(self) -> None:
        self._closed = True
        if self._connection is not None:
            self._connection.end("was closed")
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _text(self, result: mcp_types.CallToolResult) -> str:
        parts = [_content_text(block) for block in result.content]
        has_text = any(isinstance(block, mcp_types.TextContent) for block in result.content)
        if result.structured_content is not None and not has_text:
            parts.append(json.dumps(result.structured_content, ensure_ascii=False))
        text = "\n".join(parts)
        if result.is_error:
            raise ToolFailure(text[: self._output_limit])
        if len(text) > self._output_limit:
            raise ToolFailure(f"the tool returned {len(text)} characters (limit {self._output_limit})")
        return text


@functools.cache
def _loop_of(pid: int) -> asyncio.AbstractEventLoop:
    """The event loop for the connections of this process, whose id is `pid`: threads do not survive a fork."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="mcp", daemon=True).start()
    return loop


def _runs_on_the_server(**arguments: Any) -> None:
    raise NotImplementedError("an MCP server runs this tool")


def _endpoint(target: str | Sequence[str], environment: Mapping[str, str], headers: Mapping[str, str]) -> Endpoint:
    if isinstance(target, str) and target.startswith(("http://", "https://")):
        return Endpoint(url=target, headers=headers)
    try:
        command = tuple(shlex.split(target)) if isinstance(target, str) else tuple(target)
    except ValueError as error:
        raise ToolServerError(f"the command {target!r} of an MCP server cannot be read: {error}") from None
    if not command:
        raise ToolServerError("the command of an MCP server is empty", "give a command or an http(s) URL")
    return Endpoint(command, environment=environment)


def _display_name(endpoint: Endpoint) -> str:
    """The command or URL, without the parts of a URL that may contain secrets."""
    if endpoint.command:
        return shlex.join(endpoint.command)
    parts = urlsplit(endpoint.url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _hint(endpoint: Endpoint) -> str:
    if endpoint.command:
        return "run the command in a shell to see what is wrong; here it sees only the environment variables you name"
    return "check that the server runs, and that the URL is its MCP endpoint (it often ends in /mcp)"


def _check_sendable(arguments: Mapping[str, Any]) -> None:
    """Refuse what JSON cannot express, such as half of a surrogate pair: it would end mcp's stdio transport.

    Raises: ToolFailure.
    """
    try:
        text = json.dumps({"params": {"arguments": arguments}}, allow_nan=False, ensure_ascii=False)
        pydantic_core.from_json(text.encode())  # fails for arguments nested deeper than servers can read
    except (ValueError, RecursionError) as error:
        raise ToolFailure(f"the arguments cannot be sent: {describe(error)}") from None


def _content_text(block: mcp_types.ContentBlock) -> str:
    """Text unchanged, also that of an embedded resource; anything else as its kind and size."""
    match block:
        case mcp_types.TextContent(text=text):
            return text
        case mcp_types.EmbeddedResource(resource=resource):
            if isinstance(resource, mcp_types.TextResourceContents):
                return resource.text
            return f"[resource {resource.uri}, {_bytes(resource.blob)} bytes]"
        case mcp_types.ImageContent() | mcp_types.AudioContent():
            return f"[{block.type} {block.mime_type}, {_bytes(block.data)} bytes]"
        case mcp_types.ResourceLink():
            return f"[resource {block.uri}]"


def _bytes(base64: str) -> int:
    return len(base64) * 3 // 4 - base64[-2:].count("=")
