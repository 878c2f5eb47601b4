"""The child process that runs tool calls, one after another, and turns everything a tool does wrong into an error text.

The pool supervisor forks it, so it has in memory what the calls need. It shares nothing with the caller but a socket. A
request is the JSON list `[call number, index of the target, arguments, whether to keep state]`, a reply
`[call number, failed, text]`, each with a length prefix. The first reply is null: the worker is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import inspect
import io
import json
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any

import pydantic
import pydantic_core

from mentor_edge.tools.execution.limits import CallLimits, limit_worker
from mentor_edge.tools.types import Target, ToolFailure

HEADER_BYTES = 4
"""Size of the length prefix of each message, little-endian."""

seconds_per_call: float | None = None
"""In a worker, the time limit of its calls, for tools that end a call themselves shortly before it. Else None."""

scratch_directory: str | None = None
"""In a worker, a directory that a tool may make for its files. It is removed when the worker has ended. Else None."""


def framed(message: Any) -> bytes:
    """A message as JSON with its length prefix.

    Raises: TypeError, ValueError or RecursionError when JSON cannot express it.
    """
    body = json.dumps(message).encode()
    return len(body).to_bytes(HEADER_BYTES, "little") + body


class _OutputLimit(BaseException):
    """Raised inside a tool that prints too much. Not an Exception, so that the tool does not swallow it."""


class _CountingSink(io.TextIOBase):
    def __init__(self, limit: int) -> None:
        self._left = limit
        self._limit = limit

    def write(self, text: str) -> int:
        self._left -= len(text)
        if self._left < 0:
            raise _OutputLimit(f"the tool printed more than {self._limit} characters")
        return len(text)


class _Surroundings:
    """The working directory, environment and alarm of a worker whose calls belong to different conversations."""

    def __init__(self) -> None:
        self._directory = os.open(".", os.O_PATH)
        self._environment = dict(os.environ)

    def restore(self) -> None:
        """Make them what they were before the first call. Raises: OSError if a call closed the descriptor."""
        os.fchdir(self._directory)
        if os.environ != self._environment:
            os.environ.clear()
            os.environ.update(self._environment)
        signal.alarm(0)


class Worker:
    """Serves one socket until the other end closes it. `scratch` is a directory that tools may make for their files.

    Async tools share one event loop, so that clients which stateful tools keep open stay usable.
    """

    def __init__(
        self, connection: socket.socket, targets: Sequence[Target], limits: CallLimits, scratch: str | None = None
    ) -> None:
        self._connection = connection
        self._scratch = scratch
        self._targets = targets
        self._limits = limits
        self._instances: dict[int, Any] = {}  # by the id of the callable that made them
        self._loop = asyncio.Runner()

    def serve(self) -> None:
        global seconds_per_call, scratch_directory
        seconds_per_call, scratch_directory = self._limits.seconds, self._scratch
        surroundings = _Surroundings()
        limit_worker(self._limits.memory_bytes)
        self._connection.sendall(framed(None))
        while (header := self._receive(HEADER_BYTES)) is not None:
            request = self._receive(int.from_bytes(header, "little"))
            if request is None:
                return
            number, index, arguments, keep_state = json.loads(request)
            failed, text = self._call(self._targets[index], arguments, keep_state)
            if not keep_state:
                surroundings.restore()
            self._connection.sendall(framed([number, failed, text]))

    def _receive(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            chunk = self._connection.recv(size - len(data))
            if not chunk:
                return None
            data += chunk
        return data

    def _call(self, target: Target, arguments: dict[str, Any], keep_state: bool) -> tuple[bool, str]:
        """Run one call. Returns whether it failed, and what the model reads."""
        limit = self._limits.output_characters
        sink = _CountingSink(limit)
        try:
            with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
                if target.convert is not None:
                    arguments = target.convert(arguments)
                instance = [] if target.state is None else [self._instance(target.state, keep_state)]
                result = target.function(*instance, **arguments)
                if inspect.isawaitable(result):
                    result = self._loop.run(_awaited(result))
                text = _as_text(result)
        except _OutputLimit as error:
            return True, str(error)
        except BaseException as error:  # anything a tool raises is its result
            return True, _printable(_described(error)[:limit])
        if len(text) > limit:
            return True, f"the tool returned {len(text)} characters (limit {limit})"
        return False, _printable(text)

    def _instance(self, state: Callable[[], Any], keep: bool) -> Any:
        if not keep:
            return state()
        if id(state) not in self._instances:
            self._instances[id(state)] = state()
        return self._instances[id(state)]


async def _awaited(result: Any) -> Any:
    return await result


def _described(error: BaseException) -> str:
    name = type(error).__name__
    try:
        if isinstance(error, SystemExit):
            return f"the tool tried to exit the interpreter (code {error.code})"
        return str(error) if isinstance(error, ToolFailure) else f"{name}: {error}"
    except BaseException as second:  # the code of the tool makes the text
        return f"{name}, whose text cannot be made: {type(second).__name__}"


def _as_text(result: Any) -> str:
    """Strings unchanged, everything else as JSON. NaN and infinities are refused, as other JSON readers refuse them.

    Raises: TypeError, ValueError or pydantic's errors when JSON cannot express the result.
    """
    if isinstance(result, str):
        return str.__str__(result.value if isinstance(result, enum.Enum) else result)  # a subclass may have methods
    return json.dumps(result, ensure_ascii=False, allow_nan=False, default=_as_json)


def _as_json(value: Any) -> Any:
    if isinstance(value, set | frozenset):  # their order changes from run to run
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    return pydantic_core.to_jsonable_python(value)


def _printable(text: str) -> str:
    """Replace lone surrogates, which no tokenizer or file accepts, by question marks."""
    return text.encode(errors="replace").decode()
