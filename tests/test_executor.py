from __future__ import annotations

import asyncio
import faulthandler
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mentor_edge.errors import ToolDefinitionError
from mentor_edge.messages import ToolCall
from mentor_edge.tools import nursery, pool
from mentor_edge.tools.calculator import CALCULATOR
from mentor_edge.tools.definition import tool_set
from mentor_edge.tools.executor import ToolExecutor, ToolRequest, ToolResult
from mentor_edge.tools.types import Tool, ToolFailure

CALCULATORS = {t.name: t for t in CALCULATOR}
ANYTHING: dict[str, Any] = {"type": "object"}


def wrap(function: Any, **bound: Any) -> dict[str, Tool]:
    return {"t": Tool("t", "a test tool", ANYTHING, function, bound)}


def requests(count: int, tools: dict[str, Tool], name: str = "t", **arguments: Any) -> list[ToolRequest]:
    return [ToolRequest(ToolCall(name, arguments), tools) for _ in range(count)]


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def raises() -> None:
    raise KeyError("lost")


def prints_megabytes() -> int:
    for _ in range(3000):
        print("x" * 1000)
    return 1


def prints_megabytes_to_stderr() -> int:
    print("x" * 3_000_000, file=sys.stderr)
    return 1


def hangs() -> None:
    time.sleep(60)


async def hangs_in_its_sleep() -> None:
    await asyncio.sleep(60)


def hangs_deaf() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        pass


def has_an_unprintable_error() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    raise Mute


def writes_into_every_socket() -> None:
    for name in os.listdir("/proc/self/fd"):
        if Path("/proc/self/fd", name).is_socket():
            os.write(int(name), b"\x02\x00\x00\x00[]")


def fails_in_words() -> None:
    raise ToolFailure("no such account")


HOSTILE = {
    "raises": (raises, "KeyError: 'lost'"),
    "fails_in_words": (fails_in_words, "no such account"),
    "writes_into_every_socket": (writes_into_every_socket, "ended its process"),
    "closes_every_descriptor": (lambda: os.closerange(3, 64), "ended its process"),
    "stops_itself": (lambda: os.kill(os.getpid(), signal.SIGSTOP), "did not return within"),
    "kills_the_nursery": (lambda: (os.kill(os.getppid(), signal.SIGKILL), time.sleep(60)), "ended"),
    "hangs_in_its_sleep": (hangs_in_its_sleep, "did not return within"),
    "returns_nan": (lambda: float("nan"), "not JSON compliant"),
    "returns_infinity_within": (lambda: {"a": [float("inf")]}, "not JSON compliant"),
    "returns_a_handle": (lambda: object(), "Unable to serialize"),
    "recurses": (lambda: HOSTILE["recurses"][0](), "RecursionError"),
    "has_an_unprintable_error": (has_an_unprintable_error, "ended its process"),
    "hangs": (hangs, "did not return within"),
    "hangs_deaf": (hangs_deaf, "did not return within"),
    "prints_megabytes": (prints_megabytes, "printed more than 8192"),
    "prints_megabytes_to_stderr": (prints_megabytes_to_stderr, "printed more than 8192"),
    "returns_megabytes": (lambda: "x" * 3_000_000, "returned 3000000 characters (limit 8192)"),
    "raises_megabytes": (lambda: int("x" * 3_000_000), "ValueError"),
    "sys_exit": (lambda: sys.exit(3), "tried to exit the interpreter (code 3)"),
    "os_exit": (lambda: os._exit(7), "exit code 7"),
    "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), "exit code -9"),
    "segfault": (lambda: (faulthandler.disable(), os.kill(os.getpid(), signal.SIGSEGV)), "exit code -11"),
    "interrupts": (lambda: os.kill(os.getpid(), signal.SIGINT) or raises(), "KeyError"),
    "raises_interrupt": (lambda: (_ for _ in ()).throw(KeyboardInterrupt()), "ended its process"),
    "allocates": (lambda: len(bytearray(2**31)), "MemoryError"),
    "returns_a_set": (lambda: {1}, "not JSON serializable"),
    "wants_arguments": (lambda x: x, "TypeError"),
}


@pytest.fixture(scope="module")
def executor():
    with ToolExecutor(timeout=0.3, memory_bytes=256 * 1024**2) as shared:
        yield shared


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tool_is_an_error_text_and_the_next_call_works(executor, name):
    function, said = HOSTILE[name]
    result = executor.run(ToolCall("t", {}), wrap(function))
    assert result.failed and not result.unknown_tool
    assert said in json.loads(result.content)["error"]
    assert len(result.content) < 10_000
    after = executor.run(ToolCall("add", {"a": 1, "b": 2}), CALCULATORS)
    assert (after.content, after.failed) == ("3", False)


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (0, "0"),
        (0.0, "0.0"),
        ("", ""),
        (None, "null"),
        (False, "false"),
        ([], "[]"),
        ("ü☃", "ü☃"),
        ("\ud800", "?"),
        (["\udcff"], '["?"]'),
        ({"a": "é"}, '{"a": "é"}'),
    ],
)
def test_falsy_and_other_results_are_results(executor, value, printed):
    result = executor.run(ToolCall("t", {}), wrap(lambda: value))
    assert (result.content, result.failed) == (printed, False)


def test_what_a_tool_prints_is_not_its_result(executor, capfd):
    def chatty() -> int:
        print("hello")
        os.write(1, b"directly")
        return 5

    assert executor.run(ToolCall("t", {}), wrap(chatty)).content == "5"
    assert capfd.readouterr().out == ""


def test_closures_and_callables_without_hash_are_tools(executor):
    factor = 7

    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, x: int) -> int:
            return x + 1

    assert executor.run(ToolCall("t", {"x": 6}), wrap(lambda x: x * factor)).content == "42"
    assert executor.run(ToolCall("t", {"x": 6}), wrap(Unhashable())).content == "7"


def test_bound_arguments_are_given_and_cannot_be_overridden(executor):
    tools = wrap(lambda key, table: table[key], table={"a": 1})
    assert executor.run(ToolCall("t", {"key": "a"}), tools).content == "1"
    assert executor.run(ToolCall("t", {"key": "a", "table": {"a": 2}}), tools).content == "1"


def test_an_unknown_tool_is_said(executor):
    result = executor.run(ToolCall("nope" * 9999, {}), CALCULATORS)
    assert result.failed and result.unknown_tool and "no tool named" in result.content
    assert len(result.content) < 10_000


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"a": 1},
        {"a": 1, "b": "2"},
        {"a": 1, "b": 2, "c": 3},
        {"a": True, "b": 1},
        {"a": None, "b": 1},
        {"a": "x" * 10**6},
    ],
)
def test_bad_arguments_are_refused_before_the_tool_runs(executor, arguments):
    result = executor.run(ToolCall("add", arguments), CALCULATORS)
    assert result.failed and "invalid arguments" in result.content and len(result.content) < 10_000


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4),
    )
)
@settings(max_examples=150, deadline=None)
def test_any_arguments_give_a_result(executor, arguments):
    result = executor.run(ToolCall("divide", arguments), CALCULATORS)
    assert result.failed == ("error" in result.content)


def test_the_child_keeps_what_a_tool_remembers_and_a_crash_forgets_it(executor):
    seen: list[int] = []
    tools = wrap(lambda: seen.append(1) or len(seen))
    assert [executor.run(ToolCall("t", {}), tools).content for _ in range(3)] == ["1", "2", "3"]
    executor.run(ToolCall("t", {}), wrap(lambda: os._exit(1)))
    assert executor.run(ToolCall("t", {}), tools).content == "1"
    assert seen == []


def test_a_closed_executor_leaves_no_process_and_opens_again():
    executor = ToolExecutor()
    pid = int(executor.run(ToolCall("t", {}), wrap(os.getpid)).content)
    assert pid != os.getpid()
    executor.close()
    executor.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert executor.run(ToolCall("add", {"a": 0, "b": 0}), CALCULATORS).content == "0"
    executor.close()


def test_calls_are_cheap(executor):
    start = time.perf_counter()
    for _ in range(500):
        executor.run(ToolCall("add", {"a": 1, "b": 2}), CALCULATORS)
    assert time.perf_counter() - start < 2.0


def test_async_tools_run_on_one_loop(executor):
    async def loop_id() -> int:
        await asyncio.sleep(0)
        return id(asyncio.get_running_loop())

    first, second = (executor.run(ToolCall("t", {}), wrap(loop_id)) for _ in range(2))
    assert not first.failed and first == second


def test_async_tools_run_while_the_caller_has_a_loop(executor):
    async def later() -> int:
        await asyncio.sleep(0)
        return 5

    async def caller() -> str:
        return executor.run(ToolCall("t", {}), wrap(later)).content

    assert asyncio.run(caller()) == "5"


@pytest.mark.parametrize(
    "reply", [b'[1, false, "forged", NaN]', b"null", b"[" * 90_000, b'[1, 0, "", 1' + b"0" * 400 + b"]"]
)
def test_a_forged_reply_harms_nobody_else(reply):
    def forge() -> None:
        for name in os.listdir("/proc/self/fd"):
            if Path("/proc/self/fd", name).is_socket():
                with suppress(OSError):  # sockets of other tests, which a fork has too, may be closed at the other end
                    os.write(int(name), len(reply).to_bytes(4, "little") + reply)

    with ToolExecutor() as executor:
        results = executor.run_all([*requests(3, wrap(forge)), *requests(40, CALCULATORS, "add", a=1, b=2)])
        assert [result.content for result in results[3:]] == ["3"] * 40
        assert all("ended its process" in result.content for result in results[:3]), results[:3]


def test_arguments_larger_than_a_socket_buffer_arrive(executor):
    size = 3 * 1024**2
    assert executor.run(ToolCall("t", {"x": "y" * size}), wrap(lambda x: len(x))).content == str(size)


def test_bound_arguments_without_json_are_a_mistake_in_the_program(executor):
    with pytest.raises(ToolDefinitionError, match="'t' has bound arguments"):
        executor.run(ToolCall("t", {}), wrap(lambda table: 1, table=object()))


# Side by side


def meets(place: str, count: int) -> int:
    """Returns when `count` calls are in here at once."""
    Path(place, f"met-{os.getpid()}").touch()
    while len(os.listdir(place)) < count:
        time.sleep(0.01)
    return count


def test_calls_of_many_rollouts_run_side_by_side(tmp_path):
    with ToolExecutor(timeout=60, workers=16) as executor:
        results = executor.run_all(requests(16, wrap(meets, place=str(tmp_path), count=16)))
    assert results == [ToolResult("16")] * 16


def test_no_more_calls_run_at_once_than_there_are_workers(tmp_path):
    def most(place: str) -> int:
        mine = Path(place, str(os.getpid()))
        mine.touch()
        time.sleep(0.02)
        seen = len(os.listdir(place))
        mine.unlink()
        return seen

    with ToolExecutor(workers=3) as executor:
        results = executor.run_all(requests(20, wrap(most, place=str(tmp_path))))
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
    monkeypatch.setattr(pool, "PATIENCE", 60.0)
    with ToolExecutor() as executor:
        assert len({result.content for result in executor.run_all(requests(100, wrap(os.getpid)))}) == 1


def test_workers_that_are_no_longer_needed_end(monkeypatch, tmp_path):
    monkeypatch.setattr(pool, "_IDLE", 0.05)
    with ToolExecutor(timeout=60) as executor:
        executor.run_all(requests(4, wrap(meets, place=str(tmp_path), count=4)))
        pids = [int(name.removeprefix("met-")) for name in os.listdir(tmp_path)]

        def few_are_left() -> bool:
            executor.run(ToolCall("t", {}), wrap(meets, place=str(tmp_path), count=1))
            return sum(map(is_alive, pids)) == 1

        wait_until(few_are_left, "one worker is left of four")


def test_a_nursery_that_does_not_answer_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(pool, "_START", 0.5)
    monkeypatch.setattr(nursery, "_ANSWER", 0.5)
    stop = Tool("stop", "", ANYTHING, lambda: os.kill(os.getppid(), signal.SIGSTOP))
    tools = {"stop": stop, **wrap(meets, place=str(tmp_path), count=2)}
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


def test_threads_take_turns_at_one_executor():
    tools = {name: t for name, t in CALCULATORS.items() if name == "add"}
    with ToolExecutor() as executor, ThreadPoolExecutor(4) as threads:
        batches = [[ToolRequest(ToolCall("add", {"a": i, "b": j}), tools) for j in range(20)] for i in range(20)]
        found = list(threads.map(executor.run_all, batches))
    assert [[int(result.content) for result in batch] for batch in found] == [
        [i + j for j in range(20)] for i in range(20)
    ]


def test_threads_have_executors_of_their_own():
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
    def waits(place: str) -> None:
        Path(place, str(os.getpid())).touch()
        time.sleep(600)

    executor = ToolExecutor(timeout=500, workers=2)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(executor.run_all, requests(5, wrap(waits, place=str(tmp_path))))
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


# Conversations


class Account:
    """An account."""

    def __init__(self) -> None:
        self.balance = 0

    def add(self, amount: int) -> int:
        """Pay in."""
        self.balance += amount
        return self.balance

    async def total(self) -> int:
        """What is there."""
        return self.balance

    def end(self, how: str) -> None:
        """Misbehave."""
        time.sleep(60) if how == "hang" else os._exit(3)

    def process(self) -> int:
        """Where it lives."""
        return os.getpid()


ACCOUNT = {t.name: t for t in tool_set(Account)}


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


@pytest.mark.parametrize(("how", "said"), [("hang", "did not return within"), ("crash", "exit code 3")])
def test_a_conversation_that_loses_its_state_is_told_and_starts_afresh(how, said):
    with ToolExecutor(timeout=1) as executor, executor.session() as lost, executor.session() as other:
        for session in (lost, other):
            executor.run(ToolCall("add", {"amount": 7}), ACCOUNT, session)
        names = [("end", {"how": how}), ("total", {}), ("add", {"amount": 1})]
        results = executor.run_all([ToolRequest(ToolCall(*call), ACCOUNT, lost) for call in names])
        assert said in results[0].content and "is lost" in results[0].content
        assert [result.content for result in results[1:]] == ["0", "1"]
        assert executor.run(ToolCall("total", {}), ACCOUNT, other).content == "7"


def test_state_survives_tools_that_are_met_later(patient):
    with patient.session() as session:
        patient.run(ToolCall("add", {"amount": 7}), ACCOUNT, session)
        assert patient.run(ToolCall("t", {}), wrap(lambda: "new"), session).content == "new"
        assert patient.run(ToolCall("total", {}), ACCOUNT, session).content == "7"
        late = Tool("late", "", ANYTHING, lambda account: account.balance, state=Account)
        refused = patient.run(ToolCall("late", {}), {**ACCOUNT, "late": late}, session)
        assert refused.failed and "not offered when the conversation began" in refused.content


def test_state_that_cannot_be_made_is_an_error_text(patient):
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
def test_a_remote_result_is_read_like_any_other(executor, value, expected):
    result = executor.run(ToolCall("r", {}), remote(lambda arguments, timeout: settled(value)))
    assert result == expected if isinstance(expected, ToolResult) else result.failed and expected in result.content


def test_a_remote_call_that_cannot_start_or_never_ends_is_an_error():
    def broken(arguments: Any, timeout: float) -> Future[str]:
        raise ConnectionError("nobody there")

    forever: Future[str] = Future()
    with ToolExecutor(timeout=0.2) as executor:
        assert "nobody there" in executor.run(ToolCall("r", {}), remote(broken)).content
        hung = executor.run(ToolCall("r", {}), remote(lambda arguments, timeout: forever))
    assert "did not return within 0.2 s" in hung.content and forever.cancelled()


def test_remote_calls_run_beside_the_pool_and_in_the_order_of_their_conversation(tmp_path):
    """The remote call is answered by what the pool's call does, and the session's next call sees the answer."""
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


# What a tool leaves behind


def deaf_sleep() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def leave_behind(place: str, how: str) -> None:
    """Start a process that notes its id in `place` and sleeps."""
    if os.fork() == 0:
        if how in ("setsid", "daemon"):
            os.setsid()
        if how == "daemon" and os.fork() != 0:
            os._exit(0)
        Path(place, str(os.getpid())).touch()
        deaf_sleep() if how == "deaf" else time.sleep(600)
    while not os.listdir(place):
        time.sleep(0.005)


@pytest.mark.parametrize("end", ["hang", "crash", "close"])
@pytest.mark.parametrize("how", ["plain", "setsid", "daemon", "deaf"])
def test_what_a_tool_started_ends_with_it(tmp_path, how, end):
    def start(place: str) -> str:
        leave_behind(place, how)
        if end == "hang":
            time.sleep(60)
        if end == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        return "started"

    with ToolExecutor(timeout=1) as executor:
        result = executor.run(ToolCall("t", {}), wrap(start, place=str(tmp_path)))
        (left,) = map(int, os.listdir(tmp_path))
        assert result.failed == (end != "close")
        if end == "close":
            assert is_alive(left)
            executor.close()
        assert not is_alive(left)


def test_the_end_of_one_worker_spares_what_another_has_running(tmp_path):
    def start(place: str) -> str:
        leave_behind(place, "daemon")
        meets(place, 3)
        return "started"

    def end(place: str) -> None:
        meets(place, 3)
        os._exit(1)

    tools = {"start": Tool("start", "", ANYTHING, start, {"place": str(tmp_path)}),
             "end": Tool("end", "", ANYTHING, end, {"place": str(tmp_path)})}  # fmt: skip
    with ToolExecutor(timeout=30) as executor:
        ended, started = executor.run_all([*requests(1, tools, "end"), *requests(1, tools, "start")])
        assert "exit code 1" in ended.content and started.content == "started"
        daemon = next(int(name) for name in os.listdir(tmp_path) if name.isdigit())
        assert is_alive(daemon)
    assert not is_alive(daemon)


@pytest.mark.parametrize("bystander", ["exec", "fork"])
def test_nothing_outlives_a_caller_that_is_killed(tmp_path, bystander):
    """Not even when another child of the caller, a fork, still holds the caller's end of all sockets."""
    code = (
        "import os, signal, sys, threading, time\n"
        "from mentor_edge.messages import ToolCall\n"
        "from mentor_edge.tools.executor import ToolExecutor, ToolRequest\n"
        "from mentor_edge.tools.types import Tool\n"
        "def leave(how):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        os.fork()\n"
        "        open(os.path.join(sys.argv[1], str(os.getpid())), 'w')\n"
        "        time.sleep(600)\n"
        "    open(os.path.join(sys.argv[1], str(os.getpid())), 'w')\n"
        "    time.sleep(600 if how == 'hang' else 0)\n"
        "tools = {'leave': Tool('leave', '', {'type': 'object'}, leave)}\n"
        "calls = [ToolRequest(ToolCall('leave', {'how': how}), tools) for how in ('hang', 'return')]\n"
        "threading.Thread(target=ToolExecutor(timeout=500).run_all, args=[calls]).start()\n"
        "while len(os.listdir(sys.argv[1])) < 6: time.sleep(0.02)\n"
        "bystander = os.fork()\n"
        "if bystander == 0: os.execvp('sleep', ['sleep', '600']) if sys.argv[2] == 'exec' else time.sleep(600)\n"
        "print(bystander, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path), bystander], stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        survivor = int(caller.stdout.readline())
        assert caller.wait(60) == -signal.SIGKILL
        try:
            pids = [int(name) for name in os.listdir(tmp_path)]
            assert len(pids) >= 6
            wait_until(lambda: not any(map(is_alive, pids)), "the tools end with the program that started them")
            assert is_alive(survivor)
        finally:
            os.kill(survivor, signal.SIGKILL)


def test_tools_see_no_secrets():
    """Neither those that were there when the program started nor those that it set itself."""
    code = (
        "import json, os, subprocess, sys\n"
        "from pathlib import Path\n"
        "from mentor_edge.messages import ToolCall\n"
        "from mentor_edge.tools.executor import ToolExecutor\n"
        "from mentor_edge.tools.types import Tool\n"
        "os.environ['LATE_TOKEN'] = 'late-secret'\n"
        "def look():\n"
        "    child = subprocess.run(['env'], capture_output=True, text=True).stdout\n"
        "    block = Path('/proc/self/environ').read_bytes().strip(b'\\0').decode()\n"
        "    return {'own': dict(os.environ), 'child': child, 'block': block}\n"
        "tools = {'look': Tool('look', '', {'type': 'object'}, look)}\n"
        "with ToolExecutor(environment=['WANTED']) as executor:\n"
        "    print(executor.run(ToolCall('look', {}), tools).content)\n"
    )
    environment = {**os.environ, "EARLY_TOKEN": "early-secret", "WANTED": "wanted", "LC_ALL": "C.UTF-8"}
    seen = json.loads(
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60).stdout
    )
    assert "secret" not in json.dumps(seen)
    assert seen["own"]["WANTED"] == "wanted" and seen["own"]["PATH"] == os.environ["PATH"]
    assert "WANTED=wanted" in seen["child"] and "LC_ALL=C.UTF-8" in seen["child"]


def test_an_executor_that_is_forgotten_leaves_no_process():
    pid = int(ToolExecutor().run(ToolCall("t", {}), wrap(os.getpid)).content)
    gc.collect()
    wait_until(lambda: not is_alive(pid), "the process ends with its executor")
