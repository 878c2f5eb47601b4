"""One call: no matter what a tool does, its result is a text, and the next call works."""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.tool_requests import CALCULATORS, requests, wrap
from mentor_edge.errors import ToolDefinitionError
from mentor_edge.messages import ToolCall
from mentor_edge.tools.execution.executor import ToolExecutor
from mentor_edge.tools.types import ToolFailure


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


def hangs_and_ignores_sigterm() -> None:
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


def raises_a_tool_failure() -> None:
    raise ToolFailure("no such account")


HOSTILE = {
    "raises": (raises, "KeyError: 'lost'"),
    "raises_a_tool_failure": (raises_a_tool_failure, "no such account"),
    "writes_into_every_socket": (writes_into_every_socket, "ended its process"),
    "closes_every_descriptor": (lambda: os.closerange(3, 64), "ended its process"),
    "stops_itself": (lambda: os.kill(os.getpid(), signal.SIGSTOP), "did not return within"),
    "kills_the_supervisor": (lambda: (os.kill(os.getppid(), signal.SIGKILL), time.sleep(60)), "ended"),
    "hangs_in_its_sleep": (hangs_in_its_sleep, "did not return within"),
    "returns_nan": (lambda: float("nan"), "not JSON compliant"),
    "returns_infinity_within": (lambda: {"a": [float("inf")]}, "not JSON compliant"),
    "returns_a_handle": (lambda: object(), "Unable to serialize"),
    "recurses": (lambda: HOSTILE["recurses"][0](), "RecursionError"),
    "has_an_unprintable_error": (has_an_unprintable_error, "Mute, whose text cannot be made: RuntimeError"),
    "hangs": (hangs, "did not return within"),
    "hangs_and_ignores_sigterm": (hangs_and_ignores_sigterm, "did not return within"),
    "prints_megabytes": (prints_megabytes, "printed more than 8192"),
    "prints_megabytes_to_stderr": (prints_megabytes_to_stderr, "printed more than 8192"),
    "returns_megabytes": (lambda: "x" * 3_000_000, "returned 3000000 characters (limit 8192)"),
    "raises_megabytes": (lambda: int("x" * 3_000_000), "ValueError"),
    "sys_exit": (lambda: sys.exit(3), "tried to exit the interpreter (code 3)"),
    "os_exit": (lambda: os._exit(7), "exit code 7"),
    "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), "exit code -9"),
    "segfault": (lambda: (faulthandler.disable(), os.kill(os.getpid(), signal.SIGSEGV)), "exit code -11"),
    "interrupts": (lambda: os.kill(os.getpid(), signal.SIGINT) or raises(), "KeyError"),
    "raises_interrupt": (lambda: (_ for _ in ()).throw(KeyboardInterrupt()), "KeyboardInterrupt"),
    "allocates": (lambda: len(bytearray(2**31)), "MemoryError"),
    "returns_a_set": (lambda: {1}, "not JSON serializable"),
    "requires_arguments": (lambda x: x, "TypeError"),
}


@pytest.fixture(scope="module")
def executor():
    with ToolExecutor(timeout=0.6, memory_bytes=256 * 1024**2) as shared:
        yield shared


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tool_is_an_error_text_and_the_next_call_works(executor, name):
    function, message = HOSTILE[name]
    result = executor.run(ToolCall("t", {}), wrap(function))
    assert result.failed and not result.unknown_tool
    assert message in json.loads(result.content)["error"]
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


def test_bound_arguments_are_passed_and_cannot_be_overridden(executor):
    tools = wrap(lambda key, table: table[key], table={"a": 1})
    assert executor.run(ToolCall("t", {"key": "a"}), tools).content == "1"
    assert executor.run(ToolCall("t", {"key": "a", "table": {"a": 2}}), tools).content == "1"


def test_an_unknown_tool_is_reported(executor):
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
@settings(max_examples=150)
def test_any_arguments_give_a_result(executor, arguments):
    result = executor.run(ToolCall("divide", arguments), CALCULATORS)
    assert result.failed == ("error" in result.content)


def test_the_child_keeps_a_tools_memory_and_a_crash_loses_it(executor):
    calls: list[int] = []
    tools = wrap(lambda: calls.append(1) or len(calls))
    assert [executor.run(ToolCall("t", {}), tools).content for _ in range(3)] == ["1", "2", "3"]
    executor.run(ToolCall("t", {}), wrap(lambda: os._exit(1)))
    assert executor.run(ToolCall("t", {}), tools).content == "1"
    assert calls == []


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
    "reply", [b'[1, false, "forged"]', b"null", b"[" * 90_000, b"[1" + b"0" * 5000 + b', 0, ""]', b"[1, 0]", b"{}"]
)
def test_a_forged_reply_affects_no_other_call(reply):
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
    with pytest.raises(ToolDefinitionError, match="'t' has bound arguments that JSON cannot express"):
        executor.run(ToolCall("t", {}), wrap(lambda table: 1, table=object()))
