"""An HTTP server on the loopback that speaks OpenAI's chat API and plays a script."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from helpers.scripted_engine import call_text

KEY = "sk-very-secret"
ADD_TEXT = call_text("add", '{"a": 2, "b": 3}')


@dataclass
class Answer:
    """An HTTP answer; `body` is sent as JSON unless it is bytes."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def completion(message: dict[str, Any], finish: str = "stop", **usage: int) -> Answer:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return Answer({"object": "chat.completion", "choices": [choice], **({"usage": usage} if usage else {})})


def calls(*named: tuple[str, Any]) -> dict[str, Any]:
    """A message with calls as a server parses them, with its own ids; arguments stay text."""
    return {
        "content": None,
        "tool_calls": [
            {"id": f"srv-{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, (name, arguments) in enumerate(named)
        ],
    }


def refusal(status: int, message: str, **more: Any) -> Answer:
    return Answer({"error": {"message": message, **more}}, status, {"retry-after-ms": "1"})


@dataclass
class Server:
    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


@contextmanager
def serving(answer: Callable[[dict[str, Any]], Answer], models: Answer | None = None) -> Iterator[Server]:
    """A server that answers every chat completion with `answer(its body)`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append(body)
            server.keys.append(self.headers["Authorization"])
            self.send(answer(body) if self.path == "/v1/chat/completions" else Answer(b"no such page", 404))

        def do_GET(self) -> None:
            listed = models or Answer({"object": "list", "data": [{"id": "small"}, {"id": "large"}]})
            self.send(listed if self.path == "/v1/models" else Answer(b"no such page", 404))

        def send(self, sent: Answer) -> None:
            body = sent.body if isinstance(sent.body, bytes) else json.dumps(sent.body).encode()
            self.send_response(sent.status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(body))} | sent.headers
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(BrokenPipeError):  # the client did not wait
                self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{http.server_port}/v1")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def scripted(body: dict[str, Any]) -> Answer:
    """Answers by question and turn, as a model with tools does."""
    question, turn = body["messages"][0]["content"], sum(m["role"] == "assistant" for m in body["messages"])
    usage = {"completion_tokens": 10}
    if question == "endless":
        return completion(calls(("add", '{"a": 2, "b": 3}')), **usage)
    if question == "long" and turn == 1:
        return refusal(400, "beyond the context window")
    if question == "broken":
        return completion(calls(("add", '{"a": 2,')), **usage)
    if question == "cut":
        return completion({"content": "It is"}, finish="length", **usage)
    if turn == 0:
        named = ("teleport", "{}") if question == "unknown" else ("add", '{"a": 2, "b": 3}')
        return completion(calls(named) if question != "text" else {"content": f"Adding. {ADD_TEXT}"}, **usage)
    return completion({"content": rf"\boxed{{{body['messages'][-1]['content']}}}"}, **usage)
