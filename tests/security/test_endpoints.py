"""Servers behind an endpoint's URL that want time, memory, the key, or the prompt."""

from __future__ import annotations

import bz2
import gzip
import os
import re
import threading
import time
import traceback
import zlib
from collections.abc import Iterable
from typing import Any

import pytest

from helpers.contained import contained
from helpers.hostile_server import KEY, Answer, Request, ask, hostile, http, once, said
from mentor_edge.engines.base import ChatRequest, Sampling
from mentor_edge.engines.endpoint import EndpointEngine, only_model
from mentor_edge.errors import EngineError
from mentor_edge.messages import Message

TIMEOUT = 0.4
"""Seconds of a request in these tests."""
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
MIB = b" " * 2**20


def drip(begin: bytes, part: bytes, pause: float = 0.05) -> Answer:
    """Write `begin`, then `part` again and again."""

    def answer(request: Request) -> Iterable[bytes]:
        yield begin
        while not request.ended.wait(pause):
            yield part

    return answer


def silence(request: Request) -> Iterable[bytes]:
    request.ended.wait(20)
    return []


def endless(begin: bytes, part: bytes) -> Answer:
    return drip(begin, part, 0)


def call(count: int) -> dict[str, Any]:
    one = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
    return {"content": None, "tool_calls": [one] * count}


def packed(size: int, *, rounds: int = 1) -> bytes:
    content = MIB * size
    for _ in range(rounds):
        content = gzip.compress(content, 6)
    return content


def nested(depth: int) -> bytes:
    return b'{"choices": ' + b"[" * depth + b"]" * depth + b"}"


SLOW = r"did not answer within 0\.4 s"
LARGE = r"answered with more than 8\.4 MB"
ODD = "did not answer with a chat completion"
NOT_JSON = "did not answer with JSON"

# Name -> the server's answer, and what the error says; None if there is a reply all the same.
ESCAPED_KEY = "".join(f"\\\\\\\\u00{ord(character):02x}" for character in KEY[:-1])
ATTACKS: dict[str, tuple[Answer, str | None]] = {
    # Time.
    "accepts and never answers": (silence, SLOW),
    "drips the body": (drip(OK + b"content-length: 1000000\r\n\r\n", b" "), SLOW),
    "drips a chunked body": (drip(CHUNKED, b"1\r\n \r\n"), SLOW),
    "drips the status line": (drip(b"HTTP/1.1 2", b"0"), SLOW),
    "drips one header": (drip(OK + b"x: ", b"y"), SLOW),
    "drips headers": (drip(OK, b"x: y\r\n"), SLOW),
    "drips chunk extensions": (drip(CHUNKED + b"1", b";a=b"), SLOW),
    "drips trailers": (drip(CHUNKED + b"1\r\n \r\n0\r\n", b"x: y\r\n"), SLOW),
    "sends interim answers without end": (endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), SLOW),
    "drips interim answers": (drip(b"", b"HTTP/1.1 102 Processing\r\n\r\n"), SLOW),
    "asks to wait a minute": (once(http({}, "429 Too Many Requests", retry_after="55")), "status 429"),
    "asks to wait for a year": (once(http({}, "503 Busy", retry_after="31536000")), "status 503"),
    "asks to wait for ever": (once(http({}, "503 Busy", retry_after="inf")), "status 503"),
    "asks to wait a negative time": (once(http({}, "503 Busy", retry_after="-5")), "status 503"),
    "asks to wait nan": (once(http({}, "503 Busy", retry_after_ms="nan")), "status 503"),
    "asks again in no time": (once(http({}, "503 Busy", retry_after="0")), "status 503"),
    "demands a retry by openai's header": (once(http({}, "400 Bad", x_should_retry="true")), "status 400"),
    "drips the body of an error": (drip(b"HTTP/1.1 500 E\r\ncontent-length: 100000\r\n\r\n", b" "), SLOW),
    # Memory.
    "a body without end": (endless(OK + b"\r\n", MIB), LARGE),
    "a chunked body without end": (endless(CHUNKED, b"100000\r\n" + MIB + b"\r\n"), LARGE),
    "a long body": (endless(OK + b"content-length: 314572800\r\n\r\n", MIB), LARGE),
    "an error's body without end": (endless(b"HTTP/1.1 500 E\r\n\r\n", MIB), LARGE),
    "a redirect's body without end": (endless(b"HTTP/1.1 307 R\r\nlocation: /v2\r\n\r\n", MIB), LARGE),
    "gzip": (once(http(packed(20), content_encoding="gzip")), LARGE),
    "gzip of gzip": (once(http(packed(40, rounds=2), content_encoding="gzip, gzip")), LARGE),
    "deflate": (once(http(zlib.compress(MIB * 20), content_encoding="deflate")), LARGE),
    "an error in gzip": (once(http(packed(20), "500 E", content_encoding="gzip")), LARGE),
    "gzip that is none": (once(http(b"{}", content_encoding="gzip")), "cannot reach"),
    "an unknown encoding": (once(http(b"\x00\x01", content_encoding="x-best")), NOT_JSON),
    "brotli that is none": (once(http(b"\x00\x01", content_encoding="br")), ""),
    "bz2 as the charset": (
        once(http(bz2.compress(MIB * 20), "500 E", content_type="text/html; charset=bz2_codec")),
        "status 500",
    ),
    "zlib as the charset": (
        once(http(zlib.compress(MIB * 20), "400 E", content_type="text/html; charset=zlib_codec")),
        "status 400",
    ),
    "a charset that is none": (once(http(b"oops", "400 E", content_type="text/html; charset=hex")), "status 400"),
    "a header without end": (endless(OK + b"x: ", b"y" * 65536), "too long|larger|too large"),
    "headers without end": (endless(OK, b"x: y\r\n" * 1000), "too long|larger|too large"),
    "a chunk extension without end": (endless(CHUNKED + b"1;", b"a" * 65536), ""),
    "a chunk of a negative size": (once(CHUNKED + b"-1\r\n"), ""),
    "a chunk of 10^30 bytes": (endless(CHUNKED + b"f" * 16 + b"\r\n", MIB), LARGE),
    "a chunk size of 30 digits": (once(CHUNKED + b"f" * 30 + b"\r\n"), ""),
    "a length of 30 digits": (once(OK + b"content-length: " + b"9" * 30 + b"\r\n\r\n{}"), "."),
    "a negative length": (once(OK + b"content-length: -1\r\n\r\n{}"), "."),
    "two lengths": (once(OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\n{}"), "."),
    "noise": (once(os.urandom(4096)), "."),
    "nothing": (once(b""), "."),
    "HTTP/0.9": (once(b"<html>hello</html>"), "."),
    "a switch of protocols": (once(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n"), "."),
    # JSON.
    "10^6 choices": (once(http(b'{"choices": [' + b"0," * 10**6 + b"{}]}")), ODD),
    "lists 10^5 deep": (once(http(nested(10**5))), NOT_JSON),
    "lists 900 deep": (once(http(nested(900))), ODD),
    "objects 10^5 deep": (once(http(b'{"a":' * 10**5)), NOT_JSON),
    "a number of 10^5 digits": (once(http(b'{"choices": ' + b"9" * 10**5 + b"}")), NOT_JSON),
    "a number of 4,000 digits": (once(http(b'{"choices": ' + b"9" * 4000 + b"}")), ODD),
    "an exponent of 10^9": (once(http(b'{"choices": 1e999999999}')), ODD),
    "not UTF-8": (once(http(b'{"choices": "\xff\xfe"}')), NOT_JSON),
    "UTF-16": (once(http('{"choices": 1}'.encode("utf-16"))), ODD),
    "a byte order mark": (once(http(b'\xef\xbb\xbf{"choices": 1}')), "did not answer with"),
    "a model list instead": (once(http({"data": []})), ODD),
    "an error in a good answer": (once(http({"choices": [], "error": {"message": "\x1b[2J"}})), ODD),
    "an error with the wrong type": (once(http({"error": ["x"] * 10**5}, "500 E")), "status 500"),
    "an error 900 deep": (once(http(b'{"error": ' + b"[" * 900 + b"]" * 900 + b"}", "500 E")), "status 500"),
    "an error 10^5 deep": (once(http(b'{"error": ' + b"[" * 10**5, "500 E")), "status 500"),
    "keys that occur twice": (once(http(b'{"choices": [], "choices": [{"message": {"content": "b"}}]}')), None),
    "1,000 calls": (once(said(call(1000))), None),
    "50,000 calls": (once(said(call(50_000))), None),
    "a call with nested arguments": (
        once(said({"tool_calls": [{"function": {"name": "add", "arguments": "[" * 20_000}}]})),
        None,
    ),
    "100,000 parts": (once(said({"content": [{"type": "text"}] * 100_000})), None),
    "a text of 1 MB": (once(said({"content": "<tool_call>{" * 100_000})), None),
    "tokens: -1": (once(said({"content": "a"}, usage={"completion_tokens": -1})), None),
    "tokens: 10^30": (once(said({"content": "a"}, usage={"completion_tokens": 10**30})), None),
    "tokens: text": (once(said({"content": "a"}, usage={"completion_tokens": "12"})), None),
    "tokens: true": (once(said({"content": "a"}, usage={"completion_tokens": True})), None),
    "tokens: NaN": (once(said({"content": "a"}, usage={"completion_tokens": float("nan")})), None),
    "tokens: a fraction": (once(said({"content": "a"}, usage={"completion_tokens": 1e400})), None),
    "tokens: a list": (once(said({"content": "a"}, usage={"completion_tokens": [[[]]]})), None),
    # Elsewhere.
    "a redirect to another host": (once(http({}, "307 R", location="http://127.0.0.2:9/v1")), "redirects to http"),
    "a redirect to a file": (once(http({}, "302 R", location="file:///etc/passwd")), "redirects to file"),
    "a redirect to itself": (once(http({}, "308 R", location="/v1/chat/completions")), "redirects to /v1"),
    "a redirect to nowhere": (once(http({}, "301 R", location="http://[")), "."),
    "four megabytes of text for 20 tokens": (once(said({"content": "<f>" * 1_300_000})), None),
    "most of the key as escapes": (once(said({"content": ESCAPED_KEY})), None),
    "a redirect with ESC": (once(http({}, "303 R", location="http://h/\x9b2J")), "redirects"),
}


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    """The forks need not import the client again."""
    with hostile(once(said({"content": "a"}))) as server:
        ask(server, timeout=60.0)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_answer_ends_in_time_and_in_memory(name: str) -> None:
    answer, expected = ATTACKS[name]
    timeout = TIMEOUT if expected == SLOW or name.startswith("asks") else 8.0
    with hostile(answer) as server:
        found = contained(lambda: ask(server, timeout=timeout, max_retries=2 if name.startswith("asks") else 0))
    assert found.seconds < timeout + 2.0, found
    if expected is None:
        assert found.error is None and found.value.tokens == 0, found
        assert len(found.value.message.tool_calls) <= 20
        return
    assert isinstance(found.error, EngineError), found
    message = str(found.error)
    assert found.error.problem.isprintable() and len(message) < 600, message
    assert re.search(expected, message), message


# What is sent, and where


def test_headers_from_the_environment_go_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "OPENAI_ORG_ID": "org-private",
        "OPENAI_PROJECT_ID": "project-private",
        "OPENAI_CUSTOM_HEADERS": "X-Mine: custom-private\nAuthorization: Bearer other-private",
        "OPENAI_ADMIN_KEY": "admin-private",
        "OPENAI_API_KEY": "default-private",
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
    }.items():
        monkeypatch.setenv(name, value)
    with hostile(
        once(
            said(
                {"content": "a"},
            )
        )
    ) as server:
        ask(server, timeout=TIMEOUT)
        ask(server, api_key=None, timeout=TIMEOUT)
    heads = [request.head.lower() for request in server.requests]
    assert all("private" not in head and "x-stainless" not in head and "cookie" not in head for head in heads)
    assert "authorization" in heads[0] and "authorization" not in heads[1]
    assert "accept-encoding: identity" in heads[0]


def test_cookies_are_not_kept() -> None:
    answer = http({"choices": [{"message": {"content": "a"}}]}, set_cookie="track=1; Path=/")
    with hostile(once(answer)) as server, EndpointEngine(server.url, "small", timeout=5.0) as engine:
        for _ in range(2):
            engine.reply([ChatRequest((Message("user", "hi"),), ())], Sampling(5))
    assert "track" not in server.requests[1].head


def test_a_redirect_sends_nothing_to_the_other_server() -> None:
    with (
        hostile(once(said({"content": "a"}))) as other,
        hostile(once(http({}, "307 R", location=f"{other.url}/chat/completions"))) as server,
    ):
        with pytest.raises(EngineError, match=r"redirects to .*not followed"):
            ask(server, timeout=TIMEOUT)
        assert other.requests == []


def test_a_server_on_this_machine_is_not_reached_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with hostile(once(b"")) as proxy, hostile(once(said({"content": "direct"}))) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://me:hidden@127.0.0.1:{proxy.port}")
        reply = ask(server, timeout=TIMEOUT)
        assert reply is not None and reply.message.content == "direct"
        with pytest.raises(EngineError) as caught, EndpointEngine("http://192.0.2.1/v1", "m", max_retries=0) as engine:
            engine.models()
    assert len(proxy.requests) == 1 and "hidden" not in str(caught.value)


def test_a_proxy_that_cannot_be_used_is_an_error_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for proxy in ("ftp://me:hidden@h", "socks5://me:hidden@h", "http://me:hidden@h:x"):
        monkeypatch.setenv("http_proxy", proxy)
        with pytest.raises(EngineError, match="the proxy that the environment names") as caught:
            EndpointEngine("http://192.0.2.1/v1", "m")
        assert "hidden" not in "".join(traceback.format_exception(caught.value))


# The list of models


@pytest.mark.parametrize(
    "names",
    [
        ["\x1b]0;evil\x07"], ["a\nb"], [""], ["a" * 10**6], [7], [None], [{"id": "x"}], ["a\u202eb"], ["\ud800"],
    ],
    ids=["escape", "line", "empty", "long", "number", "null", "object", "order", "surrogate"],
)  # a table  # fmt: skip
def test_names_of_models_that_no_screen_should_show_are_refused(names: list[Any]) -> None:
    listed = http({"data": [{"id": name} for name in names]})
    with (
        hostile(once(listed)) as server,
        EndpointEngine(server.url, "", timeout=5.0) as engine,
        pytest.raises(EngineError, match="did not answer with a list of models") as caught,
    ):
        engine.models()
    assert caught.value.problem.isprintable() and len(str(caught.value)) < 600


def test_a_long_list_of_models_is_cut() -> None:
    listed = http({"data": [{"id": f"model-{i}"} for i in range(10**5)]})
    with hostile(once(listed)) as server, pytest.raises(EngineError, match="serves 100000 models") as caught:
        only_model(server.url)
    assert len(str(caught.value)) < 600 and "and 99,980 more" in str(caught.value)


# One request does not outlive the engine


def test_what_a_deadline_leaves_behind_ends_with_the_engine() -> None:
    before = threading.active_count()
    with hostile(drip(OK, b"x: y\r\n", 0.02)) as server:
        with pytest.raises(EngineError, match=SLOW):
            ask(server, timeout=TIMEOUT)
        deadline = time.monotonic() + 5
        while threading.active_count() > before + 2 and time.monotonic() < deadline:  # the server has two
            time.sleep(0.02)
        assert threading.active_count() <= before + 2
