"""One connection to an MCP server, from its start to its end. All of this runs on the event loop of `client`.

The mcp package speaks the protocol: its transports and its `ClientSession`. This module adds the limits that mcp does
not set (time to start, length of a message, number of messages), and makes sure that no process is left.
"""

from __future__ import annotations

import asyncio
import json
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
from mcp_types import CONNECTION_CLOSED, JSONRPCNotification, JSONRPCResponse

from mentor_edge.readable import one_line
from mentor_edge.tools.mcp import server_supervisor
from mentor_edge.tools.mcp.answers import Answers, Outbox, repaired
from mentor_edge.tools.mcp.surrogates import SurrogateRepair

TOOL_LIMIT = 256
"""How many tools one server may offer."""

LIST_LIMIT = 4 * 1024**2
"""Characters of all pages of its list together."""

_CURSOR_LIMIT = 4_096
_DISCOVER_SECONDS = 3.0

_SHOWN = 300
"""Characters of a server's text in a message."""

FLOOD_MESSAGES, FLOOD_SECONDS = 5_000, 10.0
"""A server may send this many unsolicited messages in this time. mcp starts a task for each."""

CLOSE_SECONDS = 5.0
"""Time that a server behind a URL may take to end a session. For commands, mcp's transport limits it."""

# mcp logs each malformed line with a traceback. Without a handler, Python would print that on the user's screen.
for _name in ("mcp", "client"):
    logging.getLogger(_name).addHandler(logging.NullHandler())

T = TypeVar("T")


class ConnectionLost(Exception):
    """The server could not be reached, or has ended. The text completes a sentence that starts with "the server"."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is: a command to run, or a URL."""

    command: tuple[str, ...] = ()
    url: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables for the command. Besides these it sees PATH, HOME and the few others that mcp passes on."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with every request to the URL. They may contain secrets, and never become part of a message."""

    @asynccontextmanager
    async def open(self, log: TextIO, on_session_lost: Callable[[], None]) -> AsyncIterator[Any]:
        """The two streams of a transport.

        A command's standard error goes to `log`. `on_session_lost` is called when the server behind a URL no longer
        knows our session, which happens after it was restarted.
        """
        if self.command:
            arguments = ["-P", "-m", server_supervisor.__name__, str(os.getpid()), *self.command]
            parameters = StdioServerParameters(
                command=sys.executable, args=arguments, env=dict(self.environment), encoding_error_handler="replace"
            )
            async with stdio_client(parameters, errlog=log) as streams:
                yield streams
        else:

            async def watch(response: httpx2.Response) -> None:
                request = response.request
                if response.status_code == 404 and request.method == "POST" and MCP_SESSION_ID in request.headers:
                    on_session_lost()
                response.stream = _Reply(response)
                response.headers.pop("content-encoding", None)  # decompressed by `_Reply`

            async with (
                httpx2.AsyncClient(
                    headers={"accept-encoding": "identity", **self.headers},
                    timeout=httpx2.Timeout(30.0, read=None),  # calls have their own limits
                    event_hooks={"response": [watch]},
                ) as client,
                streamable_http_client(
                    self.url, http_client=client, max_sse_event_size=server_supervisor.LINE_LIMIT
                ) as streams,
            ):
                yield streams


class _Reply(httpx2.AsyncByteStream):
    """The body of a reply, decompressed and repaired. One that is a JSON document is limited, because mcp reads all of
    it; event streams are limited per event."""

    def __init__(self, response: httpx2.Response) -> None:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        self._written = httpx2.Response(response.status_code, headers=response.headers, stream=response.stream)
        events = response.headers.get("content-type", "").startswith("text/event-stream")
        self._limit = float("inf") if events else server_supervisor.LINE_LIMIT

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size, repair = 0, SurrogateRepair()
        async for chunk in self._written.aiter_bytes():
            size += len(chunk)
            if size > self._limit:
                raise httpx2.StreamError(f"more than {self._limit} bytes")
            yield repair(chunk)
        yield repair.end()

    async def aclose(self) -> None:
        await self._written.aclose()


class Connection:
    """A server from its start to its end. `tools` is filled, and calls are possible, once `opened` has returned."""

    def __init__(self, endpoint: Endpoint, start_timeout: float) -> None:
        self.tools: list[Any] = []
        """What the server lists, as it wrote it."""
        self.refused: set[str] = set()
        """Names of listed tools that mcp's session does not call."""
        self.log: list[str] = []
        """The server's last lines on standard error, known when the connection has ended."""
        self.ended = False
        """Never becomes false again."""
        self._endpoint = endpoint
        self._start_timeout = start_timeout
        self._end_reason = ""
        self._session: ClientSession | None = None
        self._checking = False
        self._malformed_lines = 0
        self._answers = Answers()
        self._unsolicited, self._counting_since = 0, time.monotonic()
        self._opened, self._closing = anyio.Event(), anyio.Event()
        self._scope = anyio.CancelScope(deadline=anyio.current_time() + start_timeout)
        self.task = asyncio.create_task(self._run())
        """Runs until the server has ended and is cleaned up."""

    @property
    def malformed_note(self) -> str:
        """An addition to the message that no answer came: the answer may have been malformed."""
        return f"; lines it wrote that are not JSON-RPC: {self._malformed_lines}" if self._malformed_lines else ""

    async def opened(self) -> ClientSession:
        """Wait until the server has answered.

        Raises: ConnectionLost when it has not.
        """
        await self._opened.wait()
        if self._session is None:
            raise ConnectionLost(self._end_reason)
        return self._session

    async def call(self, name: str, arguments: Mapping[str, Any]) -> mcp_types.CallToolResult:
        """Call a tool.

        Raises: ConnectionLost; mcp's and pydantic's errors when the answer is an error or malformed.
        """
        session = await self.opened()
        self._unsolicited -= 1  # its answer is expected
        try:
            return await session.call_tool(name, dict(arguments))
        except MCPError as error:
            if not self.ended and not _is_closed(error):
                raise
            self.end("")
            if not self._end_reason:
                await asyncio.wait({self.task})
            raise ConnectionLost(self._end_reason) from error

    async def check(self, seconds: float) -> None:
        """End a command that does not answer a ping in time: every further call would fail."""
        if self._session is None or self._checking or self._endpoint.url:
            return
        self._checking = True
        try:
            await within(seconds, self._session.send_ping())
        except TimeoutError:
            self.end(f"was ended: it did not answer a ping within {seconds:g} s")
        except (MCPError, ValueError):
            pass  # an unexpected answer, but an answer
        finally:
            self._checking = False

    def end(self, reason: str) -> None:
        """Start to end the connection; wait for `task` to see it ended.

        The first reason counts. "" means unknown: the log may contain it.
        """
        self._end_reason = self._end_reason or reason
        self.ended = True
        self._closing.set()
        if self._session is None:
            self._scope.cancel()

    async def _run(self) -> None:
        logged_outcome = ""
        try:
            with tempfile.TemporaryFile("a+") as log, self._scope:
                try:
                    await self._run_session(log)
                finally:
                    logged_outcome = self._read_log(log.fileno())
        except Exception as error:  # a transport raises an ExceptionGroup
            self.end("" if _is_closed(error) else f"cannot be used: {describe(error)}")
        if self._scope.cancelled_caught and self._session is None:
            self.end(f"did not answer within {self._start_timeout:g} s{self.malformed_note}")
        self.end(logged_outcome or "closed the connection")
        self._opened.set()

    async def _run_session(self, log: TextIO) -> None:
        async with self._endpoint.open(log, self._on_session_lost) as (read, write), anyio.create_task_group() as tasks:
            send, receive = anyio.create_memory_object_stream[SessionMessage | Exception](0)
            tasks.start_soon(self._filter, read, send)
            async with ClientSession(receive, Outbox(write, self._answers)) as session:
                await _initialize(session)
                self.tools = await self._list_tools(session)
                self._session = session
                self._scope.deadline = float("inf")
                self._opened.set()
                await self._closing.wait()
                self._scope.deadline = anyio.current_time() + CLOSE_SECONDS
            tasks.cancel_scope.cancel()

    def _on_session_lost(self) -> None:
        self.end("has forgotten the session")

    async def _filter(self, read: Any, send: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        """Forward requests and answers. Notifications are dropped, malformed lines are counted."""
        async with send:
            async for item in read:
                if self._floods():
                    self.end(f"was ended: it sent more than {FLOOD_MESSAGES} messages in {FLOOD_SECONDS:g} s")
                    return
                if isinstance(item, Exception):
                    item = repaired(item)
                    self._malformed_lines += item is None
                if item is not None and not isinstance(item.message, JSONRPCNotification):
                    if isinstance(item.message, JSONRPCResponse):
                        self._answers.make_readable(item.message)
                    try:
                        await send.send(item)
                    except anyio.BrokenResourceError:  # the session is closing
                        return
        if self._session is not None:  # otherwise the failing handshake gives a better reason
            self.end("")

    async def _list_tools(self, session: ClientSession) -> list[Any]:
        tools: list[Any] = []
        parameters, size = None, 0
        for _ in range(TOOL_LIMIT):
            page = await session.list_tools(params=parameters)
            listed = self._answers.listed
            tools += listed
            named = {tool["name"] for tool in listed if isinstance(tool, dict) and isinstance(tool.get("name"), str)}
            self.refused |= named - {tool.name for tool in page.tools}
            if len(tools) > TOOL_LIMIT:
                break
            size += len(json.dumps(listed))
            if size > LIST_LIMIT:
                raise ValueError(f"its list of tools has more than {LIST_LIMIT} characters")
            if not page.next_cursor:
                return tools
            if len(page.next_cursor) > _CURSOR_LIMIT:
                raise ValueError(f"its list of tools has a cursor of {len(page.next_cursor)} characters")
            parameters = mcp_types.PaginatedRequestParams(cursor=page.next_cursor)
        raise ValueError(f"it lists more than {TOOL_LIMIT} tools, or pages of tools")

    def _floods(self) -> bool:
        now = time.monotonic()
        if now - self._counting_since > FLOOD_SECONDS:
            self._counting_since, self._unsolicited = now, 0
        self._unsolicited += 1
        return self._unsolicited > FLOOD_MESSAGES

    def _read_log(self, log: int) -> str:
        """Keep the last lines of the log. Returns how the server ended, as the supervisor logged it, or ""."""
        start = max(0, os.fstat(log).st_size - 4096)
        lines = os.pread(log, 4096, start).decode(errors="replace").splitlines()
        outcome = lines.pop() if lines and lines[-1].startswith(server_supervisor.MARK) else ""
        self.log = [one_line(line, _SHOWN) for line in lines if line.strip()]
        return outcome.removeprefix(server_supervisor.MARK)


async def _initialize(session: ClientSession) -> None:
    """Send `initialize`, which all servers of today understand.

    If the server refuses it, send the discovery request that replaces it in the 2026 protocol. The other order ends or
    delays servers that know only `initialize`.
    """
    try:
        await session.initialize()
    except MCPError as error:
        if _is_closed(error):
            raise
        try:
            with anyio.fail_after(_DISCOVER_SECONDS):
                await session.discover()
        except (MCPError, TimeoutError):  # the first refusal says more
            raise ValueError(f"it refuses to start: {error.message}") from error


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, or TimeoutError when the time is up.

    Unlike asyncio.timeout, this does not wait until the cancelled work has finished: mcp informs the server, which may
    take 5 s if the server reads nothing.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
            task.add_done_callback(lambda task: task.cancelled() or task.exception())  # retrieve it, or asyncio logs it
    if not done:
        raise TimeoutError
    return task.result()


def _cause(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _is_closed(error: Exception) -> bool:
    """Whether this is mcp's error for a connection that has ended. The code alone does not tell: servers use it too."""
    cause = _cause(error)
    return isinstance(cause, MCPError) and (cause.code, cause.message) == (CONNECTION_CLOSED, "Connection closed")


def describe(error: Exception) -> str:
    """What went wrong, in one line."""
    cause = _cause(error)
    if isinstance(cause, pydantic.ValidationError):
        first = cause.errors()[0]
        return one_line(f"the answer is not MCP ({'.'.join(map(str, first['loc']))}: {first['msg']})", _SHOWN)
    return one_line((str(cause) or type(cause).__name__).partition("\n")[0], _SHOWN)
