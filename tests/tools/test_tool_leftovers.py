"""Tools leave nothing behind that outlives their worker, executor or program, and their environment has no secrets."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.tool_requests import ANYTHING, is_alive, meets, requests, wait_until, wrap
from mentor_edge.messages import ToolCall
from mentor_edge.tools.execution.executor import ToolExecutor
from mentor_edge.tools.types import Tool


def sleep_ignoring_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def leave_behind(directory: str, how: str) -> None:
    """Start a process that notes its id in `directory` and sleeps."""
    if os.fork() == 0:
        if how in ("setsid", "daemon"):
            os.setsid()
        if how == "daemon" and os.fork() != 0:
            os._exit(0)
        Path(directory, str(os.getpid())).touch()
        sleep_ignoring_sigterm() if how == "ignores SIGTERM" else time.sleep(600)
    while not os.listdir(directory):
        time.sleep(0.005)


@pytest.mark.parametrize("end", ["hang", "crash", "close"])
@pytest.mark.parametrize("how", ["plain", "setsid", "daemon", "ignores SIGTERM"])
def test_what_a_tool_started_ends_with_it(tmp_path, how, end):
    def start(directory: str) -> str:
        leave_behind(directory, how)
        if end == "hang":
            time.sleep(60)
        if end == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        return "started"

    with ToolExecutor(timeout=1) as executor:
        result = executor.run(ToolCall("t", {}), wrap(start, directory=str(tmp_path)))
        (left,) = map(int, os.listdir(tmp_path))
        assert result.failed == (end != "close")
        if end == "close":
            assert is_alive(left)
            executor.close()
        assert not is_alive(left)


def test_the_end_of_one_worker_spares_what_another_has_running(tmp_path):
    def start(directory: str) -> str:
        leave_behind(directory, "daemon")
        meets(directory, 3)
        return "started"

    def end(directory: str) -> None:
        meets(directory, 3)
        os._exit(1)

    tools = {
        "start": Tool("start", "", ANYTHING, start, {"directory": str(tmp_path)}),
        "end": Tool("end", "", ANYTHING, end, {"directory": str(tmp_path)}),
    }
    with ToolExecutor(timeout=30) as executor:
        ended, started = executor.run_all([*requests(1, tools, "end"), *requests(1, tools, "start")])
        assert "exit code 1" in ended.content and started.content == "started"
        daemon = next(int(name) for name in os.listdir(tmp_path) if name.isdigit())
        assert is_alive(daemon)
    assert not is_alive(daemon)


@pytest.mark.parametrize("bystander", ["exec", "fork"])
def test_nothing_outlives_a_caller_that_is_killed(tmp_path, bystander):
    """Not even when another child of the caller, a fork, still has the caller's end of all sockets open."""
    code = (
        "import os, signal, sys, threading, time\n"
        "from mentor_edge.messages import ToolCall\n"
        "from mentor_edge.tools.execution.executor import ToolExecutor, ToolRequest\n"
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


def test_the_environment_of_tools_and_of_what_they_start_contains_no_secrets():
    """Neither secrets that the program was started with nor those that it set itself."""
    code = (
        "import json, os, subprocess, sys\n"
        "from mentor_edge.messages import ToolCall\n"
        "from mentor_edge.tools.execution.executor import ToolExecutor\n"
        "from mentor_edge.tools.types import Tool\n"
        "os.environ['LATE_TOKEN'] = 'late-secret'\n"
        "def look():\n"
        "    child = subprocess.run(['env'], capture_output=True, text=True).stdout\n"
        "    block = subprocess.run(['cat', '/proc/self/environ'], capture_output=True, text=True).stdout\n"
        "    return {'own': dict(os.environ), 'child': child, 'block': block}\n"
        "tools = {'look': Tool('look', '', {'type': 'object'}, look)}\n"
        "with ToolExecutor(environment=['REQUESTED']) as executor:\n"
        "    print(executor.run(ToolCall('look', {}), tools).content)\n"
    )
    environment = {**os.environ, "EARLY_TOKEN": "early-secret", "REQUESTED": "requested", "LC_ALL": "C.UTF-8"}
    visible = json.loads(
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60).stdout
    )
    assert "secret" not in json.dumps(visible)
    assert visible["own"]["REQUESTED"] == "requested" and visible["own"]["PATH"] == os.environ["PATH"]
    assert "REQUESTED=requested" in visible["child"] and "LC_ALL=C.UTF-8" in visible["child"]


def test_an_executor_that_is_forgotten_leaves_no_process():
    pid = int(ToolExecutor().run(ToolCall("t", {}), wrap(os.getpid)).content)
    gc.collect()
    wait_until(lambda: not is_alive(pid), "the process ends with its executor")
