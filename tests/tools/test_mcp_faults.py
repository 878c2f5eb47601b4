"""Broken MCP servers: each fault is an error message, and no process is left."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from helpers.server_calls import LONG, SERVERS, call, failure, http_server, named, server
from mentor_edge.errors import ToolServerError
from mentor_edge.tools.mcp import connection
from mentor_edge.tools.mcp.client import McpServer
from mentor_edge.tools.types import Tool


def wait_until_gone(processes: Sequence[int]) -> None:
    deadline = time.monotonic() + LONG
    while left := [pid for pid in processes if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"{left} are still there"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def good() -> Iterator[dict[str, Tool]]:
    with server("good.py") as opened:
        yield named(opened)


# Bad servers

START = [
    ("crashes.py start", "ended with exit code 3; its last lines on standard error:\n  the disk is on fire"),
    ("crashes.py list", "ended with exit code 3"),
    ("slow.py never", "did not answer within 0.5 s"),
    ("malformed.py start", "did not answer within 2 s; lines it wrote that are not JSON-RPC: 1"),
    ("malformed.py shape", "cannot be used: the answer is not MCP (capabilities: Field required)"),
    ("pages.py 1000", "cannot be used: it lists more than 256 tools"),
    ("no_such_script.py", "No such file or directory"),
]


@pytest.mark.parametrize(("command", "message"), START, ids=[command for command, _ in START])
def test_a_server_that_cannot_be_used_is_one_clear_error(command, message):
    script, *arguments = command.split()
    limit = re.search(r"did not answer within (\S+) s", message)
    opened = server(script, *arguments, start_timeout=float(limit[1]) if limit else LONG)
    with pytest.raises(ToolServerError) as caught:
        opened.tools()
    assert f"the MCP server {script!r} " in caught.value.problem and message in caught.value.problem
    assert caught.value.hint is not None


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/no/such/program x", "'/no/such/program x' cannot be started: No such file or directory"),
        ("true", "ended with exit code 0"),
        ("python 'unclosed", "No closing quotation"),
        ("", "is empty"),
        ("http://user:secret@127.0.0.1:9/mcp?key=secret", "'http://127.0.0.1:9/mcp' cannot be used"),
    ],
)
def test_an_unusable_target_is_one_clear_error(target, message):
    with pytest.raises(ToolServerError) as caught:
        McpServer(target).tools()
    assert message in str(caught.value) and "secret" not in str(caught.value)


LATE = "did not return within 0.5 s"
BAD_CALLS = [
    ("crashes.py call", "crash", "ended with exit code 3; a further call tries again, but what it remembered is lost"),
    ("crashes.py call", "kill", "was ended by signal 9 (Killed)"),
    ("malformed.py calls", "garbage around", None),
    ("malformed.py calls", "invalid utf-8", None),
    ("malformed.py calls", "only garbage", f"{LATE}; lines it wrote that are not JSON-RPC: 1"),
    ("malformed.py calls", "wrong id", LATE),
    ("malformed.py calls", "wrong version", LATE),
    ("malformed.py calls", "a list", None),
    ("malformed.py calls", "null", None),
    ("malformed.py calls", "wrong error", "out of cheese"),
    ("malformed.py calls", "wrong shape", None),
    ("malformed.py calls", "error", "out of cheese"),
    ("malformed.py calls", "twice", None),
    ("malformed.py calls", "asks back", None),
    ("bursts.py", "some messages", None),
    ("bursts.py", "messages", "was ended: it sent more than 5000 messages in 10 s"),
    ("bursts.py", "requests", "was ended: it sent more than 500 messages in 10 s"),
    ("bursts.py", "a message", "was ended: it wrote a line of more than 4194304 bytes"),
    ("bursts.py", "errors", None),
]


@pytest.mark.parametrize(("command", "how", "message"), BAD_CALLS, ids=[f"{c}-{h}" for c, h, _ in BAD_CALLS])
def test_a_bad_server_fails_with_a_message_then_works_and_affects_no_other(good, monkeypatch, command, how, message):
    if how == "requests":  # each is answered: a busy machine does not manage 5000 in 10 s
        monkeypatch.setattr(connection, "FLOOD_MESSAGES", 500)
    script, *arguments = command.split()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with server(script, *arguments) as opened:
        (work,) = opened.tools()
        assert work.remote is not None
        bad = work.remote({"how": how}, 0.5 if message and LATE in message else LONG)
        while True:
            assert call(good["add"], a=1, b=2) == "3"
            if bad.done():
                break
        if message is None:
            bad.result()
        else:
            assert message in str(bad.exception())
        assert call(work) in ("still here", "well said", "done")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 200 * 1024  # KiB


def test_a_late_call_is_cancelled_and_its_server_continues():
    with server("slow.py", "late") as opened:
        (work,) = opened.tools()
        assert "did not return within 0.1 s" in failure(work, 0.1, seconds=0.5)
        assert call(work).startswith("1 cancelled")
        assert call(work, seconds=0.6) == "late"  # its own answer, not the late one


def test_a_server_that_answers_no_ping_is_restarted():
    with server("slow.py", "deaf", ping_timeout=0.2) as opened:
        (work,) = opened.tools()
        assert "did not return within 0.1 s" in failure(work, 0.1, seconds=60)
        assert "was ended: it did not answer a ping within 0.2 s" in failure(work)
        assert call(work).startswith("0 cancelled")


def test_calls_in_progress_fail_with_their_server_and_later_calls_restart_it():
    with server("slow.py", "late") as opened:
        (work,) = opened.tools()
        assert work.remote is not None
        pending = [work.remote({"seconds": 60}, LONG) for _ in range(3)]
        process = call(work).split()[-1]
        os.kill(int(process), signal.SIGKILL)
        for lost in pending:
            assert "was ended by signal 9 (Killed)" in str(lost.exception(LONG))
        together = [work.remote({}, LONG) for _ in range(3)]
        after = {restarted.result(LONG).split()[-1] for restarted in together}
        assert len(after) == 1 and after != {process}


def test_a_server_that_keeps_crashing_is_not_restarted_for_a_while(monkeypatch):
    with server("crashes.py", "call") as opened:
        (work,) = opened.tools()
        for _ in range(4):
            assert "exit code 3" in failure(work, how="crash")
        for _ in range(2):
            assert failure(work) == "the MCP server 'crashes.py' keeps ending: it was restarted 3 times in 60 s"
        monkeypatch.setattr("mentor_edge.tools.mcp.client.RESTART_SECONDS", 0.0)  # as if that time had passed
        assert call(work) == "still here"


@pytest.mark.slow
def test_a_url_that_loses_its_session_is_reconnected():
    with http_server() as port, McpServer(f"http://127.0.0.1:{port}/mcp") as opened:
        tools = named(opened)
        pid = int(call(tools["pid"]))
        assert call(tools["counter"]) == "1"
        os.kill(pid, signal.SIGKILL)
        wait_until_gone_or_zombie(pid)
        with http_server(port):
            assert "has forgotten the session" in failure(tools["counter"])
            assert call(tools["counter"]) == "1"


def wait_until_gone_or_zombie(pid: int) -> None:
    while "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.01)


def test_a_url_that_is_not_an_mcp_server_is_one_clear_error():
    events: list[str | None] = []

    class Web(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            events.append(self.headers["X-Key"])
            self.send_response(200)
            self.send_header("content-type", self.path[1:])
            self.end_headers()
            try:
                for _ in range(100):
                    self.wfile.write(b"x" * 1_000_000)
            except OSError:
                events.append("disconnected")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        for kind in ("text/html", "application/json", "text/event-stream"):
            with pytest.raises(ToolServerError, match="cannot be used"):
                McpServer(f"http://127.0.0.1:{web.server_port}/{kind}", headers={"X-Key": "k"}).tools()
        web.shutdown()
    assert events.count("k") == events.count("disconnected")  # the client does not read 100 MB


# What servers leave behind


@pytest.mark.parametrize("how", ["close", "end", "kill", "stubborn"])
def test_nothing_that_a_server_started_outlives_it(how):
    with server("grandchild.py", how) as opened:
        (work,) = opened.tools()
        processes = [int(pid) for pid in call(work).split()]
        assert len(processes) == 4
        if how == "end":
            assert "exit code 4" in failure(work, end=True)
        elif how == "kill":
            os.kill(processes[0], signal.SIGKILL)
            wait_until_gone(processes)
    assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()]


USER = """
import os, signal, sys
from mentor_edge.tools.mcp import connection
from mentor_edge.tools.mcp.client import McpServer
from mentor_edge.tools.types import ToolFailure
servers = [McpServer([sys.executable, *command.split()]) for command in sys.argv[2:]]
tools = [server.tools()[0] for server in servers]
try:
    tools[1].remote({"how": "only garbage"}, 0.2).result()
except ToolFailure:
    print(tools[0].remote({}, 30).result(), flush=True)
"""


@pytest.mark.parametrize(
    ("ending", "code", "how"), [("os.kill(os.getpid(), signal.SIGKILL)", -9, "stubborn"), ("sys.exit()", 0, "")]
)
def test_servers_end_with_the_program_and_print_nothing(ending, code, how):
    commands = [f"{SERVERS / 'grandchild.py'} {how}", f"{SERVERS / 'malformed.py'} calls"]
    done = subprocess.run(
        [sys.executable, "-c", USER + ending, "", *commands], capture_output=True, text=True, timeout=2 * LONG
    )
    processes = [int(pid) for pid in done.stdout.split()]
    assert (done.returncode, len(processes), done.stderr) == (code, 4, "")
    wait_until_gone(processes)


def test_a_fork_cannot_use_the_servers_of_its_parent(good):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            message = good["add"].remote({"a": 1, "b": 2}, 1.0).exception(1.0)
            with server("crashes.py", "call") as own:
                os.write(writer, f"{message!r} {call(own.tools()[0])}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader) as pipe:
        message = pipe.read()
    assert (
        message.startswith("ToolFailure") and "belongs to another process" in message and message.endswith("still here")
    )
    assert call(good["add"], a=1, b=2) == "3"


def test_the_log_of_a_server_has_a_limited_size(tmp_path):
    floods = "import sys\nfor _ in range(200): print('E' * 100_000, file=sys.stderr)"
    command = [
        sys.executable,
        "-m",
        "mentor_edge.tools.mcp.server_supervisor",
        str(os.getpid()),
        sys.executable,
        "-c",
        floods,
    ]
    with (tmp_path / "log").open("a") as log:
        assert subprocess.run(command, stderr=log, timeout=LONG).returncode == 0
    written = (tmp_path / "log").read_text()
    assert len(written) < 2_000_000 and written.endswith("EEE\nmentor-edge: the server ended with exit code 0\n")
