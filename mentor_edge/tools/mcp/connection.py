"""One connection to an MCP server, from its start to its end. All of this runs on the loop of `mcp_client`.

The protocol is mcp's: its transports and its `ClientSession`. What is added here are the limits that it does not set:
time to start, length of a message, number of messages, and the certainty that no process is left.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO, TypeVar

import anyio
import httpx2
import mcp_types
import pydantic
from anyio.streams.memory import MemoryObjectSendStream
from mcp import ClientSession, MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import MCP_SESSION_ID, streamable_http_client
from mcp.shared.message import SessionMessage
from mcp_types import CONNECTION_CLOSED, JSONRPCNotification

from mentor_edge.tools.mcp import server_supervisor as supervise

TOOL_LIMIT = 256
"""Tools that one server may offer."""

FLOOD_MESSAGES, FLOOD_SECONDS = 5_000, 10.0
"""A server may send this many messages that nobody asked for in this time. mcp starts a task for each."""

CLOSE_SECONDS = 5.0
"""What a server behind a URL may take to end a session. Local ones have the bounded seconds of mcp's transport."""

# mcp logs each malformed line with a traceback; without any handler, Python prints that on the user's screen.
for _name in ("mcp", "client"):
    logging.getLogger(_name).addHandler(logging.NullHandler())

T = TypeVar("T")


class ConnectionLost(Exception):
    """The server could not be reached or has ended; the text continues the words "the server"."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is: a command to run, or a URL. `environment` is all that a command gets besides PATH, HOME and
    the few others that mcp passes on; `headers` go with every request to a URL."""

    command: tuple[str, ...] = ()
    url: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @asynccontextmanager
    async def open(self, log: TextIO, forgotten: Callable[[], None]) -> AsyncIterator[Any]:
        """The two streams of a transport. What a command writes to standard error goes to `log`; `forgotten` is called
        when the server behind a URL no longer knows our session, as one that was restarted does."""
        if self.command:
            arguments = ["-P", "-m", supervise.__name__, str(os.getpid()), *self.command]
            parameters = StdioServerParameters(
                command=sys.executable, args=arguments, env=dict(self.environment), encoding_error_handler="replace"
            )
            async with stdio_client(parameters, errlog=log) as streams:
                yield streams
        else:

            async def watch(response: httpx2.Response) -> None:
                request = response.request
                if response.status_code == 404 and request.method == "POST" and MCP_SESSION_ID in request.headers:
                    forgotten()
                _bound(response)

            async with (
                httpx2.AsyncClient(
                    headers={"accept-encoding": "identity", **self.headers},
                    timeout=httpx2.Timeout(30.0, read=None),  # calls have their own limits
                    event_hooks={"response": [watch]},
                ) as client,
                streamable_http_client(
                    self.url, http_client=client, max_sse_event_size=supervise.LINE_LIMIT
                ) as streams,
            ):
                yield streams


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > supervise.LINE_LIMIT:
                raise httpx2.StreamError(f"more than {supervise.LINE_LIMIT} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


def _bound(response: httpx2.Response) -> None:
    """Limit a reply that is one JSON document; mcp reads all of it. Event streams are limited by event."""
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Bounded(response.stream)


class Connection:
    """One life of a server. `tools` and calls are there once `opened` has returned; `over` stays true once set."""

    def __init__(self, endpoint: Endpoint, start_timeout: float) -> None:
        self.tools: list[mcp_types.Tool] = []
        self.log: list[str] = []
        """The server's last lines on standard error, known when the connection is over."""
        self.over = False
        self._endpoint = endpoint
        self._start_timeout = start_timeout
        self._reason = ""
        self._session: ClientSession | None = None
        self._checking = False
        self._noise = 0
        self._unasked, self._since = 0, time.monotonic()
        self._opened, self._ending = anyio.Event(), anyio.Event()
        self._scope = anyio.CancelScope(deadline=anyio.current_time() + start_timeout)
        self.life = asyncio.create_task(self._live())

    @property
    def noise_note(self) -> str:
        """What to add to the news that an answer did not come."""
        return f"; lines that it wrote and that are no JSON-RPC: {self._noise}" if self._noise else ""

    async def opened(self) -> ClientSession:
        """Wait until the server has answered. Raises: ConnectionLost when it has not."""
        await self._opened.wait()
        if self._session is None:
            raise ConnectionLost(self._reason)
        return self._session

    async def call(self, name: str, arguments: Mapping[str, Any]) -> mcp_types.CallToolResult:
        """One call of a tool. Raises: ConnectionLost, or whatever mcp makes of an answer that is an error or none."""
        session = await self.opened()
        self._unasked -= 1  # its answer is asked for
        try:
            return await session.call_tool(name, dict(arguments))
        except MCPError as error:
            if not self.over and not _is_closed(error):
                raise
            self.end("")
            if not self._reason:
                await asyncio.wait({self.life})
            raise ConnectionLost(self._reason) from error

    async def check(self, seconds: float) -> None:
        """End a command that does not answer a ping in time: it would fail every further call."""
        if self._session is None or self._checking or self._endpoint.url:
            return
        self._checking = True
        try:
            await within(seconds, self._session.send_ping())
        except TimeoutError:
            self.end(f"was ended: it did not answer a ping within {seconds:g} s")
        except (MCPError, ValueError):
            pass  # an answer, if an odd one
        finally:
            self._checking = False

    def end(self, reason: str) -> None:
        """Begin to end the connection; `life` is the task to wait for. The first reason counts; "" is to be found."""
        self._reason = self._reason or reason
        self.over = True
        self._ending.set()
        if self._session is None:
            self._scope.cancel()

    async def _live(self) -> None:
        last_words = ""
        try:
            with tempfile.TemporaryFile("a+") as log, self._scope:
                try:
                    await self._talk(log)
                finally:
                    last_words = self._read_log(log.fileno())
        except Exception as error:  # an ExceptionGroup of whatever a transport met
            self.end("" if _is_closed(error) else f"cannot be used: {describe(error)}")
        if self._scope.cancelled_caught and self._session is None:
            self.end(f"did not answer within {self._start_timeout:g} s{self.noise_note}")
        self.end(last_words or "closed the connection")
        self._opened.set()

    async def _talk(self, log: TextIO) -> None:
        async with self._endpoint.open(log, self._forgotten) as (read, write), anyio.create_task_group() as tasks:
            send, receive = anyio.create_memory_object_stream[SessionMessage | Exception](0)
            tasks.start_soon(self._filter, read, send)
            async with ClientSession(receive, write) as session:
                await _shake_hands(session)
                self.tools = await _list_tools(session)
                self._session = session
                self._scope.deadline = float("inf")
                self._opened.set()
                await self._ending.wait()
                self._scope.deadline = anyio.current_time() + CLOSE_SECONDS
            tasks.cancel_scope.cancel()

    def _forgotten(self) -> None:
        self.end("has forgotten the session")

    async def _filter(self, read: Any, send: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        """Pass on requests and answers. Nothing here waits for notifications, and garbage is only counted."""
        async with send:
            async for item in read:
                if self._floods():
                    self.end(f"was ended: it sent more than {FLOOD_MESSAGES} messages in {FLOOD_SECONDS:g} s")
                    return
                if isinstance(item, Exception):
                    self._noise += 1
                elif not isinstance(item.message, JSONRPCNotification):
                    try:
                        await send.send(item)
                    except anyio.BrokenResourceError:  # the session is closing
                        return
        if self._session is not None:  # otherwise the handshake fails, and says more
            self.end("")

    def _floods(self) -> bool:
        now = time.monotonic()
        if now - self._since > FLOOD_SECONDS:
            self._since, self._unasked = now, 0
        self._unasked += 1
        return self._unasked > FLOOD_MESSAGES

    def _read_log(self, log: int) -> str:
        """Keep the end of the log; returns what the supervisor wrote there, nothing if there is none."""
        start = max(0, os.fstat(log).st_size - 4096)
        lines = os.pread(log, 4096, start).decode(errors="replace").splitlines()
        said = lines.pop() if lines and lines[-1].startswith(supervise.MARK) else ""
        self.log = [line for line in lines if line.strip()]
        return said.removeprefix(supervise.MARK)


async def _shake_hands(session: ClientSession) -> None:
    """`initialize`, which all servers of today understand. One that refuses it is asked for the discovery that
    replaces it in the protocol of 2026; the other order ends or delays servers that know only `initialize`."""
    try:
        await session.initialize()
    except MCPError as error:
        if _is_closed(error):
            raise
        await session.discover()


async def _list_tools(session: ClientSession) -> list[mcp_types.Tool]:
    tools: list[mcp_types.Tool] = []
    parameters = None
    for _ in range(TOOL_LIMIT):
        page = await session.list_tools(params=parameters)
        tools += page.tools
        if len(tools) > TOOL_LIMIT:
            break
        if not page.next_cursor:
            return tools
        parameters = mcp_types.PaginatedRequestParams(cursor=page.next_cursor)
    raise ValueError(f"it lists more than {TOOL_LIMIT} tools, or pages of tools")


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, or TimeoutError on time. Unlike asyncio.timeout this does not wait until cancelled work
    has wound up: mcp tells the server, and may take 5 s for that where the server reads nothing."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
            task.add_done_callback(lambda task: task.cancelled() or task.exception())  # it has been seen
    if not done:
        raise TimeoutError
    return task.result()


def _cause(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _is_closed(error: Exception) -> bool:
    """Whether this is what mcp makes of a connection that has ended. Servers use the code for errors of their own."""
    cause = _cause(error)
    return isinstance(cause, MCPError) and (cause.code, cause.message) == (CONNECTION_CLOSED, "Connection closed")


def describe(error: Exception) -> str:
    """What went wrong, in one line."""
    cause = _cause(error)
    if isinstance(cause, pydantic.ValidationError):
        first = cause.errors()[0]
        return f"the answer is not MCP ({'.'.join(map(str, first['loc']))}: {first['msg']})"
    return (str(cause) or type(cause).__name__).partition("\n")[0]
