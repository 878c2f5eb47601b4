from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.scripted_engine import EOS, ScriptedEngine, call_text
from mentor_edge.agent import AgentLimits, ToolAgent, run_conversations
from mentor_edge.messages import Ending, Message, Trajectory
from mentor_edge.tasks.types import Task
from mentor_edge.tools.calculator import CALCULATOR
from mentor_edge.tools.execution.executor import ToolExecutor

LIMITS = AgentLimits(tool_rounds=3, tokens_per_turn=400, completion_tokens=4000)
ADD = call_text("add", '{"a": 2, "b": 3}')


@pytest.fixture(scope="module")
def executor():
    with ToolExecutor() as shared:
        yield shared


def task(question: str) -> Task:
    return Task(question, (Message("user", question),), CALCULATOR, "id", "test", answer="5")


def run(executor, *replies: str, limits: AgentLimits = LIMITS, **engine) -> Trajectory:
    return run_conversations(ScriptedEngine({"question": replies}, **engine), [task("question")], executor, limits)[0]


def roles(trajectory: Trajectory) -> list[str]:
    return [message.role for message in trajectory.messages]


def test_a_conversation_with_two_rounds_of_tools_is_answered(executor):
    trajectory = run(executor, f"First. {ADD}", call_text("multiply", '{"a": 5, "b": 4}'), r"It is \boxed{20}.")
    assert trajectory.ending is Ending.ANSWERED and trajectory.answer == "20" and trajectory.terminated
    assert roles(trajectory) == ["assistant", "tool", "assistant", "tool", "assistant"]
    assert [m.content for m in trajectory.messages if m.role == "tool"] == ["5", "20"]
    assert [call.name for call in trajectory.calls] == ["add", "multiply"]


def test_ids_are_the_conversation_as_the_template_spells_it(executor):
    engine = ScriptedEngine({"question": [f"First.{ADD}", r"\boxed{5}"]})
    trajectory = run_conversations(engine, [task("question")], executor, LIMITS)[0]
    text = engine.decode([[*trajectory.prompt_ids, *trajectory.completion_ids]])[0]
    conversation = [Message("user", "question"), *trajectory.messages]
    assert text + "\n" == engine.template.render(conversation, task("question").tool_schemas)


def test_sampled_marks_what_the_model_wrote_and_nothing_else(executor):
    engine = ScriptedEngine({"question": [ADD, ADD, r"\boxed{5}"]})
    trajectory = run_conversations(engine, [task("question")], executor, LIMITS)[0]
    assert len(trajectory.sampled) == len(trajectory.completion_ids)
    pairs = list(zip(trajectory.completion_ids, trajectory.sampled, strict=True))
    written = engine.decode([[i for i, sampled in pairs if sampled]])[0]
    read = engine.decode([[i for i, sampled in pairs if not sampled]])[0]
    assert written == ADD + EOS + ADD + EOS + r"\boxed{5}" + EOS
    assert read == 2 * engine.template.tool_suffix([Message("tool", "5", name="add")])


def test_several_calls_of_one_turn_are_answered_in_order(executor):
    two = ADD + "\n" + call_text("subtract", '{"a": 2, "b": 2}')
    trajectory = run(executor, two, r"\boxed{5}")
    assert roles(trajectory) == ["assistant", "tool", "tool", "assistant"]
    assert [(m.name, m.content) for m in trajectory.messages[1:3]] == [("add", "5"), ("subtract", "0")]


@pytest.mark.parametrize(
    ("call", "reported", "unknown"),
    [
        (call_text("divide", '{"a": 1, "b": 0}'), "ZeroDivisionError", ()),
        (call_text("add", '{"a": "two", "b": 0}'), "invalid arguments", ()),
        (call_text("teleport", "{}"), "no tool named 'teleport'", ("teleport",)),
    ],
)
def test_tool_errors_are_fed_back_and_the_conversation_continues(executor, call, reported, unknown):
    trajectory = run(executor, call, r"\boxed{5}")
    assert trajectory.ending is Ending.ANSWERED and trajectory.answer == "5"
    assert reported in json.loads(trajectory.messages[1].content)["error"]
    assert trajectory.tool_errors == 1 and trajectory.unknown_tools == unknown


@pytest.mark.parametrize(
    ("replies", "ending", "answer"),
    [
        (["no box"], Ending.ANSWERED, None),
        ([r"<tool_call>{</tool_call> \boxed{5}"], Ending.MALFORMED, None),
        ([ADD] * 4, Ending.OUT_OF_TURNS, None),
        (["x" * 400 + r"\boxed{5}"], Ending.TRUNCATED, None),
    ],
)
def test_endings(executor, replies, ending, answer):
    trajectory = run(executor, *replies)
    assert trajectory.ending is ending and trajectory.answer == answer
    assert sum(m.role == "tool" for m in trajectory.messages) == (3 if ending is Ending.OUT_OF_TURNS else 0)


def test_without_tool_rounds_nothing_is_executed_and_the_calls_are_kept(executor):
    trajectory = run(executor, ADD, limits=AgentLimits(0, 400, 4000))
    assert trajectory.ending is Ending.OUT_OF_TURNS
    assert roles(trajectory) == ["assistant"] and len(trajectory.calls) == 1


def test_a_prompt_that_fills_the_context_is_not_run(executor):
    trajectory = run(executor, "never said", context_length=100)
    assert trajectory.ending is Ending.OUT_OF_TOKENS
    assert trajectory.messages == () and list(trajectory.completion_ids) == [] and trajectory.answer is None


def test_a_tool_result_that_does_not_fit_ends_the_conversation(executor):
    first = len((ADD + EOS).encode())
    trajectory = run(executor, ADD, "never said", limits=AgentLimits(3, 400, first + 5))
    assert trajectory.ending is Ending.OUT_OF_TOKENS
    assert all(trajectory.sampled) and not trajectory.terminated


def test_the_last_turn_is_cut_at_the_completion_budget(executor):
    unlimited = run(executor, ADD, "y" * 300)
    budget = len(unlimited.completion_ids) - 100
    cut = run(executor, ADD, "y" * 300, limits=AgentLimits(3, 400, budget))
    assert len(cut.completion_ids) == len(cut.sampled) == budget
    assert cut.ending is Ending.TRUNCATED and cut.messages[-1].content == "y" * (300 - 99)
    assert list(cut.completion_ids) == list(unlimited.completion_ids)[:budget]


@given(st.integers(1, 700), st.integers(1, 500), st.integers(1, 900), st.integers(0, 4))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_limit_is_ever_exceeded(executor, completion, per_turn, room, rounds):
    engine = ScriptedEngine({"question": [ADD, ADD, "z" * 300]}, context_length=1)
    prompt = len(engine.encode([engine.template.render(task("question").prompt, task("question").tool_schemas)])[0])
    engine.context_length = prompt + room
    limits = AgentLimits(rounds, per_turn, completion)
    trajectory = run_conversations(engine, [task("question")], executor, limits)[0]
    assert len(trajectory.completion_ids) == len(trajectory.sampled) <= completion
    assert len(trajectory.prompt_ids) + len(trajectory.completion_ids) <= max(
        engine.context_length, len(trajectory.prompt_ids)
    )
    assert sum(m.role == "tool" for m in trajectory.messages) <= rounds
    assert trajectory.terminated == (trajectory.ending in (Ending.ANSWERED, Ending.MALFORMED))


def test_conversations_of_a_batch_do_not_touch_each_other(executor):
    script = {
        "<a>": [ADD, r"\boxed{5}"],
        "<b>": ["<tool_call>{"],
        "<c>": [call_text("divide", '{"a": 1, "b": 0}'), ADD, r"\boxed{nothing}"],
        "<d>": ["q" * 500],
        "<e>": [ADD] * 9,
        "<f>": [r"\boxed{1}"],
    }
    tasks = [task(question) for question in script]
    together = run_conversations(ScriptedEngine(script, batch_size=4), tasks, executor, LIMITS)
    alone = [run_conversations(ScriptedEngine(script, batch_size=1), [t], executor, LIMITS)[0] for t in tasks]
    assert together == alone
    assert [t.ending.value for t in together] == [
        "answered",
        "malformed",
        "answered",
        "truncated",
        "out_of_turns",
        "answered",
    ]


def test_progress_and_temperature_are_passed_on(executor):
    engine = ScriptedEngine({"question": ["x"]}, batch_size=2)
    done: list[tuple[str, int, int]] = []
    run_conversations(
        engine, [task("question")] * 5, executor, LIMITS, temperature=0.7, progress=lambda *report: done.append(report)
    )
    assert done == [("conversations", count, 5) for count in (1, 2, 3, 4, 5)] and set(engine.temperatures) == {0.7}
    assert run_conversations(engine, [], executor, LIMITS) == []


def test_the_agent_offers_its_tools_in_alphabetical_order():
    with ToolAgent(ScriptedEngine({"How much?": [ADD, r"\boxed{5}"]}), CALCULATOR) as agent:
        assert [tool.name for tool in agent.tools] == sorted(tool.name for tool in CALCULATOR)
        assert agent.run("How much?").answer == "5"
        assert agent.run([Message("user", "How much?")]).answer == "5"
