"""A child process that runs calls, one after another. Whatever a tool does wrong in it becomes an error text.

It is forked by the nursery, has what the calls run in its memory, and shares nothing with the caller but a socket. A
request is the JSON list `[number, index of the target, arguments, whether to keep state]`, a reply
`[number, failed, text, seconds it took]`, each behind its length. The first reply is null and says that the worker is
ready. The seconds are for planning: those of the processor for a call that never waited for anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import inspect
import io
import json
import resource
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import pydantic
import pydantic_core

from mentor_edge.tools.types import Target, ToolFailure

HEADER = 4
"""Bytes of the length before each message, little-endian."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """`seconds` is the time of a call, from the moment when a worker gets it; `output` is in characters of result or of
    printed text, `memory` in bytes on top of what a worker starts with."""

    seconds: float
    output: int
    memory: int


seconds_per_call: float | None = None
"""In a worker, the time limit of its calls: for tools that would rather give up by themselves."""


def framed(message: Any) -> bytes:
    """A message as it goes over the socket. Raises: TypeError, ValueError, RecursionError for what has no JSON."""
    body = json.dumps(message).encode()
    return len(body).to_bytes(HEADER, "little") + body


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


class Worker:
    """Serves one socket until its other end is closed. Async tools share one event loop, so that clients which
    stateful tools keep open stay usable."""

    def __init__(self, connection: socket.socket, targets: Sequence[Target], limits: Limits) -> None:
        self._connection = connection
        self._targets = targets
        self._limits = limits
        self._kept: dict[int, Any] = {}  # by the id of the callable that made them
        self._loop = asyncio.Runner()

    def serve(self) -> None:
        global seconds_per_call
        seconds_per_call = self._limits.seconds
        _limit_memory(self._limits.memory)
        self._connection.sendall(framed(None))
        while (header := self._receive(HEADER)) is not None:
            request = self._receive(int.from_bytes(header, "little"))
            if request is None:
                return
            number, index, arguments, keep = json.loads(request)
            start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
            failed, text = self._call(self._targets[index], arguments, keep)
            seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
            if after.ru_nvcsw == before.ru_nvcsw:  # it never waited: the rest of the time went to other programs
                seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            self._connection.sendall(framed([number, failed, text, seconds]))

    def _receive(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            chunk = self._connection.recv(size - len(data))
            if not chunk:
                return None
            data += chunk
        return data

    def _call(self, target: Target, arguments: dict[str, Any], keep: bool) -> tuple[bool, str]:
        """Whether the call failed, and what the model reads."""
        limit = self._limits.output
        sink = _CountingSink(limit)
        try:
            with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
                if target.convert is not None:
                    arguments = target.convert(arguments)
                instance = [] if target.state is None else [self._instance(target.state, keep)]
                result = target.function(*instance, **arguments)
                if inspect.isawaitable(result):
                    result = self._loop.run(_awaited(result))
                text = _as_text(result)
        except KeyboardInterrupt:
            raise
        except _OutputLimit as error:
            return True, str(error)
        except SystemExit as error:
            return True, f"the tool tried to exit the interpreter (code {error.code})"[:limit]
        except ToolFailure as error:
            return True, _printable(str(error)[:limit])
        except BaseException as error:  # whatever a tool raises is its result
            return True, _printable(f"{type(error).__name__}: {error}"[:limit])
        if len(text) > limit:
            return True, f"the tool returned {len(text)} characters (limit {limit})"
        return False, text

    def _instance(self, state: Callable[[], Any], keep: bool) -> Any:
        if not keep:
            return state()
        if id(state) not in self._kept:
            self._kept[id(state)] = state()
        return self._kept[id(state)]


async def _awaited(result: Any) -> Any:
    return await result


def _as_text(result: Any) -> str:
    """Strings as they are, everything else as JSON.

    Raises: TypeError, ValueError or pydantic's errors for what has no JSON; NaN and infinities are refused, because
    other readers of JSON refuse them.
    """
    if isinstance(result, str):
        return _printable(str(result.value) if isinstance(result, enum.Enum) else result)
    return _printable(json.dumps(result, ensure_ascii=False, allow_nan=False, default=_as_json))


def _as_json(value: Any) -> Any:
    if isinstance(value, set | frozenset):  # in an order that changes from run to run
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    return pydantic_core.to_jsonable_python(value)


def _printable(text: str) -> str:
    """Lone surrogates, which no tokenizer or file takes, become question marks."""
    return text.encode(errors="replace").decode()


def _limit_memory(extra: int) -> None:
    with open("/proc/self/statm") as statm:  # the fork inherits the caller's address space
        used = int(statm.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = used + extra if hard == resource.RLIM_INFINITY else min(used + extra, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not write the caller's memory to the disk
