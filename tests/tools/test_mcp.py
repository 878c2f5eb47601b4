"""Tools of MCP servers that work."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from helpers.server_calls import LONG, call, failure, http_server, named, server
from mentor_edge.messages import ToolCall
from mentor_edge.tools.execution.executor import ToolExecutor, ToolRequest
from mentor_edge.tools.mcp.client import McpServer
from mentor_edge.tools.types import Tool


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


def test_a_tool_matches_the_servers_description(good):
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
        ("documents", {}, 'read me\n[resource memo://2 {"name": "other"}]'),
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
    slower = good["slow"].remote({"seconds": 1.0}, LONG)
    assert failure(good["slow"], 0.2, seconds=60) == "the tool did not return within 0.2 s"
    assert call(good["add"], a=1, b=1) == "2"
    assert slower.result(LONG) == "done"


@pytest.mark.parametrize(
    "text", ["\ud800", float("nan"), json.loads("[" * 600 + "]" * 600), json.loads("[" * 199 + "]" * 199)]
)
def test_arguments_that_json_cannot_express_fail_alone(good, text):
    assert "the arguments cannot be sent" in failure(good["echo"], text=text)
    assert call(good["echo"], text="x") == "x"


def test_a_server_sees_only_the_environment_it_is_given(by_pipe):
    visible = json.loads(call(by_pipe["environment"]))
    assert visible["GIVEN"] == "1" and "PATH" in visible and "MY_API_KEY" not in visible


def test_a_long_list_of_tools_is_read_to_its_end():
    with server("pages.py", "3") as opened:
        assert [call(tool) for tool in opened.tools()] == ["tool0", "tool1", "tool2"]


def test_a_server_that_speaks_only_the_newest_protocol_works():
    with server("modern.py", ping_timeout=LONG) as opened:
        (work,) = opened.tools()
        process = call(work)
        failure(work, 0.1, wait=True)
        assert [call(work) for _ in range(2)] == [process] * 2  # it refused the ping, which is an answer


def test_a_closed_server_refuses_calls_and_opens_again():
    opened = server("slow.py", "late")
    (work,) = opened.tools()
    assert work.remote is not None
    in_progress = work.remote({"seconds": 60}, LONG)
    process = call(work)
    opened.close()
    opened.close()
    assert "was closed" in str(in_progress.exception(LONG))
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
    for result, message in zip(results[1:], ("Error executing", "required property", "within 0.5 s"), strict=True):
        assert message in json.loads(result.content)["error"]
