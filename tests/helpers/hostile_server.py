"""A server on the loopback that writes whatever bytes a test wants, at its own pace."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from mentor_edge.engines.base import ChatRequest, Reply, Sampling
from mentor_edge.engines.endpoint import EndpointEngine
from mentor_edge.messages import Message
from mentor_edge.tools.calculator import CALCULATOR

KEY = "sk-3c1d9-Very/Secret+Key"
Answer = Callable[["Request"], Iterable[bytes]]
"""Yields the parts of an answer; the connection closes at their end."""


@dataclass
class Request:
    """What the server has received."""

    head: str
    body: bytes
    ended: threading.Event
    """Set when the test is over: an answer that waits must wait for this."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Hostile:
    """A running server."""

    port: int
    requests: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


@contextmanager
def hostile(answer: Answer) -> Iterator[Hostile]:
    """A server that answers every request with `answer`."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=16)
    server, ended = Hostile(listener.getsockname()[1]), threading.Event()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    def talk(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            stream = connection.makefile("rb")
            lines = list(iter(stream.readline, b"\r\n"))
            head = b"".join(lines).decode("latin-1")
            lengths = [line.split(b":")[1] for line in lines if line.lower().startswith(b"content-length")]
            request = Request(head, stream.read(int(lengths[0])) if lengths else b"", ended)
            server.requests.append(request)
            for part in answer(request):
                if ended.is_set():
                    return
                connection.sendall(part)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server
    finally:
        ended.set()
        listener.close()


def http(body: bytes | Any, status: str = "200 OK", **headers: str) -> bytes:
    """A whole answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {"content-type": "application/json", "content-length": str(len(content))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in named.items()), "", ""]
    return "\r\n".join(lines).encode("utf-8") + content


def said(message: dict[str, Any], **more: Any) -> bytes:
    """A chat completion."""
    return http({"choices": [{"message": {"role": "assistant", **message}, "finish_reason": "stop"}], **more})


def once(answer: bytes) -> Answer:
    """The same answer to every request."""
    return lambda request: [answer]


def ask(server: Hostile, **options: Any) -> Reply | None:
    """One turn of the model behind a server."""
    request = ChatRequest((Message("user", "hi"),), tuple(tool.to_openai() for tool in CALCULATOR))
    with EndpointEngine(server.url, "small", **{"api_key": KEY} | options) as engine:
        return engine.reply([request], Sampling(20))[0]
