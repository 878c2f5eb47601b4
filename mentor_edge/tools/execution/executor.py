"""Execution of tool calls in child processes.

A tool may raise, hang, print or return megabytes, exit the interpreter or crash it, start processes and leave them
behind. Each of these becomes a tool error that the model reads, and the caller and all other calls continue.

What is limited or cleaned up: time per call, size of the result and of printed text, memory of each process,
interpreter exits and crashes, and processes that a tool leaves behind (they end with the worker that ran the tool,
daemons included). When the caller is killed, everything ends. `os.environ` of a tool, and so the environment of every
program it starts, contains only a short list of variables: API keys and tokens are not among them.

What is not protected: this is not a security boundary. A tool runs with the rights of the user who started the program.
It can read and write that user's files, use the network, signal the user's other processes, and read their memory and
their environment through /proc. That includes its own `/proc/self/environ`, which still shows the variables that the
program was started with. Memory is limited per process, not for everything a tool starts together. A tool that kills
the pool supervisor, its parent, can leave daemons behind. Only code that the model writes is confined further, if the
system supports it: see `mentor_edge.tools.python_code`.

The processes are forked, so a tool may be any callable, closures and notebook functions included. Tools that the
executor has not seen before need new processes. Only names, JSON arguments and results cross the sockets. Linux only.
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
from mentor_edge.tools.execution.limits import CallLimits
from mentor_edge.tools.execution.pool import WorkerPool
from mentor_edge.tools.execution.tool_worker import framed
from mentor_edge.tools.execution.worker_handle import PoolCall
from mentor_edge.tools.types import Tool, ToolFailure

_REMOTE_GRACE_SECONDS = 0.5
"""Extra time for a remote call, so that its own error message can arrive before it is cancelled."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The result of one call."""

    content: str
    """What the model reads: the tool's result, or `{"error": "..."}`."""
    failed: bool = False
    """Whether `content` is an error."""
    unknown_tool: bool = False
    """Whether the call named a tool that was not offered."""


class Session:
    """The state of one conversation's stateful tools: one instance of each, created at its first call.

    A session costs nothing before that. Use it as a context manager, or call `close`.
    """

    def __init__(self, executor: ToolExecutor) -> None:
        self._executor = executor

    def close(self) -> None:
        """Discard the state and end its process. A later call starts with new state."""
        self._executor._end_session(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """A call to execute."""

    call: ToolCall
    tools: Mapping[str, Tool]
    """The tools that the call may name, by name."""
    session: Session | None = None
    """The conversation that the call belongs to."""


class ToolExecutor:
    """Runs tool calls in child processes, many in parallel, each within limits.

    Use it as a context manager, or call `close`. Threads may share an executor; their batches run one after another.

    Args:
        timeout: seconds per call, counted from the moment when a process takes it.
        output_limit: characters of a result, and separately of printed text.
        memory_bytes: what a process may allocate beyond what it starts with.
        workers: how many calls may run at once.
        environment: names of variables that tools may see besides the usual ones (PATH, HOME, LANG, LC_*, TZ, TMPDIR,
            OMP_* and similar).
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
        """Execute one call; see `run_all`."""
        return self.run_all([ToolRequest(call, tools, session)])[0]

    def run_all(self, requests: Sequence[ToolRequest]) -> list[ToolResult]:
        """Execute calls in parallel, and return their results in the order of the requests.

        Calls of one session run one after another, in order. A stateful tool that is called without a session gets a
        new instance for that call. The model and the tools cannot make this raise: a failed call is a result with an
        error text.

        Raises: ToolDefinitionError when JSON cannot express the bound arguments of a tool.
        """
        if self._process != os.getpid():  # a fork, for example a tool that uses this executor
            self._start_over()
        with self._lock:
            if self._pool is None:
                limits = CallLimits(self.timeout, self.output_limit, self.memory_bytes)
                self._pool = WorkerPool(self.workers, limits, self.environment)
            return _Batch(self, self._pool, requests).run()

    def session(self) -> Session:
        """Start a conversation: calls with this session share the state of stateful tools."""
        return Session(self)

    def _end_session(self, session: Session) -> None:
        if self._process == os.getpid():
            with self._lock:
                if self._pool is not None:
                    self._pool.end_session(session)

    def close(self) -> None:
        """End all processes. Calls that another thread has in progress fail. A later call starts new processes."""
        if self._process != os.getpid():
            self._start_over()
        if (pool := self._pool) is not None:
            pool.cancel_all()
        with self._lock:
            if self._pool is pool and pool is not None:
                self._pool = None
                pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Batch:
    """One `run_all`.

    A lane is a queue of requests that run in order: those of one session, or a single request without a session. All
    lanes run in parallel.
    """

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
        # All offered tools, called or not: each tool that the pool has not seen before costs new processes.
        for tools in {id(request.tools): request.tools for request in self._requests}.values():
            for tool in tools.values():
                if tool.remote is None:
                    self._pool.register(tool.target)
        for index, request in enumerate(self._requests):
            lane: Hashable = index if request.session is None else request.session
            self._lane_of[index] = lane
            self._lanes.setdefault(lane, deque()).append(index)
        try:
            # Remote calls first: they run elsewhere while the others are started.
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
        """Start the lane's next call. Calls that are refused get their result at once."""
        waiting = self._lanes[lane]
        while waiting and not self._start(waiting[0]):
            waiting.popleft()

    def _start(self, index: int) -> bool:
        """Start a call. Returns False when its result is known already."""
        request = self._requests[index]
        tool = request.tools.get(request.call.name)
        if tool is None:
            self._results[index] = self._error(f"there is no tool named {request.call.name!r}", unknown_tool=True)
            return False
        problem = tool.argument_error(request.call.arguments)
        if problem is not None:
            self._results[index] = self._error(f"invalid arguments: {problem}")
            return False
        arguments = {**request.call.arguments, **tool.bound}
        if tool.remote is not None:
            return self._start_remote(index, tool, arguments)
        target = self._pool.register(tool.target)
        session = request.session if tool.state is not None or tool.per_conversation else None
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
        except Exception as error:  # the model reads what went wrong
            self._results[index] = self._error(_error_text(error))
            return False
        self._remote[index] = future, time.monotonic() + self._timeout + _REMOTE_GRACE_SECONDS
        return True

    def _wait(self) -> None:
        """Wait until some call ends, and start the next call of its lane."""
        for call in self._pool.step(min((deadline for _, deadline in self._remote.values()), default=math.inf)):
            assert call.outcome is not None
            failed, text = call.outcome
            self._finish(self._calls.pop(call), self._error(text) if failed else ToolResult(text))
        now = time.monotonic()
        for index, (future, deadline) in list(self._remote.items()):
            if future.done() or deadline <= now:
                del self._remote[index]
                self._finish(index, self._remote_result(future))

    def _finish(self, index: int, result: ToolResult) -> None:
        self._results[index] = result
        lane = self._lane_of[index]
        self._lanes[lane].popleft()
        self._advance(lane)

    def _remote_result(self, future: Future[str]) -> ToolResult:
        if not future.done():
            future.cancel()
            return self._error(f"the tool did not return within {self._timeout:g} s")
        try:
            text = future.result().encode(errors="replace").decode()  # lone surrogates: no tokenizer accepts them
        except (Exception, CancelledError) as error:
            return self._error(_error_text(error))
        if len(text) > self._output_limit:
            return self._error(f"the tool returned {len(text)} characters (limit {self._output_limit})")
        return ToolResult(text)

    def _error(self, message: str, *, unknown_tool: bool = False) -> ToolResult:
        text = message[: self._output_limit].encode(errors="replace").decode()
        return ToolResult(json.dumps({"error": text}, ensure_ascii=False), failed=True, unknown_tool=unknown_tool)


def _check_bound(tool: Tool) -> None:
    try:
        json.dumps(dict(tool.bound))
    except (TypeError, ValueError) as error:
        raise ToolDefinitionError(
            f"tool {tool.name!r} has bound arguments that JSON cannot express: {error}",
            "bind JSON values only, and give the function the rest by a closure or functools.partial",
        ) from error


def _error_text(error: BaseException) -> str:
    if isinstance(error, ToolFailure):
        return str(error)
    return f"{type(error).__name__}: {error}"
