r"""Time of 1,000 calls of a 1 ms tool in 32 rollouts, with the executor and with one process per call.

    python benchmarks/tools.py [--rounds 3] [--parent-mb 0] [--json FILE]

The calls are made as in training: 32 rollouts, about 31 turns, and all calls of a turn at once. There are two tools.
One sleeps for a millisecond, as if it waited for something. The other computes for a millisecond of processor time, so
more workers than processors do not help it.

"One process per call" is measured in three ways: a process forked for each call with multiprocessing, one call after
another; the same with 32 calls at once; and a new interpreter for each call (on a sample, scaled up), which is the
least that a script per call can cost. All of them receive the arguments and send the result back, as the executor
does. None of them limits time, memory or output, or validates arguments; the executor does. The executor's time
includes its start.

Forking costs more the more memory the caller has, and a training process has gigabytes: `--parent-mb` makes this
process that much larger. The fork baselines then pay for it at every call, the executor at the start of each worker.

The last measurement is a turn of 32 calls, one of which hangs, under a limit of 0.5 s. Rounds alternate between
all ways.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mentor_edge.files import write_json
from mentor_edge.messages import ToolCall
from mentor_edge.tools.definition import tool
from mentor_edge.tools.execution.executor import ToolExecutor, ToolRequest
from mentor_edge.tools.types import Tool

ROLLOUTS = 32
CALLS = 1000
SAMPLE = 30
LIMIT = 0.5
FORK = multiprocessing.get_context("fork")


@tool
def sleeping(x: int) -> int:
    """Wait for a millisecond."""
    time.sleep(0.001)
    return x


@tool
def computing(x: int) -> int:
    """Compute for a millisecond."""
    end = time.thread_time() + 0.001
    while time.thread_time() < end:
        pass
    return x


@tool
def hanging(x: int) -> int:
    """Hang for one argument."""
    time.sleep(600 if x == 7 else 0.001)
    return x


def turns() -> list[list[int]]:
    """Returns the arguments of the calls of every turn."""
    return [list(range(start, min(start + ROLLOUTS, CALLS))) for start in range(0, CALLS, ROLLOUTS)]


def run_executor(offered: Tool) -> None:
    tools = {offered.name: offered}
    with ToolExecutor() as executor:
        for turn in turns():
            results = executor.run_all([ToolRequest(ToolCall(offered.name, {"x": x}), tools) for x in turn])
            assert [result.content for result in results] == [str(x) for x in turn]


def _answer(connection: Connection, function: Callable[..., Any], x: int) -> None:
    connection.send_bytes(json.dumps(function(x)).encode())


def _in_a_fork(function: Callable[..., Any], x: int) -> int:
    ours, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_answer, args=(theirs, function, x))
    process.start()
    theirs.close()
    result: int = json.loads(ours.recv_bytes())
    process.join()
    return result


def fork_per_call(offered: Tool) -> None:
    for turn in turns():
        assert [_in_a_fork(offered.function, x) for x in turn] == turn


def forks_at_once(offered: Tool) -> None:
    for turn in turns():
        started = []
        for x in turn:
            ours, theirs = FORK.Pipe(duplex=False)
            process = FORK.Process(target=_answer, args=(theirs, offered.function, x))
            process.start()
            theirs.close()
            started.append((process, ours))
        assert [json.loads(ours.recv_bytes()) for _, ours in started] == turn
        for process, _ in started:
            process.join()


SCRIPT = {
    "sleeping": "import json, sys, time; time.sleep(0.001); print(json.dumps(int(sys.argv[1])))",
    "computing": "import json, sys, time\nend = time.thread_time() + 0.001\n"
    "while time.thread_time() < end: pass\nprint(json.dumps(int(sys.argv[1])))",
}


def interpreter_per_call(offered: Tool) -> None:
    """Make `SAMPLE` calls, 32 at once."""

    def call(x: int) -> int:
        command = [sys.executable, "-I", "-S", "-c", SCRIPT[offered.name], str(x)]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    with ThreadPoolExecutor(ROLLOUTS) as threads:
        assert list(threads.map(call, range(SAMPLE))) == list(range(SAMPLE))


WAYS: dict[str, tuple[Callable[[Tool], None], float]] = {
    "executor": (run_executor, 1.0),
    "fork_per_call": (fork_per_call, 1.0),
    "forks_at_once": (forks_at_once, 1.0),
    "interpreter_per_call": (interpreter_per_call, CALLS / SAMPLE),
}


def timed(run: Callable[[Tool], None], offered: Tool) -> tuple[float, float]:
    """Returns wall seconds, and CPU seconds of this process and its children."""
    wall, cpu = time.perf_counter(), _cpu_seconds()
    run(offered)
    return time.perf_counter() - wall, _cpu_seconds() - cpu


def _cpu_seconds() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _ratio(theirs: list[tuple[float, float]], ours: list[tuple[float, float]]) -> float:
    """Returns the median over the rounds of the ratios of wall seconds."""
    return statistics.median(their_wall / our_wall for (their_wall, _), (our_wall, _) in zip(theirs, ours, strict=True))


def hang() -> dict[str, float]:
    """Make 32 calls, one of which hangs. Returns the wall seconds of that turn and of the next one."""
    tools = {"hanging": hanging}

    def turn(arguments: range) -> float:
        start = time.perf_counter()
        results = executor.run_all([ToolRequest(ToolCall("hanging", {"x": x}), tools) for x in arguments])
        assert [result.failed for result in results] == [x == 7 for x in arguments]
        return time.perf_counter() - start

    with ToolExecutor(timeout=LIMIT) as executor:
        turn(range(100, 132))
        return {"limit_s": LIMIT, "turn_s": turn(range(32)), "next_turn_s": turn(range(100, 132))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parent-mb", type=int, default=0, help="make the calling process this much larger")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    arguments = parser.parse_args()
    ballast = bytearray(arguments.parent_mb * 2**20)
    ballast[::4096] = b"x" * len(ballast[::4096])  # a fork copies only memory that was written
    result: dict[str, Any] = {"calls": CALLS, "rollouts": ROLLOUTS, "parent_mb": arguments.parent_mb}
    result["processors"] = len(os.sched_getaffinity(0))
    for offered in (sleeping, computing):
        seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(arguments.rounds):
            for way, (run, factor) in WAYS.items():
                wall, cpu = timed(run, offered)
                seconds[way].append((wall * factor, cpu * factor))
        result[offered.name] = {
            way: {
                "wall_s": [round(wall, 3) for wall, _ in of_way],
                "cpu_s": [round(cpu, 3) for _, cpu in of_way],
                "times_the_executor": round(_ratio(of_way, seconds["executor"]), 1),
            }
            for way, of_way in seconds.items()
        }
    result["hang"] = {key: round(value, 3) for key, value in hang().items()}
    print(json.dumps(result, indent=2))
    if arguments.json is not None:
        write_json(arguments.json, result)


if __name__ == "__main__":
    main()
