"""Tools of MCP servers: good ones, and the ways in which others break."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mentor_edge.errors import ToolServerError
from mentor_edge.messages import ToolCall
from mentor_edge.tools.executor import ToolExecutor, ToolRequest
from mentor_edge.tools.mcp_client import McpServer
from mentor_edge.tools.types import Tool, ToolFailure

SERVERS = Path(__file__).parent / "mcp_servers"
LONG = 30.0  # seconds; reached only when something is broken


def server(script: str, *arguments: str, **options: Any) -> McpServer:
    return McpServer([sys.executable, str(SERVERS / script), *arguments], name=script, **options)


@contextmanager
def http_server(port: int = 0) -> Iterator[int]:
    command = [sys.executable, str(SERVERS / "good.py"), "--http", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def named(opened: McpServer) -> dict[str, Tool]:
    return {tool.name: tool for tool in opened.tools()}


def call(tool: Tool, timeout: float = LONG, /, **arguments: Any) -> str:
    assert tool.remote is not None
    return tool.remote(arguments, timeout).result(2 * LONG)


def failure(tool: Tool, timeout: float = LONG, /, **arguments: Any) -> str:
    with pytest.raises(ToolFailure) as caught:
        call(tool, timeout, **arguments)
    return str(caught.value)


def wait_until_gone(processes: Sequence[int]) -> None:
    deadline = time.monotonic() + LONG
    while left := [pid for pid in processes if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"{left} are still there"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def by_pipe() -> Iterator[dict[str, Tool]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MY_API_KEY", "secret")
        with server("good.py", environment={"GIVEN": "1"}) as opened:
            yield named(opened)


@pytest.fixture(scope="module")
def by_http() -> Iterator[dict[str, Tool]]:
    with http_server() as port, McpServer(f"http://127.0.0.1:{port}/mcp") as opened:
        yield named(opened)


@pytest.fixture(params=["by_pipe", "by_http"])
def good(request: pytest.FixtureRequest) -> dict[str, Tool]:
    tools: dict[str, Tool] = request.getfixturevalue(request.param)
    return tools


# Good servers


def test_a_tool_is_what_the_server_says_it_is(good):
    assert {"add", "echo", "counter", "slow"} <= good.keys()
    assert good["add"].description == "a plus b"
    assert good["add"].argument_error({"a": 1, "b": 2}) is None
    assert good["add"].argument_error({"a": 1}) == "'b' is a required property"


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("add", {"a": 1, "b": 2}, "3"),
        ("add", {"a": 0, "b": 0}, "0"),
        ("echo", {"text": ""}, ""),
        ("echo", {"text": "ü☃\n\u2028"}, "ü☃\n\u2028"),
        ("nothing", {}, ""),
        ("picture", {}, "a dot\n[image image/png, 5 bytes]"),
        ("documents", {}, "read me\n[resource memo://2]"),
        ("only_data", {}, '{"answer": 0}'),
        ("big", {"n": 8192}, "x" * 8192),
    ],
)
def test_the_model_reads_the_text_of_a_result(good, name, arguments, text):
    assert call(good[name], **arguments) == text


def test_a_failed_call_says_why(good):
    assert failure(good["fail"]) == "Error executing tool fail"
    assert "valid integer" in failure(good["add"], a="x", b=1)
    assert failure(good["big"], n=8193) == "the tool returned 8193 characters (limit 8192)"


def test_a_server_remembers_between_calls(good):
    first = int(call(good["counter"]))
    assert int(call(good["counter"])) == first + 1


def test_calls_run_at_the_same_time(good):
    calls = [good["meet"].remote({"people": 8}, LONG) for _ in range(8)]
    assert [pending.result(LONG) for pending in calls] == ["8"] * 8


def test_a_call_that_takes_too_long_fails_alone(good):
    patient = good["slow"].remote({"seconds": 1.0}, LONG)
    assert failure(good["slow"], 0.2, seconds=60) == "the tool did not return within 0.2 s"
    assert call(good["add"], a=1, b=1) == "2"
    assert patient.result(LONG) == "done"


@pytest.mark.parametrize(
    "text", ["\ud800", float("nan"), json.loads("[" * 600 + "]" * 600), json.loads("[" * 199 + "]" * 199)]
)
def test_arguments_that_json_cannot_hold_fail_alone(good, text):
    assert "the arguments cannot be sent" in failure(good["echo"], text=text)
    assert call(good["echo"], text="x") == "x"


def test_a_server_sees_no_more_of_the_environment_than_it_is_given(by_pipe):
    seen = json.loads(call(by_pipe["environment"]))
    assert seen["GIVEN"] == "1" and "PATH" in seen and "MY_API_KEY" not in seen


def test_a_long_list_of_tools_is_read_to_its_end():
    with server("pages.py", "3") as opened:
        assert [call(tool) for tool in opened.tools()] == ["tool0", "tool1", "tool2"]


def test_a_server_that_knows_only_the_newest_protocol_is_understood():
    with server("modern.py", ping_timeout=LONG) as opened:
        (work,) = opened.tools()
        process = call(work)
        failure(work, 0.1, wait=True)
        assert [call(work) for _ in range(2)] == [process] * 2  # it refused the ping, which is an answer


def test_a_closed_server_refuses_calls_and_opens_again():
    opened = server("slow.py", "late")
    (work,) = opened.tools()
    assert work.remote is not None
    under_way = work.remote({"seconds": 60}, LONG)
    process = call(work)
    opened.close()
    opened.close()
    assert "was closed" in str(under_way.exception(LONG))
    assert failure(work) == "the MCP server 'slow.py' is closed"
    (again,) = opened.tools()
    assert call(again) == call(work) != process
    opened.close()


def test_the_executor_runs_tools_of_servers(good):
    calls = [("add", {"a": 1, "b": 2}), ("fail", {}), ("add", {"a": 1}), ("slow", {"seconds": 60})]
    with ToolExecutor(timeout=0.5) as executor:
        results = executor.run_all([ToolRequest(ToolCall(name, arguments), good) for name, arguments in calls])
    assert [result.failed for result in results] == [False, True, True, True]
    assert results[0].content == "3"
    for result, said in zip(results[1:], ("Error executing", "required property", "within 0.5 s"), strict=True):
        assert said in json.loads(result.content)["error"]


# Bad servers

START = [
    ("crashes.py start", "ended with exit code 3; its last lines on standard error:\n  the disk is on fire"),
    ("crashes.py list", "ended with exit code 3"),
    ("slow.py never", "did not answer within 0.5 s"),
    ("malformed.py start", "did not answer within 2 s; lines that it wrote and that are no JSON-RPC: 1"),
    ("malformed.py shape", "cannot be used: the answer is not MCP (capabilities: Field required)"),
    ("pages.py 1000", "cannot be used: it lists more than 256 tools"),
    ("no_such_script.py", "No such file or directory"),
]


@pytest.mark.parametrize(("command", "said"), START, ids=[command for command, _ in START])
def test_a_server_that_cannot_be_used_is_one_clear_error(command, said):
    script, *arguments = command.split()
    limit = re.search(r"did not answer within (\S+) s", said)
    opened = server(script, *arguments, start_timeout=float(limit[1]) if limit else LONG)
    with pytest.raises(ToolServerError) as caught:
        opened.tools()
    assert f"the MCP server {script!r} " in caught.value.problem and said in caught.value.problem
    assert caught.value.hint is not None


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("/no/such/program x", "'/no/such/program x' cannot be started: No such file or directory"),
        ("true", "ended with exit code 0"),
        ("python 'unclosed", "No closing quotation"),
        ("", "is empty"),
        ("http://user:secret@127.0.0.1:9/mcp?key=secret", "'http://127.0.0.1:9/mcp' cannot be used"),
    ],
)
def test_a_target_that_is_none_is_one_clear_error(target, said):
    with pytest.raises(ToolServerError) as caught:
        McpServer(target).tools()
    assert said in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no object", "Input should be 'object'"),
        ("no schema", "its tool 'broken' wrongly: properties.x.type: 'nonsense' is not"),
        ("nowhere", "the reference 'http://0.0.0.0/x' leads nowhere"),
        ("endless", "it has no end"),
        ("no name", "name: Field required"),
    ],
)
def test_a_tool_that_nobody_can_call_is_refused(how, said):
    with server("malformed.py", "tools", how) as opened, pytest.raises(ToolServerError) as caught:
        opened.tools()
    assert said in caught.value.problem


LATE = "did not return within 0.5 s"
BAD_CALLS = [
    ("crashes.py call", "crash", "ended with exit code 3; a further call tries again, but what it remembered is lost"),
    ("crashes.py call", "kill", "was ended by signal 9 (Killed)"),
    ("malformed.py calls", "garbage around", None),
    ("malformed.py calls", "invalid utf-8", None),
    ("malformed.py calls", "only garbage", f"{LATE}; lines that it wrote and that are no JSON-RPC: 1"),
    ("malformed.py calls", "wrong id", LATE),
    ("malformed.py calls", "wrong version", LATE),
    ("malformed.py calls", "a list", LATE),
    ("malformed.py calls", "null", LATE),
    ("malformed.py calls", "wrong error", LATE),
    ("malformed.py calls", "wrong shape", "the answer is not MCP (content: Input should be a valid list)"),
    ("malformed.py calls", "error", "out of cheese"),
    ("malformed.py calls", "twice", None),
    ("malformed.py calls", "asks back", None),
    ("bursts.py", "some messages", None),
    ("bursts.py", "messages", "was ended: it sent more than 5000 messages in 10 s"),
    ("bursts.py", "requests", "was ended: it sent more than 5000 messages in 10 s"),
    ("bursts.py", "a message", "was ended: it wrote a line of more than 4194304 bytes"),
    ("bursts.py", "errors", None),
]


@pytest.mark.parametrize(("command", "how", "said"), BAD_CALLS, ids=[f"{c}-{h}" for c, h, _ in BAD_CALLS])
def test_a_bad_server_fails_in_words_works_on_and_disturbs_no_other(by_pipe, command, how, said):
    script, *arguments = command.split()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with server(script, *arguments) as opened:
        (work,) = opened.tools()
        assert work.remote is not None
        bad = work.remote({"how": how}, 0.5 if said and LATE in said else LONG)
        while True:
            assert call(by_pipe["add"], a=1, b=2) == "3"
            if bad.done():
                break
        if said is None:
            bad.result()
        else:
            assert said in str(bad.exception())
        assert call(work) in ("still here", "well said", "done")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 200 * 1024  # KiB


def test_a_server_that_is_late_is_told_and_goes_on():
    with server("slow.py", "late") as opened:
        (work,) = opened.tools()
        assert "did not return within 0.1 s" in failure(work, 0.1, seconds=0.5)
        assert call(work).startswith("1 cancelled")
        assert call(work, seconds=0.6) == "late"  # its own answer, not the one that came after its time


def test_a_server_that_answers_no_ping_is_restarted():
    with server("slow.py", "deaf", ping_timeout=0.2) as opened:
        (work,) = opened.tools()
        assert "did not return within 0.1 s" in failure(work, 0.1, seconds=60)
        assert "was ended: it did not answer a ping within 0.2 s" in failure(work)
        assert call(work).startswith("0 cancelled")


def test_all_calls_under_way_fail_with_their_server_and_the_next_start_one_anew():
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


def test_a_server_that_keeps_crashing_is_given_up_for_a_while(monkeypatch):
    with server("crashes.py", "call") as opened:
        (work,) = opened.tools()
        for _ in range(4):
            assert "exit code 3" in failure(work, how="crash")
        for _ in range(2):
            assert failure(work) == "the MCP server 'crashes.py' keeps ending: it was restarted 3 times in 60 s"
        monkeypatch.setattr("mentor_edge.tools.mcp_client.RESTART_SECONDS", 0.0)  # as if that time had passed
        assert call(work) == "still here"


def test_a_url_that_forgets_its_session_is_connected_anew():
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


def test_a_url_that_is_no_mcp_server_is_one_clear_error():
    heard: list[str | None] = []

    class Web(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.headers["X-Key"])
            self.send_response(200)
            self.send_header("content-type", self.path[1:])
            self.end_headers()
            try:
                for _ in range(100):
                    self.wfile.write(b"x" * 1_000_000)
            except OSError:
                heard.append("hung up")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        for kind in ("text/html", "application/json", "text/event-stream"):
            with pytest.raises(ToolServerError, match="cannot be used"):
                McpServer(f"http://127.0.0.1:{web.server_port}/{kind}", headers={"X-Key": "k"}).tools()
        web.shutdown()
    assert heard.count("k") == heard.count("hung up")  # nobody reads 100 MB


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
from mentor_edge.tools.mcp_client import McpServer
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
def test_a_program_that_ends_takes_its_servers_along_and_prints_nothing_of_them(ending, code, how):
    commands = [f"{SERVERS / 'grandchild.py'} {how}", f"{SERVERS / 'malformed.py'} calls"]
    done = subprocess.run(
        [sys.executable, "-c", USER + ending, "", *commands], capture_output=True, text=True, timeout=2 * LONG
    )
    processes = [int(pid) for pid in done.stdout.split()]
    assert (done.returncode, len(processes), done.stderr) == (code, 4, "")
    wait_until_gone(processes)


def test_a_fork_is_told_that_the_server_is_not_its_own(by_pipe):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            said = by_pipe["add"].remote({"a": 1, "b": 2}, 1.0).exception(1.0)
            with server("crashes.py", "call") as own:
                os.write(writer, f"{said!r} {call(own.tools()[0])}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader) as pipe:
        said = pipe.read()
    assert said.startswith("ToolFailure") and "belongs to another process" in said and said.endswith("still here")
    assert call(by_pipe["add"], a=1, b=2) == "3"


def test_the_log_of_a_server_does_not_grow_for_ever(tmp_path):
    floods = "import sys\nfor _ in range(200): print('E' * 100_000, file=sys.stderr)"
    command = [sys.executable, "-m", "mentor_edge.tools.supervise", str(os.getpid()), sys.executable, "-c", floods]
    with (tmp_path / "log").open("a") as log:
        assert subprocess.run(command, stderr=log, timeout=LONG).returncode == 0
    written = (tmp_path / "log").read_text()
    assert len(written) < 2_000_000 and written.endswith("EEE\nmentor-edge: the server ended with exit code 0\n")
