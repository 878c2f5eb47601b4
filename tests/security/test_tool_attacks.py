"""Tools, and code that the model writes, which try to harm their caller, other conversations or the disk.

Each ends with an error text or a result; the next call works, and nothing is left in TMPDIR.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from helpers.tool_requests import ANYTHING, CALCULATORS, wrap
from mentor_edge import tool
from mentor_edge.errors import MentorEdgeWarning
from mentor_edge.messages import ToolCall
from mentor_edge.tools import python_code
from mentor_edge.tools.execution import scratch
from mentor_edge.tools.execution.executor import ToolExecutor
from mentor_edge.tools.python_code import python_tool
from mentor_edge.tools.types import Tool, ToolFailure


class Awkward:
    """Every text that can be asked of it raises or hangs."""

    def __repr__(self) -> str:
        raise RuntimeError

    def __str__(self) -> str:
        time.sleep(60)
        return ""


class Text(str):
    def encode(self, *_: Any, **__: Any) -> bytes:
        raise SystemExit

    def __len__(self) -> int:
        return -1


class Mute(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


class Slow(Exception):
    def __str__(self) -> str:
        time.sleep(60)
        return ""


def throw(error: BaseException) -> None:
    raise error


def stop_parent_for_ever() -> None:
    parent = os.getppid()
    if os.fork() == 0:
        os.setsid()
        for _ in range(600):
            os.kill(parent, signal.SIGSTOP)
            time.sleep(0.05)
    time.sleep(60)


def close_streams() -> str:
    for stream in (sys.stdout, sys.stderr, sys.stdin):
        stream.close()
    os.closerange(0, 3)
    return "closed"


TOOLS: Mapping[str, tuple[Callable[[], Any], str]] = {
    "raises an error whose text raises": (lambda: throw(Mute()), "Mute, whose text cannot be made: KeyboardInterrupt"),
    "raises an error whose text takes for ever": (lambda: throw(Slow()), "did not return within"),
    "raises KeyboardInterrupt": (lambda: throw(KeyboardInterrupt()), "KeyboardInterrupt"),
    "raises GeneratorExit": (lambda: throw(GeneratorExit("g")), "GeneratorExit: g"),
    "exits with an object that has no text": (lambda: sys.exit(Awkward()), "did not return within"),
    "fails with an object that has no text": (lambda: throw(ToolFailure(Mute())), "whose text cannot be made"),
    "returns an object without a text": (Awkward, "Unable to serialize"),
    "returns a text that cannot be encoded": (lambda: Text("a text"), "a text"),
    "returns half a surrogate pair": (lambda: {"a\ud800": "\udfff"}, '{"a?": "?"}'),
    "raises half a surrogate pair": (lambda: throw(ValueError("\ud800")), "ValueError: ?"),
    "returns itself": (lambda: (box := [], box.append(box), box)[2], "Circular reference"),
    "returns 100 MB": (lambda: "x" * 10**8, "returned 100000000 characters"),
    "prints 100 MB": (lambda: print("x" * 10**8), "printed more than 8192 characters"),
    "prints escape sequences": (lambda: print("\x1b[2J\x1b]0;title\x07"), "null"),
    "closes the standard streams": (close_streams, "closed"),
    "stops the supervisor": (lambda: os.kill(os.getppid(), signal.SIGSTOP), "null"),
    "stops the supervisor, and hangs": (
        lambda: (os.kill(os.getppid(), signal.SIGSTOP), time.sleep(60)), "did not return within"
    ),
    "terminates the supervisor": (lambda: (os.kill(os.getppid(), signal.SIGTERM), time.sleep(60)), "ended"),
    "kills the supervisor": (lambda: (os.kill(os.getppid(), signal.SIGKILL), time.sleep(60)), "ended"),
    "kills its process group": (lambda: os.killpg(0, signal.SIGKILL), "exit code -9"),
    "leaves an alarm": (lambda: signal.alarm(1), "0"),
    "removes its directory": (lambda: (os.mkdir("gone"), os.chdir("gone"), os.rmdir("../gone"))[2], "null"),
}  # a table  # fmt: skip

CODE: Mapping[str, tuple[str, str]] = {
    "2,000 files of 1 MB": (
        "for i in range(2000):\n    with open(f'{i}', 'wb') as f:\n        _ = f.write(bytes(2**20))",
        "files of more than 8 MiB together",
    ),
    "files of 1 MB by many processes": (
        """
        import os, time
        for p in range(8):
            if os.fork() == 0:
                for i in range(200):
                    with open(f'{p}-{i}', 'wb') as f:
                        f.write(bytes(2**20))
                os._exit(0)
        time.sleep(60)
        """, "files of more than 8 MiB together",
    ),
    "100,000 empty files": ("for i in range(10**5):\n    open(f'{i}', 'w').close()", "more than 200 files"),
    "files of the module tempfile": (
        "import tempfile\nfor i in range(10**5):\n    tempfile.NamedTemporaryFile(delete=False).close()",
        "more than 200 files",
    ),
    "100,000 directories in one another": (
        "import os\nfor i in range(10**5):\n    os.mkdir('d')\n    os.chdir('d')", "nested more than 64 deep"
    ),
    "a directory without permissions": (
        "import os\nos.makedirs('a/b')\nopen('a/b/f', 'w').close()\nos.chmod('a/b', 0)\nos.chmod('a', 0)", "stdout"
    ),
    "files without permissions": ("import os\nos.close(os.open('f', os.O_CREAT | os.O_WRONLY, 0))", "stdout"),
    "a link to a directory outside": (
        "import os\nos.symlink(OUTSIDE, 'link')\nos.symlink('link', 'again')\nos.symlink('.', 'loop')", "stdout"
    ),
    "a directory removed while it is in use": ("import os\nos.rmdir(os.getcwd())", "stdout"),
    "a pipe, a socket and a device": (
        "import os, socket\nos.mkfifo('p')\ns = socket.socket(socket.AF_UNIX)\ns.bind('s')\n", "stdout"
    ),
    "a bomb of processes": (
        """
        import os, time
        for i in range(400):
            if os.fork() == 0:
                time.sleep(600)
                os._exit(0)
        time.sleep(60)
        """, "",
    ),
    "a bomb of daemons": (
        """
        import os, time
        for i in range(8):
            if os.fork() == 0:
                os.setsid()
                for j in range(5):
                    os.fork()
                time.sleep(600)
        time.sleep(60)
        """, "",
    ),
    "an error without a text": (
        "class E(Exception):\n    def __str__(self): raise E\nraise E", "exit code 1"
    ),
    "a report of its own": (
        "import os\nfor d in range(3, 64):\n    try: os.write(d, b'[' * 10**5)\n    except OSError: pass",
        "the result is too long",
    ),
    "a result with a hostile repr": (
        "class R:\n    def __repr__(self): return 'x' * 10**7\nR()", "the result is too long"
    ),
}  # a table  # fmt: skip

ATTACKS: Mapping[str, tuple[Any, str]] = {**TOOLS, **CODE}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """TMPDIR of everything here."""
    directory = tmp_path_factory.mktemp("tmpdir")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(directory))
        patch.setenv("TMPDIR", str(directory))
        patch.chdir(directory)
        yield directory


@pytest.fixture(scope="module")
def executor(place: Path) -> Iterator[ToolExecutor]:
    with ToolExecutor(timeout=1, memory_bytes=512 * 1024**2) as shared:
        yield shared


@pytest.fixture(scope="module")
def run(place: Path) -> Iterator[Callable[[str], str]]:
    """Runs code in one worker after another, and returns what the model reads."""
    tools = {"python": python_tool(timeout=5, isolation="process")}
    with pytest.MonkeyPatch.context() as patch, ToolExecutor(timeout=30) as shared:
        patch.setattr(scratch, "CODE_FILES", 200)  # a busy machine takes seconds for 2,000
        patch.setattr(scratch, "CODE_TMP_BYTES", 8 * 1024**2)
        yield lambda code: shared.run(ToolCall("python", {"code": textwrap.dedent(code)}), tools).content
    assert list(place.iterdir()) == []


OFFERED = {name: Tool(f"t{number}", "", ANYTHING, TOOLS[name][0]) for number, name in enumerate(TOOLS)}
BY_NAME = {**CALCULATORS, **{tool.name: tool for tool in OFFERED.values()}}  # always the same: no new processes


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_harms_nothing_but_its_own_call(executor, name):
    start = time.monotonic()
    result = executor.run(ToolCall(OFFERED[name].name, {}), BY_NAME)
    assert TOOLS[name][1] in result.content and len(result.content) < 10_000
    assert result.content.isprintable()
    assert executor.run(ToolCall("add", {"a": 1, "b": 2}), BY_NAME).content == "3"
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("name", CODE)
def test_code_leaves_nothing_behind(run, place, tmp_path, name):
    code, text = CODE[name]
    (tmp_path / "precious").write_text("kept")
    answer = run(code.replace("OUTSIDE", repr(str(tmp_path))))
    assert text in answer, answer
    assert list(place.glob("*/*/*")) == []  # TMPDIR / the executor's / the worker's / a call's
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    assert run("1 + 1") == '{"stdout": "", "result": 2}'


@pytest.mark.parametrize("victim", ["worker", "supervisor"])
def test_files_are_removed_when_the_process_that_ran_the_code_is_killed(place, victim):
    code = "import os, time\nfor i in range(50):\n    open(f'{i}', 'w').close()\nos.chmod('.', 0)\ntime.sleep(60)"
    tools = {"python": python_tool(timeout=60, isolation="process")}
    before = set(place.iterdir())  # of the executors above

    def kill() -> None:
        if victim == "supervisor":
            os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)

    with ToolExecutor(timeout=1) as executor:
        assert "did not return within" in executor.run(ToolCall("python", {"code": code}), tools).content
        if victim == "supervisor":
            assert executor.run(ToolCall("t", {}), {**tools, **wrap(kill)}).failed
    assert set(place.iterdir()) == before


def test_a_tree_with_a_path_that_is_too_long_is_removed(tmp_path):
    root, here, name = tmp_path / "root", os.getcwd(), "d" * 200
    root.mkdir()
    try:
        os.chdir(root)
        for _ in range(40):
            os.mkdir(name)
            os.chdir(name)
    finally:
        os.chdir(here)
    assert "cannot be read (File name too long)" in str(scratch.excess(str(root)))
    scratch.remove_tree(str(root))
    assert list(tmp_path.iterdir()) == []


def test_code_that_is_not_isolated_is_said_to_be_so(monkeypatch):
    monkeypatch.setattr(python_code, "_bubblewrap", lambda: ((), "there is no bwrap on the PATH"))
    python_code._warn.cache_clear()
    with pytest.warns(MentorEdgeWarning, match="runs with your rights, because bubblewrap .* no bwrap") as caught:
        made = [python_tool() for _ in range(3)]
    assert len(caught) == 1
    assert {t.description.endswith("is not isolated from this machine.") for t in made} == {True}


# What conversations share


COUNT = [0]


def count() -> int:
    """Count in the module."""
    COUNT[0] += 1
    return COUNT[0]


def test_calls_without_state_share_no_directory_and_no_environment(executor):
    def change() -> str:
        os.chdir("/")
        os.environ["LEFT"] = "behind"
        del os.environ["PATH"]
        return "changed"

    tools = {
        "change": Tool("change", "", ANYTHING, change),
        "look": Tool("look", "", ANYTHING, lambda: [os.getcwd(), os.environ.get("LEFT"), "PATH" in os.environ]),
    }
    before = executor.run(ToolCall("look", {}), tools).content
    assert executor.run(ToolCall("change", {}), tools).content == "changed"
    assert executor.run(ToolCall("look", {}), tools).content == before == json.dumps([os.getcwd(), None, True])


def test_the_module_of_a_tool_is_shared_unless_it_asks_for_its_own_process(executor):
    shared, own = {"count": tool(count)}, {"count": tool(per_conversation=True)(count)}
    with executor.session() as first, executor.session() as second:
        calls = [executor.run(ToolCall("count", {}), own, session).content for session in (first, second, first)]
        assert calls == ["1", "1", "2"]
        assert [executor.run(ToolCall("count", {}), shared, s).content for s in (first, second)] == ["1", "2"]
