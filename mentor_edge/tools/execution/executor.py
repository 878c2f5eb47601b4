"""Execution of tool calls in child processes.

A tool may raise, hang, print or return megabytes, exit the interpreter or crash it, start processes and leave them
behind: each becomes a tool error that the model reads, and the caller and all other calls go on.

What this covers: time per call, size of the result and of printed text, memory of each process, interpreter exit and
crash, processes that a tool leaves behind (they end with the worker that ran the tool, daemons included), everything
when the caller is killed, and environment variables: tools see a short list of them, so that keys and tokens in the
environment do not reach them, nor what they start.

What it does not cover: it is no security boundary. A tool runs with the rights of the user who started the program. It
can read and write that user's files, use the network, and, as the same user, signal other processes and read their
memory and environment through /proc. Memory is limited per process, not for all that a tool starts together. A tool
that kills the nursery, its parent, can leave daemons behind. Only code that the model writes is held by more, where the
system has it: see `mentor_edge.tools.python_code`.

The processes are forked, so a tool may be any callable, closures and notebook functions included; tools met for the
first time need new processes. Only names, JSON arguments and results cross the sockets. Linux only.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Self

from mentor_edge.errors import ToolDefinitionError
from mentor_edge.messages import ToolCall
from mentor_edge.tools.execution.pool import PoolCall, WorkerPool
from mentor_edge.tools.execution.tool_worker import Limits, framed
from mentor_edge.tools.types import Tool, ToolFailure

_REMOTE_GRACE = 0.5
"""Seconds a remote call gets on top of its limit, so that its own account of what went wrong can arrive."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the model reads (`content`) and whether it is an error."""

    content: str
    failed: bool = False
    unknown_tool: bool = False


class Session:
    """The state of the stateful tools of one conversation: one instance of each, made at its first call.

    Costs nothing until then. Use as a context manager, or call `close`.
    """

    def __init__(self, executor: ToolExecutor) -> None:
        self._executor = executor

    def close(self) -> None:
        """Forget the state and end its process. A later call would start afresh."""
        self._executor._end_session(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """A call, the tools it may name, and the conversation it belongs to."""

    call: ToolCall
    tools: Mapping[str, Tool]
    session: Session | None = None


class ToolExecutor:
    """Runs tool calls in child processes, many side by side, each with its own limits.

    `timeout` is in seconds per call, from the moment when a process takes it; `output_limit` in characters of result or
    printed text; `memory_bytes` what a process may allocate on top of what it starts with; `workers` the number of
    calls that run at once. `environment` names variables that tools may see besides the usual ones (PATH, HOME, LANG,
    LC_*, TZ, TMPDIR, OMP_* and the like). Use as a context manager, or call `close`. Threads may share an executor, but
    take turns.
    """

    def __init__(
        self,
        *,
        timeout: float = 5.0,
        output_limit: int = 8192,
        memory_bytes: int = 512 * 1024**2,
        workers: int = 32,
        environment: Sequence[str] = (),
    ) -> None:
        self.timeout = timeout
        self.output_limit = output_limit
        self.memory_bytes = memory_bytes
        self.workers = workers
        self.environment = tuple(environment)
        self._start_over()

    def _start_over(self) -> None:
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._pool: WorkerPool | None = None

    def run(self, call: ToolCall, tools: Mapping[str, Tool], session: Session | None = None) -> ToolResult:
        """Execute one call. Never raises because of the model or the tool: failures are results with an error text."""
        return self.run_all([ToolRequest(call, tools, session)])[0]

    def run_all(self, requests: Sequence[ToolRequest]) -> list[ToolResult]:
        """Execute calls side by side; the results are in the order of the requests. Calls of one session run one after
        another, in their order. A stateful tool that is called without a session gets a new instance for that call.

        Never raises because of the model or a tool: failures are results with an error text.

        Raises: ToolDefinitionError when the bound arguments of a tool have no JSON.
        """
        if self._process != os.getpid():  # a fork of the process that made it, a tool that uses tools for instance
            self._start_over()
        with self._lock:
            if self._pool is None:
                limits = Limits(self.timeout, self.output_limit, self.memory_bytes)
                self._pool = WorkerPool(self.workers, limits, self.environment)
            return _Batch(self, self._pool, requests).run()

    def session(self) -> Session:
        """A new conversation's place for the state of stateful tools."""
        return Session(self)

    def _end_session(self, session: Session) -> None:
        if self._process == os.getpid():
            with self._lock:
                if self._pool is not None:
                    self._pool.end_session(session)

    def close(self) -> None:
        """End all processes, and with errors the calls that another thread has in progress. A later call starts new
        processes."""
        if self._process != os.getpid():
            self._start_over()
        if (pool := self._pool) is not None:
            pool.hang_up()
        with self._lock:
            if self._pool is pool and pool is not None:
                self._pool = None
                pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Batch:
    """One `run_all`. Requests of one session form a lane, all others have one each; lanes advance side by side."""

    def __init__(self, executor: ToolExecutor, pool: WorkerPool, requests: Sequence[ToolRequest]) -> None:
        self._timeout = executor.timeout
        self._output_limit = executor.output_limit
        self._pool = pool
        self._requests = requests
        self._results: dict[int, ToolResult] = {}
        self._lane_of: dict[int, Hashable] = {}
        self._lanes: dict[Hashable, deque[int]] = {}
        self._calls: dict[PoolCall, int] = {}
        self._remote: dict[int, tuple[Future[str], float]] = {}

    def run(self) -> list[ToolResult]:
        # All tools that are offered, called or not: each one met for the first time costs new processes.
        for tools in {id(request.tools): request.tools for request in self._requests}.values():
            for tool in tools.values():
                if tool.remote is None:
                    self._pool.register(tool.target)
        for index, request in enumerate(self._requests):
            lane: Hashable = index if request.session is None else request.session
            self._lane_of[index] = lane
            self._lanes.setdefault(lane, deque()).append(index)
        try:
            # Remote calls first: they run elsewhere while the others are being started.
            for lane in sorted(self._lanes, key=lambda lane: not self._is_remote(self._lanes[lane][0])):
                self._advance(lane)
            while len(self._results) < len(self._requests):
                self._wait()
        finally:  # after an interrupt, for instance
            for future, _ in self._remote.values():
                future.cancel()
            if self._calls:
                self._pool.abandon()
        return [self._results[index] for index in range(len(self._requests))]

    def _is_remote(self, index: int) -> bool:
        request = self._requests[index]
        tool = request.tools.get(request.call.name)
        return tool is not None and tool.remote is not None

    def _advance(self, lane: Hashable) -> None:
        """Start the lane's next call; those that are refused are answered on the way."""
        waiting = self._lanes[lane]
        while waiting and not self._start(waiting[0]):
            waiting.popleft()

    def _start(self, index: int) -> bool:
        """Whether the call is on its way; if not, its result is there."""
        request = self._requests[index]
        tool = request.tools.get(request.call.name)
        if tool is None:
            self._results[index] = self._error(f"there is no tool named {request.call.name!r}", unknown_tool=True)
            return False
        problem = _argument_error(tool, request.call.arguments)
        if problem is not None:
            self._results[index] = self._error(f"invalid arguments: {problem}")
            return False
        arguments = {**request.call.arguments, **tool.bound}
        if tool.remote is not None:
            return self._start_remote(index, tool, arguments)
        target = self._pool.register(tool.target)
        session = request.session if tool.state is not None else None
        number = secrets.randbits(48)
        try:
            message = framed([number, target, arguments, session is not None])
        except (TypeError, ValueError, RecursionError) as error:
            _check_bound(tool)
            self._results[index] = self._error(f"invalid arguments: {error}")
            return False
        call = PoolCall(number, target, message, session)
        self._calls[call] = index
        self._pool.submit(call)
        return True

    def _start_remote(self, index: int, tool: Tool, arguments: Mapping[str, object]) -> bool:
        assert tool.remote is not None
        try:
            future = tool.remote(arguments, self._timeout)
            future.add_done_callback(lambda _: self._pool.wake())
        except Exception as error:  # what went wrong over there is for the model to read
            self._results[index] = self._error(_said(error))
            return False
        self._remote[index] = future, time.monotonic() + self._timeout + _REMOTE_GRACE
        return True

    def _wait(self) -> None:
        """Wait until some call ends, and let its lane go on."""
        for call in self._pool.step(min((deadline for _, deadline in self._remote.values()), default=math.inf)):
            assert call.outcome is not None
            failed, text = call.outcome
            self._end(self._calls.pop(call), self._error(text) if failed else ToolResult(text))
        now = time.monotonic()
        for index, (future, deadline) in list(self._remote.items()):
            if future.done() or deadline <= now:
                del self._remote[index]
                self._end(index, self._remote_result(future))

    def _end(self, index: int, result: ToolResult) -> None:
        self._results[index] = result
        lane = self._lane_of[index]
        self._lanes[lane].popleft()
        self._advance(lane)

    def _remote_result(self, future: Future[str]) -> ToolResult:
        if not future.done():
            future.cancel()
            return self._error(f"the tool did not return within {self._timeout:g} s")
        try:
            text = future.result().encode(errors="replace").decode()  # lone surrogates: no tokenizer takes them
        except (Exception, CancelledError) as error:
            return self._error(_said(error))
        if len(text) > self._output_limit:
            return self._error(f"the tool returned {len(text)} characters (limit {self._output_limit})")
        return ToolResult(text)

    def _error(self, message: str, *, unknown_tool: bool = False) -> ToolResult:
        text = message[: self._output_limit].encode(errors="replace").decode()
        return ToolResult(json.dumps({"error": text}, ensure_ascii=False), failed=True, unknown_tool=unknown_tool)


def _argument_error(tool: Tool, arguments: Mapping[str, object]) -> str | None:
    try:
        return tool.argument_error(arguments)
    except RecursionError:
        return "they are nested too deeply"


def _check_bound(tool: Tool) -> None:
    try:
        json.dumps(dict(tool.bound))
    except (TypeError, ValueError) as error:
        raise ToolDefinitionError(
            f"tool {tool.name!r} has bound arguments without JSON: {error}",
            "bind what JSON can say, or let the function hold the rest (a closure or functools.partial)",
        ) from error


def _said(error: BaseException) -> str:
    if isinstance(error, ToolFailure):
        return str(error)
    return f"{type(error).__name__}: {error}"
