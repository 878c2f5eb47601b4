"""MCP servers with odd tools and odd results: what can be used is used, and what cannot is named."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.server_calls import call, failure, named, server
from mentor_edge.errors import MentorEdgeWarning, ToolServerError
from mentor_edge.tools.mcp.client import McpServer
from mentor_edge.tools.mcp.nesting import shallow
from mentor_edge.tools.mcp.results import readable_result
from mentor_edge.tools.mcp.surrogates import SurrogateRepair
from mentor_edge.tools.types import Tool

OPEN = {"type": "object", "properties": {"result": {}, "raw": {"type": "string"}, "envelope": {}}}
DRAFT = "http://json-schema.org/draft-{}/schema#"


def listed(name: str, schema: Any = OPEN, **more: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": schema, **more}


def nested(levels: int) -> dict[str, Any]:
    """A schema of objects in one another."""
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


USABLE = [
    listed("plain"),
    listed("bare", {}),
    listed("dialect_only", {"$schema": DRAFT.format("07")}),
    listed("nothing", None),
    {"name": "missing", "description": 7, "title": "a title"},
    listed("any_type", {"type": "object", "properties": {"x": {"type": "any"}}}),
    listed("nulls", {"type": ["object", "null"], "properties": None, "required": None}),
    listed("old", {"$schema": DRAFT.format("04"), "properties": {"n": {"minimum": 0, "exclusiveMinimum": True}}}),
    listed("letters", {"type": "object", "properties": {"s": {"pattern": r"^\p{Lu}"}}}),
    listed("odd_output", outputSchema={"description": "no type"}),
    listed("a.name-with/marks"),
]
LEFT_OUT = [
    (listed("a list", {"type": "array"}), "tool 'a list': a name has 1 to 128 ASCII letters"),
    (listed("rows", {"type": "array"}), "tool 'rows': its parameters are not a JSON Schema of arguments: its type is"),
    (listed("remote", {"properties": {"x": {"$ref": "http://0.0.0.0/x"}}}), "'http://0.0.0.0/x' cannot be resolved"),
    (listed("endless", {"$ref": "#"}), "tool 'endless': its parameters are not a JSON Schema of arguments: it refers"),
    (listed("text", "x: int"), "expected a JSON Schema of an object, found \"x: int\""),
    (listed("plain"), "tool 'plain': it is listed twice, and the first is used"),
    ({"inputSchema": OPEN}, "a tool without a name: {\"inputSchema\":"),
    (7, "a tool without a name: 7"),
    (listed("deep", nested(110)), "tool 'deep': its parameters are not a JSON Schema of arguments: it is nested too"),
    (listed("deeper", nested(300)), "tool 'deeper': its parameters are not a JSON Schema of arguments: it is nested"),
]  # a table  # fmt: skip


@pytest.fixture(scope="module")
def odd() -> Iterator[dict[str, Tool]]:
    with warnings.catch_warnings(), server("odd.py", json.dumps(USABLE)) as opened:
        warnings.simplefilter("error")  # odd, but nothing is lost
        yield named(opened)


def test_odd_descriptions_are_read(odd):
    assert list(odd) == [tool["name"] for tool in USABLE]
    assert {call(tool) for tool in odd.values()} == {"fine"}
    assert odd["missing"].description == "a title"
    assert odd["old"].argument_error({"n": 0}) and odd["letters"].argument_error({"s": "é"})
    assert all("type" in tool.parameters and "$schema" not in tool.parameters for tool in odd.values())


def test_one_tool_that_cannot_be_used_leaves_the_others_usable():
    tools = [USABLE[0], *(tool for tool, _ in LEFT_OUT), listed("last")]
    with server("odd.py", json.dumps(tools)) as opened:
        with pytest.warns(MentorEdgeWarning) as caught:
            assert list(named(opened)) == ["plain", "last"]
        assert len(caught) == len(LEFT_OUT)
        for warning, (_, message) in zip(caught, LEFT_OUT, strict=True):
            assert str(warning.message).startswith("the MCP server 'odd.py': left out ")
            assert message in str(warning.message)


@pytest.mark.parametrize(
    ("tools", "options", "message"),
    [
        ([], {}, "offers no tools that can be used: it lists none"),
        ([LEFT_OUT[1][0]], {}, "offers no tools that can be used: tool 'rows': its parameters are not"),
        (USABLE, {"only": ["plian"]}, "there is no tool 'plian' (did you mean 'plain'?)"),
        (USABLE, {"excluded": ["plian", "bar"]}, "there is no tool 'bar' (did you mean 'bare'?)"),
        ([USABLE[0], LEFT_OUT[1][0]], {"only": ["plain", "rows"]}, "tool 'rows': its parameters are not"),
        ([listed(f"t{n}") for n in range(300)], {}, "it lists more than 256 tools"),
    ],
)  # a table  # fmt: skip
def test_nothing_to_offer_and_unknown_choices_are_errors(tools, options, message):
    with server("odd.py", json.dumps(tools), **options) as opened, pytest.raises(ToolServerError) as caught:
        opened.tools()
    assert message in str(caught.value)


def test_what_was_not_chosen_is_not_warned_of():
    opened = server("odd.py", json.dumps([USABLE[0], LEFT_OUT[1][0]]), excluded=["rows"])
    with opened, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(named(opened)) == ["plain"]


def test_a_loosened_keyword_is_warned_of_by_tool_and_parameter():
    schema = {"type": "object", "properties": {"a": {"items": {"pattern": r"(?R)"}}, "b": {"enum": []}}}
    with server("odd.py", json.dumps([listed("find", schema)])) as opened, pytest.warns(MentorEdgeWarning) as caught:
        (find,) = opened.tools()
    assert [str(warning.message) for warning in caught] == [
        "tool 'find': parameter 'a[]': the pattern '(?R)' is not checked: '(?R)' is not supported",
        "tool 'find': parameter 'b': enum is [], and is not checked",
    ]
    assert find.argument_error({"a": ["x"], "b": 1}) is None


# Results


def text(*values: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": value} for value in values]


LINK = {"type": "resource_link", "uri": "file:///a", "name": "a", "description": "all rows"}
RESULTS = [
    ({"content": text("a", "b")}, "a\nb"),
    ({"content": text("2 rows"), "structuredContent": {"rows": ["é", 1]}}, '2 rows\n{"rows": ["é", 1]}'),
    ({"content": text('{"rows": [1]}'), "structuredContent": {"rows": [1]}}, '{"rows": [1]}'),
    ({"content": text('found {"rows":[1]}.'), "structuredContent": {"rows": [1]}}, 'found {"rows":[1]}.'),
    ({"content": text("7"), "structuredContent": {"result": 7}}, "7"),
    ({"content": text("seven"), "structuredContent": {"result": "seven"}}, "seven"),
    ({"content": text("a", "b"), "structuredContent": {"result": ["a", "b"]}}, "a\nb"),
    ({"content": text("seven"), "structuredContent": {"result": 7}}, 'seven\n{"result": 7}'),
    ({"content": text("no"), "structuredContent": False}, "no\nfalse"),
    ({"content": [], "structuredContent": {"v": 0}}, '{"v": 0}'),
    ({"structuredContent": {"v": 0}}, '{"v": 0}'),
    ({"content": text("none"), "structuredContent": {}}, "none"),
    ({"content": text("none"), "structuredContent": None}, "none"),
    ({"content": None}, ""),
    ({"content": []}, ""),
    ({}, ""),
    ({"content": "as text"}, "as text"),
    ({"content": ["a", {"text": "b"}]}, "a\nb"),
    ({"content": text("one")[0]}, "one"),
    ({"content": text(4.5)}, "4.5"),
    ({"toolResult": {"v": 1}}, '{"v": 1}'),
    ({"content": [{"type": "video", "url": "x"}, *text("t")]}, '[video {"url": "x"}]\nt'),
    ({"content": [{"type": "image", "url": "x", "source": None}]}, '[image {"url": "x"}]'),
    ({"content": [{"type": "image", "source": {"data": "aGk=" * 200}}]}, "[image]"),
    ({"content": [{"type": "table", "rows": [[1, "é"]]}]}, '[table {"rows": [[1, "é"]]}]'),
    ({"content": [{"type": "chart", "data": [1], "mime_type": "a/b"}]}, '[chart a/b {"data": [1]}]'),
    ({"structured_content": {"v": 0}, "is_error": False}, '{"v": 0}'),
    ({"content": [{"type": "video", "mimeType": "video/mp4", "data": "aGk="}]}, "[video video/mp4, 2 bytes]"),
    ({"content": [{"type": "image", "data": "aGVsbG8=", "mimeType": "image/png"}]}, "[image image/png, 5 bytes]"),
    ({"content": [{"type": "image"}, {"type": "text"}, {}]}, "[image]\n[text]\n[content of an unknown type]"),
    ({"content": [{"type": "resource_link", "uri": "file:///a"}]}, "[resource file:///a]"),
    ({"content": [LINK]}, '[resource file:///a {"name": "a", "description": "all rows"}]'),
    ({"content": [{"type": "resource", "resource": {"uri": "a:b", "text": "inside"}}]}, "inside"),
    ({"content": [{"type": "resource", "resource": {"uri": "a:b", "blob": "aGk="}}]}, "[resource a:b, 2 bytes]"),
    ({"content": [{"type": "resource", "uri": "a:b", "text": "inside"}]}, "inside"),
    ({"content": [{"type": "resource", "uri": "a:b"}]}, "[resource a:b]"),
    ({"content": [{"type": "markdown", "text": "# a"}, {"type": "markdown", "markdown": "b"}]}, "# a\nb"),
    ({"content": [{"type": "json", "json": {"v": 1}}, {"type": "table", "value": [1]}]}, '{"v": 1}\n[1]'),
    ({"content": [None, *text("a"), 3, ["b"]]}, 'a\n3\n["b"]'),
    ({"content": 7}, "7"),
    ({"temperature": 3}, '{"temperature": 3}'),
    ({"content": [], "rows": ["é"]}, '{"rows": ["é"]}'),
    ({"content": text("a"), "took": 3}, "a"),
]  # a table  # fmt: skip
ERRORS = [
    ({"content": text("failed"), "structuredContent": {"code": 9}, "isError": True}, 'failed\n{"code": 9}'),
    ({"content": [], "structuredContent": {"code": 9}, "isError": True}, '{"code": 9}'),
    ({"content": [], "isError": True}, "the tool failed and did not say why"),
    ({"isError": True}, "the tool failed and did not say why"),
    ({"content": text("disk full"), "isError": "true"}, "disk full"),
    ({"content": text("disk full"), "is_error": True}, "disk full"),
    ({"isError": True, "error": "disk full"}, '{"error": "disk full"}'),
]  # a table  # fmt: skip


@pytest.mark.parametrize(("result", "read"), RESULTS)
def test_no_part_of_a_result_is_lost(odd, result, read):
    assert call(odd["plain"], result=result) == read


@pytest.mark.parametrize(("result", "read"), ERRORS)
def test_a_failed_call_says_what_the_server_said(odd, result, read):
    assert failure(odd["plain"], result=result) == read


ENVELOPES = [
    ({"error": {"code": -1}}, '{"code": -1}'),
    ({"error": {"code": "E_BUSY", "message": "busy"}}, "busy (E_BUSY)"),
    ({"error": {"code": -1, "message": {"why": "busy"}}}, '{"code": -1, "message": {"why": "busy"}}'),
    ({"error": "busy"}, "busy"),
]  # a table  # fmt: skip


@pytest.mark.parametrize(("envelope", "read"), ENVELOPES)
def test_an_error_of_another_form_is_an_error_at_once(odd, envelope, read):
    assert failure(odd["plain"], envelope=envelope) == read


@pytest.mark.parametrize(("value", "read"), [("fine", "fine"), (["a", {"text": "b"}], "a\nb"), (None, ""), (4, "4")])
def test_a_result_need_not_be_an_object(odd, value, read):
    assert call(odd["plain"], envelope={"result": value}) == read


@pytest.mark.parametrize(
    "about",
    [{}, {"serverInfo": {"name": "odd"}, "capabilities": {"tools": True}}, {"serverInfo": "odd", "instructions": 3}],
)
def test_what_a_server_says_about_itself_may_be_odd(about):
    with server("odd.py", json.dumps([listed("plain")]), json.dumps(about)) as opened:
        assert call(named(opened)["plain"]) == "fine"


def test_a_result_is_not_held_against_an_output_schema():
    schema = {"type": "object", "properties": {"v": {"type": "integer"}}, "required": ["v"]}
    with server("odd.py", json.dumps([listed("typed", outputSchema=schema)])) as opened:
        (typed,) = opened.tools()
        assert call(typed) == "fine"
        assert call(typed, result={"content": [], "structuredContent": {"v": "2"}}) == '{"v": "2"}'


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        (r"a\ud83d b", "a\ufffd b"),
        (r"\ude00\uD83D", "\ufffd\ufffd"),
        (r"\ud83d\ude00 \\ud83d", "😀 \\ud83d"),
        (r"\ud83d\n\u00e9", "\ufffd\né"),
    ],
)
def test_half_of_a_surrogate_pair_becomes_a_replacement_character(odd, raw, read):
    assert call(odd["plain"], raw=f'{{"content": [{{"type": "text", "text": "{raw}"}}]}}') == read


def test_results_are_repaired_behind_a_url_too():
    half = r'{"content": [{"type": "text", "text": "a\ud83d"}], "structuredContent": {"\ude00": 1}}'
    results = {
        "initialize": json.dumps(
            {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "web", "version": "1"}}
        ),
        "tools/list": json.dumps({"tools": [listed("json", description="\ud83d"), listed("events")]}),
        "tools/call": half,
    }

    class Web(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            reply = f'{{"jsonrpc": "2.0", "id": {asked.get("id")}, "result": {results.get(asked["method"])}}}'
            events = asked.get("params", {}).get("name") == "events"
            self.send_response(200 if "id" in asked else 202)
            self.send_header("content-type", "text/event-stream" if events else "application/json")
            self.end_headers()
            self.wfile.write(f"event: message\ndata: {reply}\n\n".encode() if events else reply.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        with McpServer(f"http://127.0.0.1:{web.server_port}/") as opened:
            tools = named(opened)
            assert tools["json"].description == "\ufffd"
            assert {call(tool) for tool in tools.values()} == {'a\ufffd\n{"\ufffd": 1}'}
        web.shutdown()


@given(st.text(st.sampled_from('a\\"é\ud83d\ude00\ud800\n') | st.characters(), max_size=12), st.integers(1, 9))
def test_text_is_repaired_however_it_is_cut(value, size):
    written = json.dumps(value).encode()
    repair = SurrogateRepair()
    pieces = [repair(written[at : at + size]) for at in range(0, len(written), size)]
    expected = "".join(
        "\ufffd" if "\ud800" <= character <= "\udfff" else character for character in json.loads(written)
    )
    assert json.loads(b"".join([*pieces, repair.end()])) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "resource", "uri", "data"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(["content", "structuredContent", "isError", "toolResult", "_meta"]), JSON))
def test_any_result_is_read_or_left_to_the_protocol(result):
    readable = readable_result(result)
    assert readable == result or [block["type"] for block in readable["content"]] in (["text"], [])


@given(JSON, st.integers(0, 400))
def test_what_is_nested_too_deeply_is_cut_out(value, levels):
    inner = ["]}", value, '\\"[{']
    read = json.loads(shallow("[" * levels + json.dumps(inner) + "]" * levels))
    for _ in range(min(levels, 180)):
        (read,) = read
    assert read == inner or levels > 170
    assert read == "nested too deeply" or levels < 180
