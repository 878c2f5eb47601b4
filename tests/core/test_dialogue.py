"""The agent loop over engines that exchange messages, and tools whose state belongs to one conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from helpers.scripted_engine import ScriptedEngine, call_text
from mentor_edge.agent import AgentLimits, run_conversations
from mentor_edge.engines.base import ChatEngine, ChatRequest, Reply, Sampling
from mentor_edge.messages import Ending, Message
from mentor_edge.tasks.types import Task
from mentor_edge.tool_calls import parse_turn
from mentor_edge.tools.calculator import CALCULATOR
from mentor_edge.tools.execution.executor import ToolExecutor
from mentor_edge.tools.types import Tool

LIMITS = AgentLimits(tool_rounds=2, tokens_per_turn=400, completion_tokens=4000)
ADD = call_text("add", '{"a": 2, "b": 3}')


class ScriptedChat:
    """Plays a script like `ScriptedEngine`, in messages: one token is one character."""

    batch_size = 3

    def __init__(self, script: Mapping[str, Sequence[str]]) -> None:
        self.script = script
        self.asked: list[list[ChatRequest]] = []

    def reply(self, requests: Sequence[ChatRequest], sampling: Sampling) -> list[Reply | None]:
        self.asked.append(list(requests))
        return [self._turn(request, sampling.max_new_tokens) for request in requests]

    def _turn(self, request: ChatRequest, room: int) -> Reply | None:
        turns = sum(message.role == "assistant" for message in request.messages)
        text = self.script[request.messages[0].content][turns]
        if text == "full":
            return None
        turn = parse_turn(text[:room])
        return Reply(turn.message, len(text) <= room, turn.malformed, len(text[:room]))


def task(question: str, tools: tuple[Tool, ...] = CALCULATOR) -> Task:
    return Task(question, (Message("user", question),), tools, "id", "test", answer="5")


@pytest.fixture(scope="module")
def executor():
    with ToolExecutor() as shared:
        yield shared


SCRIPT = {
    "<a>": [ADD, r"\boxed{5}"],
    "<b>": ["<tool_call>{"],
    "<c>": [call_text("divide", '{"a": 1, "b": 0}') + ADD, r"\boxed{nothing}"],
    "<d>": ["q" * 500],
    "<e>": [ADD] * 9,
    "<f>": ["plain"],
}


def test_both_kinds_of_engine_produce_the_same_conversations(executor):
    tasks = [task(question) for question in SCRIPT]
    in_tokens = run_conversations(ScriptedEngine(SCRIPT), tasks, executor, LIMITS)
    in_messages = run_conversations(ScriptedChat(SCRIPT), tasks, executor, LIMITS)
    for one, other in zip(in_tokens, in_messages, strict=True):
        assert (one.messages, one.answer, one.ending, one.tool_errors) == (
            other.messages,
            other.answer,
            other.ending,
            other.tool_errors,
        )
        assert one.tokens > 0 and other.tokens > 0
        assert other.prompt_ids == [] and other.completion_ids == []


def test_a_chat_engine_is_sent_the_whole_conversation_and_the_tools(executor):
    engine = ScriptedChat(SCRIPT)
    assert isinstance(engine, ChatEngine) and not isinstance(ScriptedEngine(SCRIPT), ChatEngine)
    run_conversations(engine, [task("<a>")], executor, LIMITS)
    (first,), (second,) = engine.asked
    assert first.messages == (Message("user", "<a>"),) and first.tools == task("<a>").tool_schemas
    assert [message.role for message in second.messages] == ["user", "assistant", "tool"]
    assert second.messages[2] == Message("tool", "5", name="add")


def test_a_conversation_without_room_ends_out_of_tokens(executor):
    engine = ScriptedChat({"<a>": ["full"], "<b>": [ADD, "full"], "<c>": [ADD, ADD, "never said"]})
    tight = AgentLimits(5, 400, 2 * len(ADD))
    first, second, third = run_conversations(engine, [task("<a>"), task("<b>"), task("<c>")], executor, tight)
    assert {t.ending for t in (first, second, third)} == {Ending.OUT_OF_TOKENS}
    assert first.messages == () and len(second.messages) == 2 and len(third.messages) == 4


class Counter:
    """Counts how often it was called."""

    def __init__(self) -> None:
        self.count = 0

    def up(self) -> int:
        """One more."""
        self.count += 1
        return self.count


def test_the_state_of_a_tool_belongs_to_one_conversation(executor):
    up = Tool("up", "One more.", {"type": "object", "properties": {}}, Counter.up, state=Counter)
    call = call_text("up", "{}")
    engine = ScriptedEngine({"<a>": [call + call, call, "done"], "<b>": [call, "done"]})
    for _ in range(2):  # a second evaluation of the same tasks starts afresh
        trajectories = run_conversations(engine, [task("<a>", (up,)), task("<b>", (up,))], executor, LIMITS)
        results = [[m.content for m in t.messages if m.role == "tool"] for t in trajectories]
        assert results == [["1", "2", "3"], ["1"]]


def test_calls_of_different_conversations_run_concurrently(executor, tmp_path: Path):
    def meet(who: str) -> str:
        import time

        (tmp_path / who).touch()
        while len(list(tmp_path.iterdir())) < 3:  # no call returns before all have started
            time.sleep(0.005)
        return "met"

    schema = {"type": "object", "properties": {"who": {"type": "string"}}, "required": ["who"]}
    tool = Tool("meet", "Wait for the others.", schema, meet)
    script = {f"<{who}>": [call_text("meet", f'{{"who": "{who}"}}'), "done"] for who in "abc"}
    trajectories = run_conversations(
        ScriptedEngine(script), [task(question, (tool,)) for question in script], executor, LIMITS
    )
    assert [t.messages[1].content for t in trajectories] == ["met"] * 3
