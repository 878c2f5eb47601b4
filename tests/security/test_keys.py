"""Where a key is sent, and that it appears nowhere else: not in errors, tracebacks, rows or logs."""

from __future__ import annotations

import json
import os
import re
import traceback
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from helpers.command_line import run_command
from helpers.hostile_server import KEY, ask, hostile, http, once, said
from mentor_edge.engines.endpoint import EndpointEngine, checked_url
from mentor_edge.errors import EngineError


def percent(text: str) -> str:
    return "".join(f"%{ord(character):02x}" for character in text)


SPELLINGS = {
    "as it is": KEY,
    "in capitals": KEY.upper(),
    "URL-encoded": quote(KEY, safe=""),
    "every character URL-encoded": percent(KEY),
    "over two lines": f"{KEY[:9]}\n{KEY[9:]}",
    "over many lines": "\r\n  ".join(KEY),
    "with zero-width spaces": "\u200b".join(KEY),
    "at the end of a cut text": "x" * 190 + KEY,
}
PLACES = {
    "the message of 401": lambda text: http({"error": {"message": f"bad key {text}"}}, "401 E"),
    "the message of 400": lambda text: http({"error": {"message": text, "param": text}}, "400 E"),
    "a page": lambda text: http(f"<html>{text}</html>".encode(), "502 E"),
    "what is not JSON": lambda text: http(f"oops {text}".encode()),
    "another JSON": lambda text: http({text: [text]}),
    "a redirect": lambda text: http({}, "307 E", location=f"http://h/{quote(text)}"),
    "the answer": lambda text: said({"content": f"the key is {text}"}),
    "an escaped answer": lambda text: http(
        b'{"choices": [{"message": {"content": "'
        + "".join(f"\\u{ord(character):04x}" for character in text).encode()
        + b'"}}]}'
    ),
    "a call": lambda text: said({"tool_calls": [{"function": {"name": "add", "arguments": json.dumps({"a": text})}}]}),
}


ATTACKS = {f"{place}: {how}": answer(text) for place, answer in PLACES.items() for how, text in SPELLINGS.items()}


def squeezed(text: str) -> str:
    """The letters and digits of a text, URL-decoded."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"\\+[nrtu]([0-9a-f]{4})?", "", unquote(text).lower()))


@pytest.mark.parametrize("name", ATTACKS)
def test_the_key_is_in_nothing_that_the_server_says(name: str) -> None:
    with hostile(once(ATTACKS[name])) as server:
        try:
            shown = repr(ask(server, timeout=8.0, max_retries=0))
        except EngineError as error:
            chain = repr((error.__cause__, error.__context__))
            shown = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error)) + chain
    assert squeezed(KEY)[:10] not in squeezed(shown), shown
    assert f"authorization: Bearer {KEY}" in server.requests[0].head


@pytest.mark.parametrize(
    "key", ["sk-12345678\r\nX-More: 1", "sk-12345678\n", "sk 12345678", "sk-12345678\u2026", "a\x00b"]
)
def test_a_key_that_no_header_can_carry_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(EngineError, match="the API key contains spaces, line breaks") as caught:
        EndpointEngine("http://127.0.0.1:9/v1", "small", api_key=key)
    assert "12345678" not in repr(caught.value)


def test_a_placeholder_is_not_looked_for() -> None:
    with hostile(once(said({"content": "none of the above"}))) as server:
        reply = ask(server, api_key="none")
    assert reply is not None and reply.message.content == "none of the above"


URLS = [
    "http://[::1/v1", "http://h:port/v1", "http://h:99999/v1", "http://h:0/v1", "http://h\x1b[2J/v1", "http://h/\n",
    "http:///v1", "https:/me:hidden@h/v1", "http://me:hidden@[h/v1", "http://h/v1?key=hidden", "//h/v1", "http://h/\u202e",
    "http://" + "a" * 10**5 + ":b",
]  # a table  # fmt: skip


@pytest.mark.parametrize("url", URLS, ids=range(len(URLS)))
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(EngineError) as caught:
        checked_url(url)
    assert "hidden" not in str(caught.value) and len(str(caught.value)) < 400 and caught.value.problem.isprintable()


def test_a_traceback_shows_neither_the_key_nor_the_servers_words(tmp_path: Path) -> None:
    answer = http({"error": {"message": f"wrong key \x1b[31m{KEY} marker"}}, "401 E")
    with hostile(once(answer)) as server:
        done = run_command(
            "evaluate", server.url, "--model", "m", "--suite", "nano", "--limit", "1",
            cwd=tmp_path, environment={**os.environ, "OPENAI_API_KEY": KEY, "MENTOR_EDGE_DEBUG": "1"},
        )  # fmt: skip
    assert "Traceback" in done.stderr and "refuses the API key" in done.stderr
    assert squeezed(KEY)[:10] not in squeezed(done.stderr) and "\x1b" not in done.stderr


def test_the_default_key_is_not_sent_to_any_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mentor_edge.cli.evaluate import _api_key

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "https://own.example/v1/")
    for url in ("https://api.openai.com/v1", "http://localhost:8000/v1", "http://[::1]/v1", "https://own.example/v1"):
        assert _api_key(url, None) == KEY
    for url in ("http://api.openai.com/v1", "https://openai.com.example/v1", "http://10.0.0.1/v1", "https://a.example"):
        assert _api_key(url, None) is None and _api_key(url, "OPENAI_API_KEY") == KEY
