"""The endpoint engine against a real HTTP server on the loopback that plays a script."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.endpoint_server import ADD_TEXT, KEY, Answer, calls, completion, refusal, scripted, serving
from mentor_edge.agent import AgentLimits, run_conversations
from mentor_edge.engines.base import ChatRequest, Reply, Sampling
from mentor_edge.engines.endpoint import EndpointEngine, checked_url, only_model
from mentor_edge.engines.open import identity_of, open_engine
from mentor_edge.engines.openai_message import read_turn
from mentor_edge.errors import EngineError
from mentor_edge.evaluation.evaluate import evaluate
from mentor_edge.messages import Ending, Message, ToolCall
from mentor_edge.tasks.types import Suite, Task
from mentor_edge.tools.calculator import CALCULATOR
from mentor_edge.tools.execution.executor import ToolExecutor
from mentor_edge.tools.types import Tool

LIMITS = AgentLimits(tool_rounds=3, tokens_per_turn=100, completion_tokens=1000)


def ask(answer: Callable[[dict[str, Any]], Answer] | Answer, **options: Any) -> Reply | None:
    """One turn of an endpoint that always returns `answer`."""
    always = answer if callable(answer) else lambda body: answer
    request = ChatRequest((Message("user", "hi"),), tuple(tool.to_openai() for tool in CALCULATOR))
    with serving(always) as server, EndpointEngine(server.url, "small", **{"api_key": KEY} | options) as engine:
        return engine.reply([request], Sampling(50))[0]


def failure(answer: Callable[[dict[str, Any]], Answer] | Answer, **options: Any) -> str:
    """The error of such a turn. It never contains the key."""
    with pytest.raises(EngineError) as caught:
        ask(answer, **options)
    message = str(caught.value)
    assert KEY not in message and KEY not in repr(caught.value), message
    return message


# What is sent


def test_a_conversation_goes_over_the_wire_in_the_apis_format():
    tools = (CALCULATOR[0], Tool("math.root", "the root", {"type": "object", "properties": {}}, lambda: 1))
    messages = (
        Message("user", "q"),
        Message("assistant", "", (ToolCall("add", {"a": "ä"}), ToolCall("math.root", {}))),
        Message("tool", "3", name="add"),
        Message("tool", "1", name="math.root"),
        Message("assistant", "well", (ToolCall("no such tool!", {}),)),
        Message("tool", "\ud800", name="no such tool!"),
    )
    request = ChatRequest(messages, tuple(tool.to_openai() for tool in tools))
    answer = completion(calls(("math_root", "{}"), ("math.root", "{}"), ("add", "")))
    with serving(lambda body: answer) as server, EndpointEngine(server.url + "/", "small", api_key=KEY) as engine:
        (reply,) = engine.reply([request], Sampling(50))
    (sent,) = server.requests
    assert reply.message.tool_calls == (ToolCall("math.root", {}), ToolCall("math.root", {}), ToolCall("add", {}))
    assert {key: sent[key] for key in ("model", "temperature", "max_tokens")} == {
        "model": "small",
        "temperature": 0,
        "max_tokens": 50,
    }
    assert isinstance(sent["seed"], int)
    assert [tool["function"]["name"] for tool in sent["tools"]] == [CALCULATOR[0].name, "math_root"]
    _, first, three, one, second, odd = sent["messages"]
    assert first["content"] == "" and [c["function"]["name"] for c in first["tool_calls"]] == ["add", "math_root"]
    assert json.loads(first["tool_calls"][0]["function"]["arguments"]) == {"a": "ä"}
    ids = [call["id"] for message in (first, second) for call in message["tool_calls"]]
    assert [message["tool_call_id"] for message in (three, one, odd)] == ids and len(set(ids)) == 3
    assert all(len(identity) == 9 and identity.isalnum() for identity in ids)
    assert second["tool_calls"][0]["function"]["name"] == "no_such_tool_" and odd["content"] == "?"
    assert server.keys == [f"Bearer {KEY}"]


def test_names_that_would_become_one_are_sent_as_they_are():
    tools = tuple(Tool(name, "t", {"type": "object"}, lambda: 1).to_openai() for name in ("a.b", "a_b"))
    with serving(lambda body: completion({"content": "no"})) as server, EndpointEngine(server.url, "small") as engine:
        engine.reply([ChatRequest((Message("user", "q"),), tools)], Sampling(5))
        engine.reply([ChatRequest((Message("user", "q"),), ())], Sampling(5))
    assert [tool["function"]["name"] for tool in server.requests[0]["tools"]] == ["a.b", "a_b"]
    assert "tools" not in server.requests[1], "an empty list is refused by the API"


def test_the_requests_of_a_batch_run_concurrently_and_return_in_order():
    together = threading.Barrier(4, timeout=20)

    def answer(body: dict[str, Any]) -> Answer:
        together.wait()  # until all four have arrived
        return completion({"content": body["messages"][0]["content"]})

    requests = [ChatRequest((Message("user", str(i)),), ()) for i in range(4)]
    with serving(answer) as server, EndpointEngine(server.url, "small", batch_size=4) as engine:
        replies = engine.reply(requests, Sampling(5))
    assert [reply.message.content for reply in replies] == ["0", "1", "2", "3"]


# What is read

TAGS = "</tool_call><tool_call>"
ADD = ToolCall("add", {"a": 2, "b": 3})
PART = {"name": "add", "input": {"a": 2, "b": 3}}


@pytest.mark.parametrize(
    ("message", "content", "found", "malformed"),
    [
        ({"content": "hello"}, "hello", (), False),
        ({"content": None}, "", (), False),
        ({}, "", (), False),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab", (), False),
        ({"content": "five", "reasoning_content": ADD_TEXT}, "five", (), False),
        ({"content": None, "tool_calls": [], "reasoning": "hm"}, "", (), False),
        (calls(("add", '{"a": 2, "b": 3}')), "", (ADD,), False),
        (calls(("add", '{"a": 2, "b": 3}'), ("sqrt", '{"x": 4}')), "", (ADD, ToolCall("sqrt", {"x": 4})), False),
        (calls(("add", {"a": 2, "b": 3})), "", (ADD,), False),  # an object, as some servers send
        (calls(("now", ""), ("now", None)), "", (ToolCall("now", {}),) * 2, False),
        (calls(("now", "{}"), ("now", "null")), "", (ToolCall("now", {}),) * 2, False),
        (calls(("add", json.dumps('{"a": 2, "b": 3}'))), "", (ADD,), False),  # encoded twice
        ({"tool_calls": calls(("add", {"a": 2, "b": 3}))["tool_calls"][0]}, "", (ADD,), False),
        ({"tool_calls": [{"name": "add", "arguments": {"a": 2, "b": 3}}]}, "", (ADD,), False),
        ({"tool_calls": [{"function": {"name": "now"}}]}, "", (ToolCall("now", {}),), False),
        ({"content": "", "function_call": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}, "", (ADD,), False),
        ({"content": [{"type": "text", "text": ADD_TEXT}]}, "", (ADD,), False),
        # Arguments under another key, or beside the wrapper.
        ({"tool_calls": [{"function": {"name": "add", "parameters": {"a": 2, "b": 3}}}]}, "", (ADD,), False),
        ({"tool_calls": [{"name": "add", "input": {"a": 2, "b": 3}}]}, "", (ADD,), False),
        ({"tool_calls": [{"name": "add", "args": {"a": 2, "b": 3}, "type": "tool_call"}]}, "", (ADD,), False),
        ({"tool_calls": [{"name": "add", "arguments": None, "params": '{"a": 2, "b": 3}'}]}, "", (ADD,), False),
        ({"tool_calls": [{"function": {"name": "add"}, "arguments": {"a": 2, "b": 3}}]}, "", (ADD,), False),
        ({"tool_calls": [{"name": "now", "arguments": {}, "note": "x"}]}, "", (ToolCall("now", {}),), False),
        ({"tool_calls": [{"name": "add", "a": 2, "b": 3}]}, None, (), True),
        ({"tool_calls": [{"function": {"name": "add", "values": {"a": 2}}}]}, None, (), True),
        ({"tool_calls": [{"name": "add", "arguments": {"a": 2}, "input": {"a": 3}}]}, None, (), True),
        ({"tool_calls": [{"type": "custom", "custom": {"name": "add", "input": "2 3"}}]}, None, (), True),
        # Calls in another place.
        ({"content": [{"type": "text", "text": "ok"}, PART | {"type": "tool_use"}]}, "ok", (ADD,), False),
        ({"content": [PART | {"type": "function_call"}, PART | {"type": "tool-call"}]}, "", (ADD, ADD), False),
        ({"content": [{"functionCall": {"name": "add", "args": {"a": 2, "b": 3}}}]}, "", (ADD,), False),
        ({"content": [{"type": "tool_use", "id": "1"}]}, None, (), True),
        ({"content": PART}, "", (ADD,), False),
        ({"content": {"type": "text", "text": ADD_TEXT}}, "", (ADD,), False),
        ({"tool_call": PART, "content": "ok"}, "ok", (ADD,), False),
        ({"function_calls": [PART, {"name": "now"}]}, "", (ADD, ToolCall("now", {})), False),
        ({"tool_use": PART}, "", (ADD,), False),
        ({"invalid_tool_calls": [{"name": "add", "args": "{a", "error": "not JSON"}]}, None, (), True),
        (calls(("add", '{"a": 2, "b": 3}')) | {"function_call": PART}, "", (ADD,), False),  # the same call twice
        # A call that the server left in the reasoning.
        ({"content": "", "thinking": ADD_TEXT}, None, (ADD,), False),
        ({"content": "", "reasoning_details": [{"type": "reasoning.text", "text": ADD_TEXT}]}, None, (ADD,), False),
        ({"content": "", "reasoning": {"steps": [ADD_TEXT]}}, None, (ADD,), False),
        ({"content": "", "reasoning": "hm", "reasoning_content": ADD_TEXT}, None, (ADD,), False),
        ({"content": "</think>", "reasoning_content": ADD_TEXT}, None, (ADD,), False),
        ({"content": "<think>hm</think>\n", "reasoning_content": ADD_TEXT}, None, (ADD,), False),
        ({"content": "", "reasoning_content": f"hm {ADD_TEXT}</think>\n"}, None, (ADD,), False),
        ({"content": [{"type": "thinking", "thinking": ADD_TEXT}]}, None, (ADD,), False),
        ({"content": [{"type": "thinking", "thinking": ADD_TEXT}, "five"]}, "five", (), False),
        ({"content": "</think>five", "reasoning_content": ADD_TEXT}, "</think>five", (), False),
        ({"content": None, "reasoning_content": f"I add. {ADD_TEXT}"}, None, (ADD,), False),
        ({"content": " ", "reasoning": ADD_TEXT}, None, (ADD,), False),
        ({"reasoning_content": "I add. <tool_call>{"}, None, (), True),
        ({"content": "", "reasoning_content": "hm"}, "", (), False),
        (calls(("add", '{"a": 2, "b": 3}')) | {"content": "I add."}, "I add.", (ADD,), False),
        (calls(("say", json.dumps({"x": TAGS}))), "", (ToolCall("say", {"x": TAGS}),), False),
        # Our parser finds the calls that the server did not.
        ({"content": f"I add.\n{ADD_TEXT}"}, "I add.", (ADD,), False),
        ({"content": '{"name": "add", "parameters": {"a": 2, "b": 3}}', "tool_calls": None}, "", (ADD,), False),
        ({"content": "<tool_call>{"}, "<tool_call>{", (), True),
        # Arguments that are not a JSON object are malformed, even if the server accepted them.
        (calls(("add", '{"a": 2')), None, (), True),
        (calls(("add", "[1]")), None, (), True),
        (calls(("add", "3")), None, (), True),
        (calls(("add", '{"a": NaN}')), None, (), True),
        (calls((None, "{}")), None, (), True),
        ({"tool_calls": [{"type": "custom"}]}, None, (), True),
        ({"tool_calls": ["add"]}, None, (), True),
        (calls(("add", '{"a": 2}{"a": 3}')), None, (), True),
        (calls(("add", [])), None, (), True),
        ({"function_call": "add"}, None, (), True),
        # Empty placeholders for calls, which some servers send with every answer.
        ({"content": "Hi", "function_call": {"name": "", "arguments": ""}}, "Hi", (), False),
        ({"content": "Hi", "function_call": {"name": None, "arguments": None}}, "Hi", (), False),
        ({"content": "Hi", "tool_calls": [None]}, "Hi", (), False),
        ({"content": "Hi", "tool_calls": [{"index": 1, "type": "function", "function": {}}]}, "Hi", (), False),
        ({"content": ADD_TEXT, "tool_calls": [{"function": {"name": "", "arguments": "{}"}}]}, "", (ADD,), False),
    ],
)  # a table  # fmt: skip
def test_turns_are_read_by_the_one_parser(message, content, found, malformed):
    reply = ask(completion(message, completion_tokens=7))
    assert reply.message.tool_calls == found and reply.malformed == malformed
    assert content is None or reply.message.content == content
    assert reply.finished and reply.tokens == 7


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["content", "tool_calls", "function", "name", "arguments", "text", "type", "reasoning"]
                ),
                inner,
            )
        ),
        max_leaves=12,
    )
)
def test_no_message_makes_the_reading_fail(value):
    turn = read_turn(value if isinstance(value, dict) else {"content": value, "tool_calls": value})
    turn.message.content.encode()
    assert not (turn.malformed and turn.message.tool_calls)


def test_a_turn_that_was_cut_is_not_finished_and_tokens_may_be_unknown():
    reply = ask(completion({"content": "It is"}, finish="length"))
    assert (reply.finished, reply.tokens, reply.message.content) == (False, 0, "It is")
    assert ask(completion(calls(("add", "{}")), finish="tool_calls")).finished


@pytest.mark.parametrize(
    "answer",
    [
        refusal(400, "too much", code="context_length_exceeded"),
        refusal(400, "This model's maximum context length is 64 tokens. However, you requested 80 tokens"),
        refusal(400, "the request exceeds the available context size", type="exceed_context_size_error"),
        refusal(422, "prompt is too long: 9000 tokens"),
    ],
)
def test_a_conversation_that_does_not_fit_is_not_an_error(answer):
    assert ask(answer) is None


# What goes wrong


def test_a_request_that_cannot_be_served_now_is_repeated():
    answers = [refusal(429, "slow down"), refusal(503, "starting"), completion({"content": "now"})]
    assert ask(lambda body: answers.pop(0)).message.content == "now"


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (refusal(401, f"Incorrect API key provided: {KEY}."), ["refuses the API key: Incorrect", "--api-key-env"]),
        (refusal(403, "not for you"), ["refuses the API key: not for you"]),
        (refusal(404, "no such model"), ["has no model 'small': no such model", "it has: small, large"]),
        (refusal(400, "tools are not supported"), ["status 400: tools are not supported"]),
        (refusal(429, "slow down"), ["status 429: slow down"]),
        (refusal(500, "out of memory"), ["status 500: out of memory"]),
        (Answer(b"x" * 5000, 500), ["status 500: ", "xxx..."]),
        (
            Answer(b"<html>hello</html>", headers={"Content-Type": "text/html"}),
            ["not answer with JSON: <html>", "/v1"],
        ),
        (Answer(b"{"), ["did not answer with JSON: {"]),
        (Answer(b""), ["did not answer with JSON"]),
        (Answer({"error": "busy"}), ["did not answer with a chat completion: ", "busy"]),
        (Answer({"choices": []}), ["did not answer with a chat completion: "]),
        (Answer({"choices": [{"message": None}]}), ["did not answer with a chat completion: "]),
        (Answer({"choices": [{"message": {}}], "usage": 3}), ["did not answer with a chat completion: "]),
        (Answer([1]), ["did not answer with a chat completion: [1]"]),
    ],
)
def test_every_failure_is_one_clear_error(answer, parts):
    message = failure(answer, max_retries=1)
    assert all(part in message for part in parts), message
    assert len(message.splitlines()) <= 2 and len(message) < 500


def test_slow_and_unreachable_servers_are_distinguished():
    released = threading.Event()

    def hang(body: dict[str, Any]) -> Answer:
        released.wait(20)
        return completion({"content": "late"})

    with serving(hang) as server, EndpointEngine(server.url, "small", timeout=0.2, max_retries=0) as engine:
        with pytest.raises(EngineError, match=r"did not answer within 0\.2 s"):
            engine.reply([ChatRequest((Message("user", "q"),), ())], Sampling(5))
        released.set()
        gone = server.url
    with EndpointEngine(gone, "small", max_retries=0) as engine, pytest.raises(EngineError, match="cannot reach"):
        engine.reply([ChatRequest((Message("user", "q"),), ())], Sampling(5))
    with serving(lambda body: completion({})) as server:
        wrong = EndpointEngine(server.url.removesuffix("/v1"), "small")
        with pytest.raises(EngineError, match="has no model 'small': no such page") as caught:
            wrong.reply([ChatRequest((Message("user", "q"),), ())], Sampling(5))
        assert "usually ends in /v1" in str(caught.value)


def test_one_failed_request_fails_the_batch_without_waiting_for_the_others():
    released = threading.Event()

    def answer(body: dict[str, Any]) -> Answer:
        if body["messages"][0]["content"] == "0":
            return refusal(401, "no")
        released.wait(20)
        return completion({})

    requests = [ChatRequest((Message("user", str(i)),), ()) for i in range(3)]
    with serving(answer) as server, EndpointEngine(server.url, "small") as engine:
        with pytest.raises(EngineError, match="refuses the API key"):
            engine.reply(requests, Sampling(5))
        assert not released.is_set()
        released.set()


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "http://", "http:///v1", ""])
def test_what_is_not_a_url_is_refused(url):
    with pytest.raises(EngineError, match="not the URL of an endpoint"):
        checked_url(url)


@pytest.mark.parametrize("url", ["http://me:hidden@host/v1", "http://host/v1?key=hidden", "http://host/v1#hidden"])
def test_a_url_with_a_secret_is_refused_without_repeating_it(url):
    with pytest.raises(EngineError, match="contains more than host and path") as caught:
        checked_url(url)
    assert "hidden" not in str(caught.value)


def test_the_only_model_needs_no_name():
    with serving(lambda body: completion({}), Answer({"data": [{"id": "mine"}]})) as server:
        assert only_model(server.url) == "mine"
    with serving(lambda body: completion({})) as server, pytest.raises(EngineError, match="serves 2 models") as caught:
        only_model(server.url)
    assert "--model" in str(caught.value) and "large" in str(caught.value)
    with (
        serving(lambda body: completion({}), Answer({"data": None})) as server,
        pytest.raises(EngineError, match="did not answer with a list of models"),
    ):
        only_model(server.url)


# The agent and the evaluation over it


QUESTIONS = ("server", "text", "unknown", "broken", "cut", "long", "endless")


def suite() -> Suite:
    prompts = ((name, (Message("user", name),)) for name in QUESTIONS)
    return Suite("wire", "1", tuple(Task(name, p, CALCULATOR, "id", "d", answer="5") for name, p in prompts))


def test_a_suite_is_evaluated_through_an_endpoint(tmp_path):
    with serving(scripted) as server, EndpointEngine(server.url, "small", batch_size=3) as engine:
        identity = identity_of(server.url, "small")
        found = evaluate(engine, suite(), limits=LIMITS, items=tmp_path / "items.jsonl", identity=identity)
        again = evaluate(engine, suite(), limits=LIMITS)
    assert {o.task_id: (o.correct, o.ending) for o in found.outcomes} == {
        "server": (True, Ending.ANSWERED),
        "text": (True, Ending.ANSWERED),
        "unknown": (False, Ending.ANSWERED),
        "broken": (False, Ending.MALFORMED),
        "cut": (False, Ending.TRUNCATED),
        "long": (False, Ending.OUT_OF_TOKENS),
        "endless": (False, Ending.OUT_OF_TURNS),
    }
    assert again.outcomes == found.outcomes and found.identity == f"{server.url} small"
    assert (found.malformed, found.unknown_tools) == (1, 1) and KEY not in (tmp_path / "items.jsonl").read_text()
    assert [o.tokens for o in found.outcomes] == [20, 20, 20, 10, 10, 10, 40]


def test_open_engine_takes_a_url(tmp_path):
    with serving(scripted, Answer({"data": [{"id": "mine"}]})) as server, ToolExecutor() as executor:
        with open_engine(server.url, api_key=KEY) as engine:
            (trajectory,) = run_conversations(engine, suite().tasks[:1], executor, LIMITS)
        assert server.requests[0]["model"] == "mine" and server.keys[0] == f"Bearer {KEY}"
    assert trajectory.answer == "5" and trajectory.tokens == 20 and trajectory.seconds > 0
    with pytest.raises(EngineError, match="is not a model"), open_engine(tmp_path):
        pass
