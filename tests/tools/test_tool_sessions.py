"""Sessions, which keep the state of tools, and tools that run elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from helpers.tool_requests import ACCOUNT, ANYTHING, Account, is_alive, wait_until, wrap
from mentor_edge.messages import ToolCall
from mentor_edge.tools.definition import tool_set
from mentor_edge.tools.execution.executor import ToolExecutor, ToolRequest, ToolResult
from mentor_edge.tools.types import Tool, ToolFailure

# Conversations


@pytest.fixture(scope="module")
def patient():
    with ToolExecutor(timeout=20) as shared:
        yield shared


def test_state_is_kept_within_a_conversation_and_not_between(patient):
    with patient.session() as first, patient.session() as second:
        for amount in (1, 2):
            patient.run(ToolCall("add", {"amount": amount}), ACCOUNT, first)
        assert patient.run(ToolCall("add", {"amount": 10}), ACCOUNT, second).content == "10"
        assert patient.run(ToolCall("total", {}), ACCOUNT, first).content == "3"
        first.close()
        assert patient.run(ToolCall("total", {}), ACCOUNT, first).content == "0"
    assert patient.run(ToolCall("add", {"amount": 5}), ACCOUNT).content == "5"
    assert patient.run(ToolCall("total", {}), ACCOUNT).content == "0"


def test_calls_of_a_conversation_keep_their_order_among_many_others(patient):
    sessions = [patient.session() for _ in range(12)]
    mixed = {**ACCOUNT, **wrap(lambda: time.sleep(0.01))}
    calls = [(s, ToolCall("add", {"amount": i})) for i in (1, 2, 3) for s in sessions]
    calls[6:6] = [(s, ToolCall("t", {})) for s in sessions]
    results = patient.run_all([ToolRequest(call, mixed, s) for s, call in calls])
    paid = [result.content for (_, call), result in zip(calls, results, strict=True) if call.name == "add"]
    assert paid == ["1"] * 12 + ["3"] * 12 + ["6"] * 12
    pids = {int(patient.run(ToolCall("process", {}), mixed, s).content) for s in sessions}
    assert len(pids) == 12
    for session in sessions:
        session.close()
    wait_until(lambda: not any(map(is_alive, pids)), "the processes of closed sessions end")


@pytest.mark.parametrize(("how", "message"), [("hang", "did not return within"), ("crash", "exit code 3")])
def test_a_conversation_that_loses_its_state_is_informed_and_gets_new_state(how, message):
    with ToolExecutor(timeout=1) as executor, executor.session() as lost, executor.session() as other:
        for session in (lost, other):
            executor.run(ToolCall("add", {"amount": 7}), ACCOUNT, session)
        names = [("end", {"how": how}), ("total", {}), ("add", {"amount": 1})]
        results = executor.run_all([ToolRequest(ToolCall(*call), ACCOUNT, lost) for call in names])
        assert message in results[0].content and "is lost" in results[0].content
        assert [result.content for result in results[1:]] == ["0", "1"]
        assert executor.run(ToolCall("total", {}), ACCOUNT, other).content == "7"


def test_state_survives_tools_that_are_offered_later(patient):
    with patient.session() as session:
        patient.run(ToolCall("add", {"amount": 7}), ACCOUNT, session)
        assert patient.run(ToolCall("t", {}), wrap(lambda: "new"), session).content == "new"
        assert patient.run(ToolCall("total", {}), ACCOUNT, session).content == "7"
        late = Tool("late", "", ANYTHING, lambda account: account.balance, state=Account)
        refused = patient.run(ToolCall("late", {}), {**ACCOUNT, "late": late}, session)
        assert refused.failed and "not offered when the conversation began" in refused.content


def test_state_that_cannot_be_created_is_an_error_text(patient):
    class Broken:
        def __init__(self) -> None:
            raise OSError("no database")

        def ask(self) -> int:
            """Asks."""
            return 1

    tools = {t.name: t for t in tool_set(Broken)}
    with patient.session() as session:
        for where in (session, None):
            assert "OSError: no database" in patient.run(ToolCall("ask", {}), tools, where).content


# Tools that run elsewhere


def remote(start: Callable[..., Future[str]]) -> dict[str, Tool]:
    return {"r": Tool("r", "runs elsewhere", ANYTHING, lambda: None, remote=start)}


def settled(value: Any) -> Future[str]:
    future: Future[str] = Future()
    future.set_exception(value) if isinstance(value, BaseException) else future.set_result(value)
    return future


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("fine \ud800", ToolResult("fine ?")),
        ("", ToolResult("")),
        ("x" * 9000, "returned 9000 characters"),
        (ToolFailure("the server said no"), '{"error": "the server said no"}'),
        (RuntimeError("bad"), "RuntimeError: bad"),
        (7, "AttributeError"),
    ],
)
def test_a_remote_result_is_read_like_any_other(patient, value, expected):
    result = patient.run(ToolCall("r", {}), remote(lambda arguments, timeout: settled(value)))
    assert result == expected if isinstance(expected, ToolResult) else result.failed and expected in result.content


def test_a_remote_call_that_cannot_start_or_never_ends_is_an_error():
    def broken(arguments: Any, timeout: float) -> Future[str]:
        raise ConnectionError("nobody there")

    forever: Future[str] = Future()
    with ToolExecutor(timeout=0.2) as executor:
        assert "nobody there" in executor.run(ToolCall("r", {}), remote(broken)).content
        hung = executor.run(ToolCall("r", {}), remote(lambda arguments, timeout: forever))
    assert "did not return within 0.2 s" in hung.content and forever.cancelled()


def test_remote_calls_run_in_parallel_with_the_pool_and_in_the_order_of_their_conversation(tmp_path):
    """The pool's call triggers the answer of the remote call, and only then does the session's next call start."""
    log: list[str] = []

    def start(arguments: Any, timeout: float) -> Future[str]:
        log.append(f"remote {arguments['n']}")
        future: Future[str] = Future()

        def answer() -> None:
            wait_until(lambda: (tmp_path / "mark").exists(), "the pool's call runs meanwhile")
            future.set_result(f"after the mark {arguments['n']}")

        threading.Thread(target=answer).start()
        return future

    tools = {**remote(start), **wrap(lambda: (tmp_path / "mark").touch()), **ACCOUNT}
    with ToolExecutor(timeout=30) as executor, executor.session() as session:
        calls = [("r", {"n": 1}), ("add", {"amount": 1}), ("r", {"n": 2}), ("add", {"amount": 1})]
        lane = [ToolRequest(ToolCall(*call), tools, session) for call in calls]
        results = executor.run_all([*lane, ToolRequest(ToolCall("t", {}), tools)])
    assert [result.content for result in results] == ["after the mark 1", "1", "after the mark 2", "2", "null"]
    assert log == ["remote 1", "remote 2"]
