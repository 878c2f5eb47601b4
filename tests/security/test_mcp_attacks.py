"""MCP servers that attack their client: each is one error, or works. Messages are short and obey no terminal."""

from __future__ import annotations

import gzip
import resource
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from helpers.server_calls import server
from mentor_edge.errors import MentorEdgeError, ToolServerError
from mentor_edge.tools.mcp import client
from mentor_edge.tools.mcp.client import McpServer
from mentor_edge.tools.types import Tool, ToolFailure

LISTS: Mapping[str, str] = {
    "a refusal of 3 MB": "cannot be used: it refuses to start: out of order xxx",
    "an identifier that nobody asked for": "did not answer within 2 s",
    "a version of 3 MB": "cannot be used: Unsupported protocol version from the server: 999",
    "dies with escapes": "its last lines on standard error:\n  \\x1b[31m\\x1b]0;title\\x07[conceal]",
    "random bytes": "the MCP server",  # too many lines, or none in time
    "questions": "work",
    "standard error without end": "work",
    "100,000 tools": "it lists more than 256 tools",
    "pages without end": "it lists more than 256 tools, or pages of tools",
    "large pages": "its list of tools has more than 4194304 characters",
    "a large cursor": "a cursor of 3000000 characters",
    "an error with escapes": r"cannot be used: \x1b[31m\x1b]0;title\x07[conceal]",
    "names": "good",
    "descriptions": "good",
    "slow schemas": "t0",
    "schemas that multiply": "good",
    "not a list": "cannot be used: the answer is not MCP (tools: ",
}
CALLS: Mapping[str, str] = {
    "NaN": "the tool returned NaN or an infinity, which JSON lacks",
    "1 GB": "it wrote a line of more than 4194304 bytes",
    "4 MB": "the tool returned 4000000 characters (limit 8192)",
    "deep": "[" * 150 + "]" * 150,
    "deep and wide": "the tool returned 1200310 characters (limit 8192)",
    "an error of 3 MB": "x" * 8192,
    "an error with escapes": "[conceal]",
    "asks": "well",
    "notifies": "well",
    "cancels": "well",
}
SLOW = ("100,000 tools", "pages without end", "random bytes", "slow schemas")
ATTACKS: Mapping[str, str] = {**LISTS, **CALLS}


@pytest.mark.parametrize("how", [pytest.param(how, marks=pytest.mark.slow) if how in SLOW else how for how in LISTS])
def test_a_server_that_attacks_while_it_starts_is_one_error_or_works(monkeypatch, how):
    monkeypatch.setattr(client, "READING_SECONDS", 0.3)
    started = time.process_time()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    patient = 2.0 if how in ("an identifier that nobody asked for", "random bytes") else 30.0
    with server("hostile.py", how, start_timeout=patient) as opened, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            outcome = " ".join(tool.name for tool in opened.tools())
        except ToolServerError as error:
            outcome = str(error)
    said = [outcome.replace("\n", ""), *(str(warning.message) for warning in caught)]
    assert LISTS[how] in outcome
    assert all(text.isprintable() and len(text) < 1_000 for text in said if not outcome.startswith("t0 "))
    assert time.process_time() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 400 * 1024  # KiB


@pytest.fixture(scope="module")
def work() -> Iterator[Tool]:
    with server("hostile.py", "calls") as opened:
        yield opened.tools()[0]


@pytest.mark.parametrize("how", CALLS)
def test_an_answer_that_attacks_is_a_result_or_a_failure(work, how):
    assert work.remote is not None
    try:
        answer = work.remote({"how": how}, 30.0).result(60)
    except ToolFailure as failure:
        answer = str(failure)
    assert CALLS[how] in answer and len(answer) <= 8192
    assert work.remote({}, 30.0).result(60) == "well"


def test_a_redirect_is_not_followed_and_no_credential_is_shown():
    seen: list[str] = []

    class Redirecting(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(f"{self.path} {self.headers['X-Key']}")
            self.rfile.read(int(self.headers["content-length"] or 0))
            self.send_response(307)
            self.send_header("location", f"http://localhost:{self.server.server_address[1]}/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        url = f"http://user:secret@127.0.0.1:{web.server_port}/mcp?token=secret"
        with pytest.raises(MentorEdgeError, match="cannot be used") as refused:
            McpServer(url, headers={"X-Key": "secret-key"}, start_timeout=10.0).tools()
        web.shutdown()
    assert "secret" not in str(refused.value) and "elsewhere" not in " ".join(seen)


def test_a_small_compressed_answer_does_not_fill_the_memory():
    bomb = gzip.compress(b" " * 100_000_000, 1)

    class Compressing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"] or 0))
            self.send_response(200)
            for name, value in {"type": "application/json", "encoding": "gzip", "length": str(len(bomb))}.items():
                self.send_header(f"content-{name}", value)
            self.end_headers()
            self.wfile.write(bomb)

        def log_message(self, *_: object) -> None:
            pass

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with ThreadingHTTPServer(("127.0.0.1", 0), Compressing) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        with pytest.raises(MentorEdgeError, match="cannot be used"):
            McpServer(f"http://127.0.0.1:{web.server_port}/mcp", start_timeout=10.0).tools()
        web.shutdown()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 64 * 1024  # KiB
