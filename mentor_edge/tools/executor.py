"""Execution of tool calls in a child process.

A tool may raise, hang, print or return megabytes, exit the interpreter or crash it: each becomes a tool error that the
model reads, and the caller goes on. What this isolation covers: time per call, size of result and of printed text,
address space, interpreter exit. What it does not cover: it is no security boundary; a tool runs with the rights and the
environment of the user who started the program.

The child is forked, so a tool may be any callable, closures and notebook functions included; tools met for the first
time restart it. Only names, JSON arguments and results cross the pipe.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from types import TracebackType
from typing import Any

from mentor_edge.messages import ToolCall
from mentor_edge.tools.types import Tool


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the model reads (`content`) and whether it is an error."""

    content: str
    failed: bool = False
    unknown_tool: bool = False


def _error(message: str, *, unknown_tool: bool = False) -> ToolResult:
    return ToolResult(json.dumps({"error": message}, ensure_ascii=False), failed=True, unknown_tool=unknown_tool)


class _OutputLimit(BaseException):
    """Raised inside a tool that prints too much; not an Exception, so that the tool does not swallow it."""


class _CountingSink(io.TextIOBase):
    def __init__(self, limit: int) -> None:
        self._left = limit
        self._limit = limit

    def write(self, text: str) -> int:
        self._left -= len(text)
        if self._left < 0:
            raise _OutputLimit(f"the tool printed more than {self._limit} characters")
        return len(text)


def _call(function: Callable[..., Any], arguments: Mapping[str, Any], output_limit: int) -> tuple[bool, str]:
    sink = _CountingSink(output_limit)
    try:
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            result = function(**arguments)
        content = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    except KeyboardInterrupt:
        raise
    except _OutputLimit as error:
        return True, str(error)
    except SystemExit as error:
        return True, f"the tool tried to exit the interpreter (code {error.code})"
    except BaseException as error:  # whatever a tool raises is its result
        return True, f"{type(error).__name__}: {error}"[:output_limit]
    if len(content) > output_limit:
        return True, f"the tool returned {len(content)} characters (limit {output_limit})"
    return False, content


def _serve(
    connection: Connection, functions: Sequence[Callable[..., Any]], output_limit: int, memory_bytes: int
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    with open("/proc/self/statm") as statm:  # the fork inherits the parent's address space
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory_bytes, used + memory_bytes))
    parent = os.getppid()
    with contextlib.suppress(EOFError, BrokenPipeError):
        # The other end of the pipe was inherited too, so a parent that was killed leaves no end-of-file behind.
        while os.getppid() == parent:
            if not connection.poll(1.0):
                continue
            index, arguments = json.loads(connection.recv_bytes())
            connection.send_bytes(json.dumps(_call(functions[index], arguments, output_limit)).encode())


class ToolExecutor:
    """Runs tool calls in a child process, one after another, each with its own limits.

    `timeout` is in seconds per call, `output_limit` in characters of result or printed text, `memory_bytes` what the
    child may allocate on top of what it starts with. Use as a context manager, or call `close`.
    """

    def __init__(self, *, timeout: float = 5.0, output_limit: int = 8192, memory_bytes: int = 512 * 1024**2) -> None:
        self.timeout = timeout
        self.output_limit = output_limit
        self.memory_bytes = memory_bytes
        self._functions: list[Callable[..., Any]] = []
        self._index: dict[int, int] = {}  # by id: a callable need not be hashable, and the list keeps it alive
        self._known_to_child = 0
        self._child: ForkProcess | None = None
        self._connection: Connection | None = None

    def run(self, call: ToolCall, tools: Mapping[str, Tool]) -> ToolResult:
        """Execute one call. Never raises because of the model or the tool: failures are results with an error text."""
        tool = tools.get(call.name)
        if tool is None:
            return _error(f"there is no tool named {call.name!r}"[: self.output_limit], unknown_tool=True)
        problem = tool.argument_error(call.arguments)
        if problem is not None:
            return _error(f"invalid arguments: {problem}"[: self.output_limit])
        for offered in tools.values():  # all at once: each function met for the first time restarts the child
            self._register(offered.function)
        index = self._index[id(tool.function)]
        request = json.dumps([index, {**call.arguments, **tool.bound}]).encode()
        connection = self._connect()
        try:
            connection.send_bytes(request)
            if not connection.poll(self.timeout):
                self._stop()
                return _error(f"the tool did not return within {self.timeout:g} s")
            failed, content = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            code = self._stop()
            return _error(f"the tool ended its process (exit code {code})")
        return _error(content) if failed else ToolResult(content)

    def _register(self, function: Callable[..., Any]) -> None:
        if id(function) not in self._index:
            self._index[id(function)] = len(self._functions)
            self._functions.append(function)

    def _connect(self) -> Connection:
        if self._known_to_child < len(self._functions):
            self.close()
        if self._connection is None:
            # fork, not spawn: closures and functions of __main__ need no import path, and no main guard.
            context = multiprocessing.get_context("fork")
            self._connection, theirs = context.Pipe()
            self._child = context.Process(
                target=_serve, args=(theirs, self._functions, self.output_limit, self.memory_bytes), daemon=True
            )
            self._child.start()
            theirs.close()
            self._known_to_child = len(self._functions)
        return self._connection

    def _stop(self) -> int | None:
        code = None
        if self._child is not None:
            self._child.join(timeout=0.2)  # a child that is exiting by itself tells its own code
            if self._child.is_alive():
                self._child.kill()
                self._child.join()
            code = self._child.exitcode
        if self._connection is not None:
            self._connection.close()
        self._child = self._connection = None
        return code

    def close(self) -> None:
        """End the child process."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._child is not None:
            self._child.kill()
            self._child.join()
            self._child = None

    def __enter__(self) -> ToolExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
