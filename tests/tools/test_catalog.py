"""Tools from the specs of configurations and commands: what is loaded, and what is refused."""

from __future__ import annotations

import json
import os
import shlex
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from helpers.paths import SERVERS
from mentor_edge.errors import ConfigError
from mentor_edge.messages import ToolCall
from mentor_edge.tools.calculator import CALCULATOR
from mentor_edge.tools.catalog import load_tools, spec_mistakes
from mentor_edge.tools.execution.executor import ToolExecutor

SERVER = SERVERS / "good.py"
RUN_SERVER = f"{sys.executable} {SERVER}"
THREE = json.dumps([{"name": name, "inputSchema": {}} for name in ("add", "search", "fetch")])
RUN_THREE = shlex.join([sys.executable, str(SERVERS / "odd.py"), THREE])
MODULE = '''
from __future__ import annotations

from mentor_edge.tools.definition import tool
from sibling import DAYS

def forecast(city: str) -> str:
    """weather of a city"""
    return f"{city}: sunny for {DAYS} days"

ready = tool(forecast)
number = 7

def undocumented(x: int) -> int:
    return x

class Counter:
    """Counts."""
    def __init__(self) -> None:
        self.count = 0
    def step(self) -> int:
        """one more"""
        self.count += 1
        return self.count
    def reset(self) -> int:
        """back to nothing"""
        self.count = 0
        return 0
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with modules and a corpus."""
    (tmp_path / "json.py").write_text(MODULE)  # named like a module of the standard library
    (tmp_path / "weather_tools.py").write_text(MODULE)
    (tmp_path / "sibling.py").write_text("DAYS = 3\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "leaves.py").write_text("import sys; sys.exit(3)\n")
    (tmp_path / "corpus.jsonl").write_text('{"doc_id": "1", "title": "Paris", "text": "a city in France"}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*specs: Any) -> list[str]:
    with load_tools(specs) as box:
        assert list(box.by_name.values()) == list(box.tools)
        return [tool.name for tool in box.tools]


def run(spec: Any, name: str, arguments: dict[str, Any]) -> str:
    with load_tools([spec]) as box, ToolExecutor() as executor:
        return executor.run(ToolCall(name, arguments), box.by_name).content


def test_calculators_come_by_name_and_in_alphabetical_order() -> None:
    assert names("calculator") == sorted(tool.name for tool in CALCULATOR)
    assert names("subtract", "add") == ["add", "subtract"]
    assert names() == []


@pytest.mark.parametrize("module", ["weather_tools", "weather_tools.py", "json.py"])
def test_functions_tools_and_classes_are_imported(here: Path, module: str) -> None:
    assert names(f"import:{module}:forecast") == names({"import": f"{module}:ready"}) == ["forecast"]
    assert names(f"import:{module}:Counter", "add") == ["add", "reset", "step"]
    assert run(f"import:{module}:forecast", "forecast", {"city": "Rome"}) == "Rome: sunny for 3 days"
    assert sys.modules["json"].__name__ == "json" and str(here) not in sys.path


def test_a_corpus_is_searched(here: Path) -> None:
    assert names({"search": "corpus.jsonl"}) == ["search"]
    assert "a city in France" in run("search:corpus.jsonl", "search", {"query": "Paris"})


def test_names_may_share_one_spec_and_mappings_may_be_text() -> None:
    assert names("subtract, add", "ceil,floor") == ["add", "ceil", "floor", "subtract"]
    assert spec_mistakes(["ad,subtract"]) == ["'ad' is not a tool (did you mean 'add'?)"]
    with load_tools([f"{{mcp: {json.dumps(RUN_THREE)}, only: [search, add]}}"]) as box:
        assert list(box.by_name) == ["add", "search"]


def test_tools_of_a_server_are_chosen_by_name() -> None:
    with load_tools([{"mcp": RUN_THREE, "except": ["add", "fetch"]}, "add"]) as box:
        assert list(box.by_name) == ["add", "search"] and box.by_name["add"].remote is None
    with pytest.raises(ConfigError) as refused:
        load_tools([{"mcp": RUN_THREE, "only": ["add", "serach"]}, {"mcp": RUN_THREE, "only": ["add"]}, "add"])
    unknown, twice = refused.value.problems
    assert "there is no tool 'serach' (did you mean 'search'?)" in unknown
    assert f"'add' comes from mcp:{RUN_THREE} and from add; choose with only or except" in twice


def test_headers_are_sent_from_the_environment_and_their_values_appear_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_KEY", "Bearer s3cret")
    seen: list[str | None] = []

    class Shop(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.headers["X-Key"])
            self.send_error(401)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Shop) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        url = f"http://me:s3cret@127.0.0.1:{web.server_port}/mcp?k=s3cret"
        spec = {"mcp": url, "headers": {"X-Key": "SHOP_KEY"}}
        with pytest.raises(ConfigError) as refused:
            load_tools([spec, {**spec, "onyl": []}])
        web.shutdown()
    assert seen[0] == "Bearer s3cret" and "s3cret" not in str(refused.value)
    monkeypatch.setenv("SHOP_KEY", "s3cret\n")
    for headers in ({"Authorization": "SHOP_KEY"}, {"Authorization": "Bearer s3cret"}):
        (mistake,) = spec_mistakes([{"mcp": "http://x/", "headers": headers}])
        assert "s3cret" not in mistake


def test_code_is_run_only_when_python_is_named() -> None:
    pytest.importorskip("mentor_edge.tools.python_code")
    assert len(names("python")) == 1 and not set(names("python")) & set(names("calculator"))


def test_a_server_runs_until_the_box_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mcp")
    monkeypatch.setenv("INHERITED", "yes")
    with load_tools([{"mcp": RUN_SERVER, "env": ["INHERITED"]}]) as box, ToolExecutor() as executor:
        assert "add" in box.by_name
        assert executor.run(ToolCall("add", {"a": 2, "b": 3}), box.by_name).content == "5"
        assert '"INHERITED"' in executor.run(ToolCall("environment", {}), box.by_name).content
        server = int(executor.run(ToolCall("pid", {}), box.by_name).content)
        os.kill(server, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("calculater", "'calculater' is not a tool (did you mean 'calculator'?)"),
        ("mpc:python server.py", "'mpc:python server.py' is not a tool"),
        ("mcp:", "'mcp:' needs a target: mcp:..."),
        ("mcp", "'mcp' needs a target: mcp:..."),
        (7, "7 is neither text nor a mapping"),
        ({}, "{} must have one of the keys mcp, search, import"),
        ({"mpc": "x"}, "unknown key 'mpc' (did you mean 'mcp'?)"),
        ({"mcp": "x", "search": "y"}, "must have one of the keys"),
        ({"search": "y", "env": []}, "must have one of the keys mcp, search, import (only mcp may also have"),
        ({"mcp": ["python", "x"]}, "mcp must be text, got ['python', 'x']"),
        ({"mcp": "x", "env": "PATH"}, "env must be a list of names or a mapping of names to text, got 'PATH'"),
        ({"mcp": "x", "env": {"A": 1}}, "env must be a list of names or a mapping"),
        ({"mcp": "x", "env": ["NO_SUCH_VARIABLE"]}, "env: not set here: NO_SUCH_VARIABLE"),
        ({"mcp": "x", "only": "add"}, "only must be a list of tool names, got 'add'"),
        ({"mcp": "x", "only": ["a"], "except": ["b"]}, "give only or except, not both"),
        ({"mcp": "x", "onyl": ["a"]}, "unknown key 'onyl' (did you mean 'only'?)"),
        ({"mcp": "x", "headers": {"A": "PATH"}}, "headers are for servers with a URL"),
        ({"mcp": "http://x/", "headers": ["A"]}, "headers must be a mapping of header names to names of environment"),
        ({"mcp": "http://x/", "headers": {"A": "NO_SUCH_VARIABLE"}}, "headers: not set here: NO_SUCH_VARIABLE"),
        ({"mcp": "http://x/", "headers": {"A b": "PATH"}}, "headers: 'A b' is not the name of a header"),
        ("{mcp: [}", "the mapping {mcp: [}... cannot be read as YAML"),
        ("{mcp}", "mcp must be text, got None"),
    ],
)
def test_a_wrong_spec_is_found_without_starting_anything(spec: Any, message: str) -> None:
    (mistake,) = spec_mistakes(["add", spec])
    assert message in mistake
    with pytest.raises(ConfigError) as refused:
        load_tools([spec])
    assert refused.value.problems == [f"tools: {mistake}"]


def test_everything_that_cannot_be_loaded_is_reported_at_once(here: Path) -> None:
    cases = {
        "import:forecast": "write import:package.module:name or import:file.py:name",
        "import:no_such:f": "import:no_such:f: cannot import no_such: ModuleNotFoundError: No module named 'no_such'",
        "import:no_such.py:f": "cannot import no_such.py: FileNotFoundError",
        "import:broken:f": "cannot import broken: ZeroDivisionError: division by zero",
        "import:leaves.py:f": "cannot import leaves.py: SystemExit: 3",
        "import:json.py:forcast": "json.py has no 'forcast' (did you mean 'forecast'?)",
        "import:json.py:number": "expected a Tool, a function or a class, found int",
        "import:json.py:undocumented": "tool 'undocumented' has no docstring; the docstring is what",
        "search:none.jsonl": "search:none.jsonl: cannot read passages from none.jsonl: No such file or directory;",
        "import:json.py:forecast": None,
        "import:weather_tools:ready": "'forecast' comes from import:json.py:forecast and from import:weather_",
        "calculator": None,
        "add": "'add' comes from calculator and from add",
    }
    with pytest.raises(ConfigError) as refused:
        load_tools(list(cases))
    expected = [message for message in cases.values() if message is not None]
    assert len(refused.value.problems) == len(expected)
    for problem, message in zip(refused.value.problems, expected, strict=True):
        assert problem.startswith("tools: ") and message in problem


def test_servers_are_ended_when_another_spec_is_wrong(here: Path) -> None:
    pytest.importorskip("mcp")
    started, launcher = here / "pid", here / "servers" / "launch.py"
    launcher.parent.mkdir()
    launcher.write_text(
        "import os, runpy\n"
        f"open({str(started)!r}, 'w').write(str(os.getpid()))\n"
        f"runpy.run_path({str(SERVER)!r}, run_name='__main__')\n"
    )
    with pytest.raises(ConfigError) as refused:
        load_tools([f"mcp:{sys.executable} {launcher}", "ad"])
    assert len(refused.value.problems) == 1 and "'ad' is not a tool" in refused.value.problems[0]
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
    with pytest.raises(ConfigError, match=r"tools: mcp:no_such_program x: .*no_such_program"):
        load_tools(["mcp:no_such_program x"])
