from __future__ import annotations

import json
import os
import socket
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mentor_edge.errors import ToolDefinitionError
from mentor_edge.messages import ToolCall
from mentor_edge.tools import python_code
from mentor_edge.tools.execution.executor import ToolExecutor, ToolRequest, ToolResult
from mentor_edge.tools.python_code import python_tool

Run = Callable[[str], ToolResult]

HAS_BUBBLEWRAP = python_code._bubblewrap()[1] is None
WAYS = ["process", pytest.param("bubblewrap", marks=pytest.mark.skipif(not HAS_BUBBLEWRAP, reason="no bubblewrap"))]


@pytest.fixture(scope="module")
def executor() -> Iterator[ToolExecutor]:
    with ToolExecutor(timeout=30) as shared:
        yield shared


@pytest.fixture(scope="module", params=WAYS)
def run(request: pytest.FixtureRequest, executor: ToolExecutor) -> Run:
    tools = {"python": python_tool(timeout=2, memory_bytes=256 * 1024**2, isolation=request.param)}
    return lambda code: executor.run(ToolCall("python", {"code": textwrap.dedent(code)}), tools)


@pytest.fixture(scope="module")
def sandboxed(executor: ToolExecutor) -> Run:
    if not HAS_BUBBLEWRAP:
        pytest.skip("bubblewrap does not work here")
    tools = {"python": python_tool(isolation="bubblewrap")}
    return lambda code: executor.run(ToolCall("python", {"code": textwrap.dedent(code)}), tools)


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("1 + 1", {"stdout": "", "result": 2}),
        ("", {"stdout": ""}),
        ("x = 3", {"stdout": ""}),
        ("x = 3\nprint('hi')\nx - 3", {"stdout": "hi\n", "result": 0}),
        ("None", {"stdout": ""}),
        ("{'a': [1, None, 'é']}", {"stdout": "", "result": {"a": [1, None, "é"]}}),
        ("{1, 2}", {"stdout": "", "result": "{1, 2}"}),
        ("float('nan')", {"stdout": "", "result": "nan"}),
        ("import sys\nprint('a')\nprint('b', file=sys.stderr)", {"stdout": "a\nb\n"}),
        ("import sys\nsys.exit()", {"stdout": ""}),
        ("import os\n_ = os.write(1, b'\\xff\\xfeok')", {"stdout": "\ufffd\ufffdok"}),
        ("def f(n):\n    return 1 if n < 2 else n * f(n - 1)\nf(20)", {"stdout": "", "result": 2432902008176640000}),
        ("import sys\nsys.argv[1:]", {"stdout": "", "result": []}),
        ("import os\nsorted(os.environ.keys() - {'PWD', 'LC_CTYPE', 'TMPDIR'})", {"stdout": "", "result": []}),
        ("import os\n_ = open('mine', 'w').write('x')\nos.listdir('.')", {"stdout": "", "result": ["mine"]}),
    ],
)  # a table  # fmt: skip
def test_what_is_printed_and_the_last_value_are_the_result(run, code, result):
    answered = run(code)
    assert not answered.failed
    assert json.loads(answered.content) == result


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\n1 / 0", "ZeroDivisionError: division by zero (line 2)"),
        ("def f():\n    raise KeyError('a')\n\nf()", "KeyError: 'a' (line 2)"),
        ("x = 1\ndef f(:\n", "SyntaxError: invalid syntax (line 2)"),
        ("x = '\0'", "null bytes"),
        ("(" * 100_000, "SyntaxError"),
        ("import sys\nsys.exit(3)", "SystemExit: 3 (line 2)"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt (line 1)"),
        ("import os\nprint('before')\nos._exit(4)", "(exit code 4)\nprinted before:\nbefore"),
        ("import os\nos.abort()", "ended its interpreter (exit code"),
        ("def f():\n    return f()\nf()", "RecursionError"),
        ("print('before')\nwhile True:\n    pass", "did not finish within 2 s\nprinted before:\nbefore"),
        ("while True:\n    print('y' * 1000)", "OSError: [Errno 27] File too large (line 2)"),
        ("x = [0] * 10**9", "MemoryError (line 1)"),
        ("'a' * 100_000", "the result is too long"),
        ("input()", "EOFError"),
        ("import numpy", "No module named 'numpy'"),
        ("class Mute(Exception):\n    def __str__(self):\n        raise RuntimeError\nraise Mute", "exit code 1"),
    ],
)
def test_a_failure_is_an_error_message(run, code, message):
    answered = run(code)
    assert answered.failed
    assert message in json.loads(answered.content)["error"]
    assert len(answered.content) < 8192


def test_long_output_is_cut_and_marked_as_cut(run):
    printed = json.loads(run("print('x' * 6000)").content)["stdout"]
    assert printed.startswith("xxx") and printed.endswith("(cut after 4096 bytes)")


@given(st.text(max_size=30))
@settings(max_examples=12)
def test_any_text_gets_an_answer(executor, text):
    tools = {"python": python_tool(isolation="process")}
    result = executor.run(ToolCall("python", {"code": text}), tools)
    assert set(json.loads(result.content)) <= {"stdout", "result", "error"}


def find(mark: str) -> list[psutil.Process]:
    """Living processes whose command line contains `mark`."""
    matching = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = " ".join(process.info["cmdline"] or ())
        if mark in command and process.info["status"] != psutil.STATUS_ZOMBIE:
            matching.append(process)
    return matching


DAEMON = "os.setsid(); os.fork() and os._exit(0)"


@pytest.mark.parametrize(
    ("how", "end"),
    [
        ("", ""),
        ("os.setsid()", "while True: pass"),
        (DAEMON, ""),
        (DAEMON, "while True: pass"),
        (DAEMON, "os._exit(1)"),
    ],
)
def test_what_the_code_started_ends_with_it(run, how, end):
    mark = f"mentor-edge-test-{time.monotonic_ns()}"
    run(f"""
import os, sys, time
if os.fork() == 0:
    {how}
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)", "{mark}"])
time.sleep(0.2)
{end}
""")
    assert find(mark) == []


@pytest.mark.parametrize("isolation", WAYS)
def test_code_dies_with_its_executor(isolation):
    mark = f"mentor-edge-test-{time.monotonic_ns()}"
    code = f"""
import os, sys, time
if os.fork() == 0:
    os.setsid()
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)", "{mark}"])
time.sleep(600)
"""
    with ToolExecutor(timeout=1) as executor:
        tools = {"python": python_tool(timeout=60, isolation=isolation)}
        result = executor.run(ToolCall("python", {"code": code}), tools)
        assert "the tool did not return within 1 s" in result.content
        assert find(mark) == []
        tools = {"python": python_tool(isolation=isolation)}
        result = executor.run(ToolCall("python", {"code": "print('so far')\nwhile True: pass"}), tools)
        assert "did not finish within 0.9 s\\nprinted before:\\nso far" in result.content


def test_many_run_in_parallel(tmp_path):
    """Each waits until all eight have started."""
    code = f"""
import os, time
os.mkdir(f'{tmp_path}/{{os.getpid()}}')
while len(os.listdir('{tmp_path}')) < 8:
    time.sleep(0.01)
8
"""
    tools = {"python": python_tool(timeout=None, isolation="process")}
    with ToolExecutor(timeout=60) as executor:
        results = executor.run_all([ToolRequest(ToolCall("python", {"code": code}), tools)] * 8)
    assert [json.loads(result.content)["result"] for result in results] == [8] * 8


@pytest.mark.skipif(os.getuid() == 0, reason="the kernel does not count the processes of root")
def test_the_number_of_processes_is_bounded(run):
    answered = run("""
        import os, time
        started = 0
        try:
            for _ in range(200):
                if os.fork() == 0:
                    time.sleep(600)
                started += 1
        except OSError:
            pass
        started
    """)
    assert json.loads(answered.content)["result"] < 100


# In bubblewrap


def test_there_is_no_network(run, sandboxed, request):
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket\nsocket.create_connection({server.getsockname()!r}, timeout=2).close()\n'connected'"
        assert "connected" in python_outside(code)
        answered = sandboxed(code)
    assert answered.failed and "connected" not in answered.content


def python_outside(code: str) -> str:
    """What the same code does without bubblewrap, which shows that the test can fail."""
    with ToolExecutor() as executor:
        return executor.run(ToolCall("python", {"code": code}), {"python": python_tool(isolation="process")}).content


def test_files_of_the_user_cannot_be_read_or_written(sandboxed, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    for path in (secret, Path(__file__)):
        code = f"len(open({str(path)!r}).read())"
        assert "result" in python_outside(code)
        assert "FileNotFoundError" in sandboxed(code).content
    home: Any = json.loads(sandboxed(f"import os\nos.listdir({str(Path.home())!r})").content)
    on_the_way = Path(python_code._INTERPRETER).parts  # the interpreter may be installed in the home directory
    assert set(home.get("result", [])) <= set(on_the_way)


def test_nothing_outside_of_tmp_can_be_written(sandboxed):
    code = """
        import os
        written = []
        for root, folders, files in os.walk("/"):
            folders[:] = [name for name in folders if not os.path.islink(os.path.join(root, name))]
            if root.startswith("/tmp") or root.count("/") > 4:
                continue
            try:
                open(os.path.join(root, "mine"), "w").close()
                written.append(root)
            except OSError:
                pass
        open("/tmp/mine", "w").close()
        [os.path.exists("/tmp/mine"), written]
    """
    there, written = json.loads(sandboxed(code).content)["result"]
    assert there
    assert written == []


def test_other_processes_cannot_be_seen_or_signalled(sandboxed):
    code = f"import os\nos.kill({os.getpid()}, 0)"
    assert "ProcessLookupError" in sandboxed(code).content
    assert "FileNotFoundError" in sandboxed(f"open('/proc/{os.getpid()}/environ').read()").content


def test_memory_for_files_is_bounded(sandboxed):
    answered = sandboxed("""
        for i in range(200):
            with open(f"/tmp/{i}", "wb") as file:
                file.write(bytes(1024 * 1024))
    """)
    assert "No space left on device" in answered.content


# Choosing


def test_bubblewrap_is_used_only_if_it_works(monkeypatch, tmp_path):
    python_code._bubblewrap.cache_clear()
    assert python_code._bubblewrap()[1] is None or not HAS_BUBBLEWRAP
    for broken in (None, "#!/bin/sh\necho namespaces are forbidden >&2\nexit 1\n"):
        python_code._bubblewrap.cache_clear()
        monkeypatch.setenv("PATH", str(tmp_path))
        if broken is not None:
            (tmp_path / "bwrap").write_text(broken)
            (tmp_path / "bwrap").chmod(0o755)
        with pytest.raises(ToolDefinitionError, match="namespaces are forbidden" if broken else "no bwrap"):
            python_tool(isolation="bubblewrap")
        python_tool(isolation="auto")
    monkeypatch.undo()
    python_code._bubblewrap.cache_clear()
    with pytest.raises(ToolDefinitionError, match="'docker'"):
        python_tool(isolation="docker")  # type: ignore[arg-type]


def test_the_model_reads_one_argument():
    tool = python_tool()
    assert tool.name == "python"
    assert tool.parameters["properties"] == {"code": {"type": "string"}}
    assert "standard library" in tool.description
