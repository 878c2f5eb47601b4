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
import warnings
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Self, TypeVar

import mcp_types
import pydantic_core
from mcp import MCPError

from mentor_edge.errors import MentorEdgeWarning, ToolServerError
from mentor_edge.tools.mcp.connection import Connection, ConnectionLost, Endpoint, describe, within
from mentor_edge.tools.mcp.offer import Choice, offered_tools
from mentor_edge.tools.schemas.time_limit import limited
from mentor_edge.tools.specs import is_url, without_secrets
from mentor_edge.tools.types import Tool, ToolFailure

RESTARTS, RESTART_SECONDS = 3, 60.0
"""The next call restarts a server that has ended, but at most this many times in this many seconds."""

READING_SECONDS = 3.0
"""Processor time that the schemas of all tools may take."""

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
        only: names of the tools to offer. Default: all.
        excluded: names of tools not to offer.
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
        only: Sequence[str] | None = None,
        excluded: Sequence[str] = (),
        start_timeout: float = 20.0,
        ping_timeout: float = 5.0,
        output_limit: int = 8192,
    ) -> None:
        self._endpoint = _endpoint(target, environment or {}, headers or {})
        self.name = name or shlex.join(self._endpoint.command) or without_secrets(self._endpoint.url)
        self._choice = Choice(None if only is None else tuple(only), tuple(excluded))
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
            ToolServerError: the server cannot be started, does not speak MCP, does not answer in time, lacks a tool
                that `only` or `excluded` names, or offers no tools that can be used. If only some cannot be used, they
                are left out with a warning.
        """
        if self._pid is None:
            self._pid = os.getpid()
        elif self._pid != os.getpid():
            raise ToolServerError(f"{self} belongs to another process", "open the server in the process that uses it")
        connection = self._wait_for(self._list())
        with limited(READING_SECONDS):
            offer = offered_tools(connection.tools, connection.refused, self._choice, self._start)
        if offer.mistakes:
            raise ToolServerError(f"{self}: {'; '.join(offer.mistakes)}", "correct the names under only or except")
        if not offer.tools:
            reasons = "; ".join(offer.left_out[:3]) or "it lists none"
            raise ToolServerError(f"{self} offers no tools that can be used: {reasons}", "fix the server")
        for reason in offer.left_out:
            warnings.warn(f"{self}: left out {reason}", MentorEdgeWarning, stacklevel=2)
        return offer.tools

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

    async def _list(self) -> Connection:
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
        return connection

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
            message = error.message or f"the server answered with error {error.code} and no message"
            raise ToolFailure(message[: self._output_limit]) from None
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
        text = "\n".join(block.text for block in result.content if isinstance(block, mcp_types.TextContent))
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


def _endpoint(target: str | Sequence[str], environment: Mapping[str, str], headers: Mapping[str, str]) -> Endpoint:
    if isinstance(target, str) and is_url(target):
        return Endpoint(url=target, headers=headers)
    try:
        command = tuple(shlex.split(target)) if isinstance(target, str) else tuple(target)
    except ValueError as error:
        raise ToolServerError(f"the command {target!r} of an MCP server cannot be read: {error}") from None
    if not command:
        raise ToolServerError("the command of an MCP server is empty", "give a command or an http(s) URL")
    return Endpoint(command, environment=environment)


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
