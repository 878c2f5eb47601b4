"""Parallel calls: which worker runs them, and which other calls a bad one affects."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from helpers.tool_requests import ACCOUNT, ANYTHING, CALCULATORS, is_alive, meets, requests, wait_until, wrap
from mentor_edge.messages import ToolCall
from mentor_edge.tools.execution import pool, pool_supervisor, worker_handle
from mentor_edge.tools.execution.executor import ToolExecutor, ToolRequest, ToolResult
from mentor_edge.tools.types import Tool


def test_calls_of_many_rollouts_run_in_parallel(tmp_path):
    with ToolExecutor(timeout=60, workers=16) as executor:
        results = executor.run_all(requests(16, wrap(meets, directory=str(tmp_path), count=16)))
    assert results == [ToolResult("16")] * 16


def test_no_more_calls_run_at_once_than_there_are_workers(tmp_path):
    def most(directory: str) -> int:
        mine = Path(directory, str(os.getpid()))
        mine.touch()
        time.sleep(0.02)
        running = len(os.listdir(directory))
        mine.unlink()
        return running

    with ToolExecutor(workers=3) as executor:
        results = executor.run_all(requests(20, wrap(most, directory=str(tmp_path))))
    assert {int(result.content) for result in results} <= {1, 2, 3}


def test_results_come_in_the_order_of_the_requests():
    def slow_at_first(i: int) -> int:
        time.sleep(0.2 if i % 7 == 0 else 0)
        return i

    tools = {**wrap(slow_at_first), **CALCULATORS}
    calls = [ToolCall("t", {"i": i}) if i % 2 else ToolCall("add", {"a": i, "b": 0}) for i in range(40)]
    calls[3], calls[4] = ToolCall("nope", {}), ToolCall("add", {"a": "x", "b": 0})
    with ToolExecutor() as executor:
        results = executor.run_all([ToolRequest(call, tools) for call in calls])
    assert results[3].unknown_tool and "invalid arguments" in results[4].content
    assert [r.content for r in results[5:]] == [str(i) for i in range(5, 40)]


def test_quick_calls_share_a_process(monkeypatch):
    monkeypatch.setattr(pool, "PATIENCE_SECONDS", 60.0)
    with ToolExecutor() as executor:
        assert len({result.content for result in executor.run_all(requests(100, wrap(os.getpid)))}) == 1


def test_workers_that_are_no_longer_needed_end(monkeypatch, tmp_path):
    monkeypatch.setattr(worker_handle, "IDLE_SECONDS", 0.05)
    with ToolExecutor(timeout=60) as executor:
        executor.run_all(requests(4, wrap(meets, directory=str(tmp_path), count=4)))
        pids = [int(name.removeprefix("met-")) for name in os.listdir(tmp_path)]

        def few_are_left() -> bool:
            executor.run(ToolCall("t", {}), wrap(meets, directory=str(tmp_path), count=1))
            return sum(map(is_alive, pids)) == 1

        wait_until(few_are_left, "one worker is left of four")


def test_a_supervisor_that_does_not_respond_is_replaced(monkeypatch, tmp_path):
    monkeypatch.setattr(pool, "START_SECONDS", 0.5)
    monkeypatch.setattr(pool_supervisor, "_RESPONSE_SECONDS", 0.5)
    monkeypatch.setattr(pool_supervisor.PoolSupervisor, "_continue", lambda self: None)
    stop = Tool("stop", "", ANYTHING, lambda: os.kill(os.getppid(), signal.SIGSTOP))
    tools = {"stop": stop, **wrap(meets, directory=str(tmp_path), count=2)}
    with ToolExecutor(timeout=30) as executor:
        assert not executor.run(ToolCall("stop", {}), tools).failed
        assert any(result.failed for result in executor.run_all(requests(2, tools)))
        assert not any(result.failed for result in executor.run_all(requests(2, tools)))
        assert not executor.run(ToolCall("stop", {}), tools).failed


def test_a_call_that_hangs_or_crashes_costs_no_other_call_its_result():
    def misbehaves(how: str) -> str:
        if how == "hang":
            time.sleep(60)
        if how == "crash":
            os.abort()
        time.sleep(0.05)
        return how

    ways = ["fine"] * 14 + ["hang", "crash"]
    with ToolExecutor(timeout=2) as executor:
        results = executor.run_all([ToolRequest(ToolCall("t", {"how": how}), wrap(misbehaves)) for how in ways])
    assert [result.content for result in results[:14]] == ["fine"] * 14
    assert "did not return within 2 s" in results[14].content
    assert "exit code -6" in results[15].content


def test_threads_may_share_one_executor():
    tools = {name: t for name, t in CALCULATORS.items() if name == "add"}
    with ToolExecutor() as executor, ThreadPoolExecutor(4) as threads:
        batches = [[ToolRequest(ToolCall("add", {"a": i, "b": j}), tools) for j in range(20)] for i in range(20)]
        batches_of_results = list(threads.map(executor.run_all, batches))
    assert [[int(result.content) for result in batch] for batch in batches_of_results] == [
        [i + j for j in range(20)] for i in range(20)
    ]


def test_every_thread_may_have_its_own_executor():
    def work(i: int) -> list[str]:
        with ToolExecutor() as executor:
            return [result.content for result in executor.run_all(requests(10, wrap(lambda: i)))]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(8))) == [[str(i)] * 10 for i in range(8)]


def test_an_executor_outlives_the_thread_that_used_it_first():
    with ToolExecutor() as executor, executor.session() as session, ThreadPoolExecutor(1) as threads:
        threads.submit(executor.run, ToolCall("add", {"amount": 1}), ACCOUNT, session).result()
        threads.shutdown()
        assert executor.run(ToolCall("add", {"amount": 1}), ACCOUNT, session).content == "2"


def test_closing_ends_the_calls_that_another_thread_waits_for(tmp_path):
    def waits(directory: str) -> None:
        Path(directory, str(os.getpid())).touch()
        time.sleep(600)

    executor = ToolExecutor(timeout=500, workers=2)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(executor.run_all, requests(5, wrap(waits, directory=str(tmp_path))))
        wait_until(lambda: len(os.listdir(tmp_path)) == 2, "both workers got a call")
        executor.close()
        results = running.result(timeout=20)
    assert len(results) == 5 and all("were closed" in result.content for result in results)
    assert not any(is_alive(int(pid)) for pid in os.listdir(tmp_path))
    assert executor.run(ToolCall("add", {"a": 1, "b": 1}), CALCULATORS).content == "2"
    executor.close()


def test_an_interrupt_leaves_no_reply_for_the_next_call():
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    def slow() -> str:
        time.sleep(1.5)
        return "late"

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with ToolExecutor() as executor:
            executor.run_all(requests(2, wrap(slow)))
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                executor.run_all(requests(4, wrap(slow)))
            results = executor.run_all(requests(4, CALCULATORS, "add", a=1, b=2))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert [result.content for result in results] == ["3"] * 4


def test_a_tool_may_use_the_executor_that_runs_it():
    with ToolExecutor() as executor:
        nested = wrap(lambda: executor.run(ToolCall("add", {"a": 20, "b": 22}), CALCULATORS).content)
        assert executor.run_all(requests(3, nested)) == [ToolResult("42")] * 3
