"""MENTOR's reward against the values of its released code (each row was run there), and its bounds on anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mentor_edge.messages import Ending, Message, ToolCall, Trajectory
from mentor_edge.rewards import MentorReward, is_correct
from mentor_edge.tasks.types import Task
from mentor_edge.tools.calculator import CALCULATOR

REWARD = MentorReward()


def trajectory(*tools: str, answer: str | None = "5", ending: Ending = Ending.ANSWERED) -> Trajectory:
    messages = tuple(Message("assistant", "", (ToolCall(name, {}),)) for name in tools)
    return Trajectory((*messages, Message("assistant", "done")), answer, ending)


def task(*teacher_tools: str, answer: str | None = "5") -> Task:
    reference = trajectory(*teacher_tools)
    return Task("t", (Message("user", "?"),), CALCULATOR, "id", "test", answer=answer, reference=reference)


TEACHER = ("add", "divide")


@pytest.mark.parametrize(
    ("rollout", "total"),
    [
        (trajectory(*TEACHER, ending=Ending.TRUNCATED), 0.0),
        (trajectory(*TEACHER, ending=Ending.OUT_OF_TURNS), 0.0),
        (trajectory(*TEACHER, ending=Ending.OUT_OF_TOKENS), 0.0),
        (trajectory(*TEACHER, answer=None), 0.1),
        (trajectory(answer=None, ending=Ending.MALFORMED), 0.1),
        (trajectory("teleport", answer=None), 0.1),
        (trajectory(*TEACHER), 1.1),
        (trajectory("divide", "add", "add"), 1.1),
        (trajectory("add"), 0.8),
        (trajectory(*TEACHER, "sqrt"), 0.8),
        (trajectory("sqrt"), 0.8),
        (trajectory(), 0.8),
        (trajectory(*TEACHER, "teleport"), 1.0),
        (trajectory("teleport"), 0.7),
        (trajectory(*TEACHER, answer="6"), 0.16),
        (trajectory("add", answer="6"), 0.1),
        (trajectory("teleport", answer="6"), 0.0),
        (trajectory(*TEACHER, "teleport", answer="6"), 0.06),
    ],
)
def test_values_of_the_released_code(rollout, total):
    assert REWARD(rollout, task(*TEACHER)).total == pytest.approx(total)


def test_the_parts_add_up():
    right = REWARD(trajectory(*TEACHER), task(*TEACHER))
    assert (right.correct, right.tool_match, right.no_unknown_tool, right.terminated) == (True, 0.3, 0.1, True)
    wrong = REWARD(trajectory(*TEACHER, answer="6"), task(*TEACHER))
    assert (wrong.correct, wrong.reason) == (False, "wrong answer") and wrong.tool_match == pytest.approx(0.06)
    cut = REWARD(trajectory(*TEACHER, ending=Ending.TRUNCATED), task(*TEACHER))
    assert (cut.correct, cut.terminated, cut.reason) == (False, False, "truncated")


def test_the_maximum_is_that_of_the_weights():
    assert REWARD.maximum == pytest.approx(1.1)
    assert MentorReward(correct=1.0, tool_match=0.0, no_unknown_tool=0.0).maximum == 1.0


def test_without_a_reference_the_match_is_to_call_nothing():
    bare = Task("t", (), CALCULATOR, "id", "test", answer="5")
    assert REWARD(trajectory(), bare).total == pytest.approx(1.1)
    assert REWARD(trajectory("add"), bare).total == pytest.approx(0.8)


def test_only_a_closed_answer_to_a_task_with_an_answer_is_correct():
    assert is_correct(trajectory(), task())
    assert is_correct(trajectory(answer="5.0"), task())
    assert not is_correct(trajectory(ending=Ending.TRUNCATED), task())
    assert not is_correct(trajectory(answer=None), task())
    assert not is_correct(trajectory(), task(answer=None))


NAMES = st.lists(st.sampled_from([*(tool.name for tool in CALCULATOR), "teleport", ""]) | st.text(), max_size=5)
ANSWERS = st.none() | st.text() | st.sampled_from(["5", "5.0", "6"])


@given(NAMES, ANSWERS, st.sampled_from(Ending), NAMES, ANSWERS)
def test_the_reward_is_bounded_and_never_raises(used, answer, ending, taught, accepted):
    breakdown = REWARD(trajectory(*used, answer=answer, ending=ending), task(*taught, answer=accepted))
    assert 0.0 <= breakdown.total <= REWARD.maximum
    assert breakdown.correct <= breakdown.terminated


@given(st.permutations(["add", "divide", "sqrt", "add"]), st.booleans())
def test_order_and_repetition_do_not_count(order, right):
    answer = "5" if right else "6"
    shuffled = REWARD(trajectory(*order, answer=answer), task("add", "sqrt", "divide"))
    assert shuffled == REWARD(trajectory("add", "divide", "sqrt", answer=answer), task("add", "sqrt", "divide"))


@given(st.lists(st.sampled_from([tool.name for tool in CALCULATOR]), max_size=5), st.text(min_size=1))
def test_a_reference_scores_the_maximum(tools, answer):
    own = task(*tools, answer=answer)
    assert REWARD(trajectory(*tools, answer=answer), own).total == REWARD.maximum
