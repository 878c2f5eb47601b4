"""MENTOR's reward and its ablations: the values of the released code, and bounds for any input."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mentor_edge.errors import ConfigError
from mentor_edge.messages import Ending, Message, ToolCall, Trajectory
from mentor_edge.rewards import MATCHINGS, MentorReward, Reward, SparseReward, is_correct
from mentor_edge.tasks.types import Task
from mentor_edge.tools.calculator import CALCULATOR

REWARD = MentorReward()
# The columns of the table: the reward of the paper, its sparse baseline, and ablations 2, 3 and 4.
COLUMNS: tuple[Reward, ...] = (
    MentorReward(),
    SparseReward(),
    MentorReward("overlap"),
    MentorReward("none"),
    MentorReward("f1"),
)


def rollout(*calls: ToolCall, answer: str | None = "5", ending: Ending = Ending.ANSWERED) -> Trajectory:
    turns = tuple(Message("assistant", "", (call,)) for call in calls)
    return Trajectory((*turns, Message("assistant", "done")), answer, ending)


def trajectory(*tools: str, answer: str | None = "5", ending: Ending = Ending.ANSWERED) -> Trajectory:
    return rollout(*(ToolCall(name, {}) for name in tools), answer=answer, ending=ending)


def taught(*references: Trajectory, answer: str | None = "5") -> Task:
    first, *others = references or (None,)
    return Task("t", (), CALCULATOR, "id", "test", answer=answer, reference=first, other_references=tuple(others))


def task(*teacher_tools: str, answer: str | None = "5") -> Task:
    return taught(trajectory(*teacher_tools), answer=answer)


TEACHER = ("add", "divide")
TAUGHT = task(*TEACHER)
NONE = taught()

TABLE: list[tuple[str, Trajectory, Task, tuple[float, float, float, float, float]]] = [
    # what happened, rollout, task, mentor, sparse, overlap, none, f1
    ("cut off", trajectory(*TEACHER, ending=Ending.TRUNCATED), TAUGHT, (0, 0, 0, 0, 0)),
    ("out of turns", trajectory(*TEACHER, ending=Ending.OUT_OF_TURNS), TAUGHT, (0, 0, 0, 0, 0)),
    ("out of tokens", trajectory(*TEACHER, ending=Ending.OUT_OF_TOKENS), TAUGHT, (0, 0, 0, 0, 0)),
    ("no answer", trajectory(*TEACHER, answer=None), TAUGHT, (0.1, 0.1, 0.1, 0.1, 0.1)),
    ("malformed", trajectory(answer=None, ending=Ending.MALFORMED), TAUGHT, (0.1, 0.1, 0.1, 0.1, 0.1)),
    ("no answer, unknown tool", trajectory("teleport", answer=None), TAUGHT, (0.1, 0.1, 0.1, 0.1, 0.1)),
    ("no reference, right", trajectory(*TEACHER), NONE, (0.1, 1.0, 0.1, 0.8, 0.1)),
    ("no reference, nothing called", trajectory(), NONE, (0.1, 1.0, 0.1, 0.8, 0.1)),
    ("no reference, wrong", trajectory(*TEACHER, answer="6"), NONE, (0.1, 0.1, 0.1, 0.1, 0.1)),
    ("no reference, cut off", trajectory(ending=Ending.TRUNCATED), NONE, (0, 0, 0, 0, 0)),
    ("right, same tools", trajectory(*TEACHER), TAUGHT, (1.1, 1.0, 1.0, 0.8, 1.1)),
    ("right, other order", trajectory("divide", "add"), TAUGHT, (1.1, 1.0, 1.0, 0.8, 1.1)),
    ("right, one repeated", trajectory("divide", "add", "add"), TAUGHT, (1.1, 1.0, 1.0, 0.8, 1.1)),
    ("right, one of two missed", trajectory("add"), TAUGHT, (0.8, 1.0, 1.0, 0.8, 1.0)),
    ("right, one extra", trajectory("add", "sqrt"), task("add"), (0.8, 1.0, 1.0, 0.8, 1.0)),
    ("right, one extra to two", trajectory(*TEACHER, "sqrt"), TAUGHT, (0.8, 1.0, 1.0, 0.8, 1.04)),
    ("right, other tools", trajectory("sqrt"), TAUGHT, (0.8, 1.0, 0.7, 0.8, 0.8)),
    ("right, nothing called", trajectory(), TAUGHT, (0.8, 1.0, 0.7, 0.8, 0.8)),
    ("right, same and unknown", trajectory(*TEACHER, "teleport"), TAUGHT, (1.0, 1.0, 1.0, 0.7, 1.0)),
    ("right, only unknown", trajectory("teleport"), TAUGHT, (0.7, 1.0, 0.7, 0.7, 0.7)),
    ("wrong, same tools", trajectory(*TEACHER, answer="6"), TAUGHT, (0.16, 0.1, 0.06, 0.1, 0.16)),
    ("wrong, one of two missed", trajectory("add", answer="6"), TAUGHT, (0.1, 0.1, 0.06, 0.1, 0.14)),
    ("wrong, other tools", trajectory("sqrt", answer="6"), TAUGHT, (0.1, 0.1, 0.0, 0.1, 0.1)),
    ("wrong, only unknown", trajectory("teleport", answer="6"), TAUGHT, (0.0, 0.1, 0.0, 0.0, 0.0)),
    ("wrong, same and unknown", trajectory(*TEACHER, "teleport", answer="6"), TAUGHT, (0.06, 0.1, 0.06, 0.0, 0.06)),
    # A reference that calls nothing is still a reference to match.
    ("right, nothing to call", trajectory(), task(), (1.1, 1.0, 1.0, 0.8, 1.1)),
    ("right, one call too many", trajectory("add"), task(), (0.8, 1.0, 0.7, 0.8, 0.8)),
]  # a table  # fmt: skip


@pytest.mark.parametrize("reward", range(len(COLUMNS)), ids=["mentor", "sparse", "overlap", "none", "f1"])
@pytest.mark.parametrize(("case", "scored", "own", "totals"), TABLE, ids=[row[0] for row in TABLE])
def test_values_of_the_released_code(case, scored, own, totals, reward):
    assert COLUMNS[reward](scored, own).total == pytest.approx(totals[reward])


def test_the_parts_add_up():
    right = REWARD(trajectory(*TEACHER), TAUGHT)
    assert (right.correct, right.tool_match, right.no_unknown_tool, right.terminated) == (True, 0.3, 0.1, True)
    wrong = REWARD(trajectory(*TEACHER, answer="6"), TAUGHT)
    assert (wrong.correct, wrong.reason) == (False, "wrong answer") and wrong.tool_match == pytest.approx(0.06)
    cut = REWARD(trajectory(*TEACHER, ending=Ending.TRUNCATED), TAUGHT)
    assert (cut.correct, cut.terminated, cut.reason) == (False, False, "truncated")
    assert REWARD(trajectory(), NONE).reason == "the task has no reference"


@pytest.mark.parametrize(
    ("reward", "maximum"),
    [
        (MentorReward(), 1.1), (MentorReward("overlap"), 1.0), (MentorReward("none"), 0.8), (MentorReward("f1"), 1.1),
        (MentorReward("calls"), 1.1), (MentorReward("strict"), 1.1), (SparseReward(), 1.0),
        (MentorReward(correct=1.0, tool_match=0.0, no_unknown_tool=0.0), 1.0),
        (MentorReward(correct=0.0, tool_match=0.0, no_unknown_tool=0.0, unanswered=0.5), 0.5),
        (SparseReward(correct=0.2, wrong=0.4), 0.4),
    ],
)  # a table  # fmt: skip
def test_the_maximum_is_that_of_matching_and_weights(reward, maximum):
    assert reward.maximum == pytest.approx(maximum)


# Matching calls

ADD = ToolCall("add", {"a": 1, "b": 2})
DIVIDE = ToolCall("divide", {"a": 3, "b": 4.0})
SQRT = ToolCall("sqrt", {"x": 2})


@pytest.mark.parametrize(
    ("calls", "total"),
    [
        ((ADD, DIVIDE), 1.1),
        ((ToolCall("add", {"b": 2.0, "a": 1.0}), ToolCall("divide", {"b": 4, "a": 3})), 1.1),
        ((DIVIDE, ADD), 0.8),
        ((ADD, DIVIDE, ADD), 0.8),
        ((ADD,), 0.8),
        ((), 0.8),
        ((ToolCall("add", {"a": 2, "b": 1}), DIVIDE), 0.8),
        ((ToolCall("add", {"a": 1, "b": 2, "c": 0}), DIVIDE), 0.8),
        ((ToolCall("add", {"a": True, "b": 2}), DIVIDE), 0.8),
        ((ToolCall("add", {"a": "1", "b": 2}), DIVIDE), 0.8),
        ((ADD, DIVIDE, ToolCall("teleport", {})), 0.7),
    ],
)
def test_strict_needs_the_same_calls_in_order(calls, total):
    assert MentorReward("strict")(rollout(*calls), taught(rollout(ADD, DIVIDE))).total == pytest.approx(total)


@pytest.mark.parametrize(
    ("calls", "teacher", "match"),
    [
        ((DIVIDE, ADD), (ADD, DIVIDE), 1.0),
        ((ToolCall("add", {"b": 2.0, "a": 1}),), (ADD,), 1.0),
        ((ADD,), (ADD, DIVIDE), 2 / 3),
        ((ADD, DIVIDE, SQRT), (ADD, DIVIDE), 4 / 5),
        ((ADD, ADD), (ADD,), 2 / 3),
        ((ADD, ADD), (ADD, ADD), 1.0),
        ((ToolCall("add", {"a": 2, "b": 1}), DIVIDE), (ADD, DIVIDE), 1 / 2),
        ((SQRT,), (ADD,), 0.0),
        ((), (ADD,), 0.0),
        ((ADD,), (), 0.0),
        ((), (), 1.0),
        ((ADD, ToolCall("teleport", {})), (ADD,), 1.0),
    ],
)
def test_calls_is_the_f1_of_the_calls_with_their_repetitions(calls, teacher, match):
    reward = MentorReward("calls")
    assert reward(rollout(*calls), taught(rollout(*teacher))).tool_match == pytest.approx(0.3 * match)
    wrong = reward(rollout(*calls, answer="6"), taught(rollout(*teacher)))
    assert wrong.tool_match == pytest.approx(0.06 * match)


@pytest.mark.parametrize("matching", ["calls", "strict"])
def test_arguments_of_any_depth_can_be_compared(matching):
    def nested(depth: int) -> ToolCall:
        value: Any = 1
        for _ in range(depth):
            value = [value]
        return ToolCall("sum_numbers", {"numbers": value})

    reward = MentorReward(matching)
    assert reward(rollout(nested(20)), taught(rollout(nested(20)))).total == reward.maximum
    assert reward(rollout(nested(20)), taught(rollout(nested(21)))).total < reward.maximum
    for depth in (100, 600, 5000):  # too deep to compare: only the same object matches
        assert reward(rollout(nested(depth)), taught(rollout(nested(depth)))).total < reward.maximum
        same = rollout(nested(depth))
        assert reward(same, taught(same)).total == reward.maximum


# Several references


def test_of_several_references_the_best_counts():
    own = taught(trajectory("sqrt"), trajectory(*TEACHER), trajectory())
    assert [REWARD(trajectory(*used), own).total for used in [("sqrt",), TEACHER, ()]] == [REWARD.maximum] * 3
    assert REWARD(trajectory("add"), own).total == pytest.approx(0.8)
    # 2/3 with the one, 2/5 with the other: neither their mean nor the match with both together
    halves = taught(trajectory("sqrt", *TEACHER, "power"), trajectory(*TEACHER))
    assert MentorReward("f1")(trajectory("add"), halves).tool_match == pytest.approx(0.3 * 2 / 3)


def test_other_references_count_without_a_first_one():
    own = replace(NONE, other_references=(trajectory(*TEACHER),))
    assert REWARD(trajectory(*TEACHER), own).total == REWARD.maximum


# Settings


@pytest.mark.parametrize(
    ("scored", "own", "paid"),
    [
        (trajectory(), TAUGHT, False),
        (trajectory(answer="6"), TAUGHT, False),
        (trajectory("sqrt"), TAUGHT, True),
        (trajectory("sqrt", answer="6"), TAUGHT, True),
        (trajectory("teleport"), TAUGHT, False),
        (trajectory(), task(), True),
        (trajectory(), taught(trajectory(*TEACHER), trajectory()), True),
    ],
)
def test_the_bonus_can_be_denied_to_doing_nothing(scored, own, paid):
    assert MentorReward(bonus_needs_call=True)(scored, own).no_unknown_tool == (0.1 if paid else 0.0)


def test_weights_are_arguments():
    reward = MentorReward(correct=0.5, tool_match=0.4, no_unknown_tool=0.05, wrong_scale=0.5, unanswered=0.02)
    assert reward(trajectory(*TEACHER), TAUGHT).total == pytest.approx(0.95)
    assert reward(trajectory(*TEACHER, answer="6"), TAUGHT).total == pytest.approx(0.25)
    assert reward(trajectory("teleport"), TAUGHT).total == pytest.approx(0.5)
    assert reward(trajectory(answer=None), TAUGHT).total == 0.02
    assert reward(trajectory(), NONE).total == 0.02
    sparse = SparseReward(correct=2, wrong=-1)
    assert [sparse(trajectory(answer=given), TAUGHT).total for given in ("5", "6", None)] == [2, -1, -1]


def test_all_mistakes_in_the_settings_are_reported_at_once():
    settings: dict[str, Any] = {
        "matching": "fuzzy",
        "correct": math.nan,
        "tool_match": "0.3",
        "no_unknown_tool": True,
        "wrong_scale": math.inf,
        "unanswered": None,
        "bonus_needs_call": "yes",
    }
    with pytest.raises(ConfigError) as caught:
        MentorReward(**settings)
    assert len(caught.value.problems) == len(settings)
    for name, problem in zip(sorted(settings), sorted(caught.value.problems), strict=True):
        assert problem.startswith(f"{name}: ")
    assert "set, overlap, f1, calls, strict, none" in str(caught.value)
    weights: dict[str, Any] = {"correct": "1", "wrong": math.nan}
    with pytest.raises(ConfigError) as caught:
        SparseReward(**weights)
    assert len(caught.value.problems) == 2


def test_only_a_closed_answer_to_a_task_with_an_answer_is_correct():
    assert is_correct(trajectory(), task())
    assert is_correct(trajectory(answer="5.0"), task())
    assert not is_correct(trajectory(ending=Ending.TRUNCATED), task())
    assert not is_correct(trajectory(answer=None), task())
    assert not is_correct(trajectory(), task(answer=None))


# Anything

KNOWN = [tool.name for tool in CALCULATOR]
ANY_TEXT = st.text(st.characters(), max_size=12)  # lone surrogates, too
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(ANY_TEXT, JSON, max_size=3)
KNOWN_CALLS = st.lists(st.builds(ToolCall, st.sampled_from(KNOWN[:4]), ARGUMENTS), max_size=4)
CALLS = st.lists(st.builds(ToolCall, st.sampled_from([*KNOWN[:4], "teleport", ""]) | ANY_TEXT, ARGUMENTS), max_size=4)
ANSWERS = st.none() | ANY_TEXT | st.sampled_from(["5", "5.0", "6", r"\frac{10}{2}"])
FRACTION = st.floats(0, 1)


@st.composite
def rewards(draw: st.DrawFn) -> MentorReward:
    reward = MentorReward(
        draw(st.sampled_from(MATCHINGS)),
        correct=draw(FRACTION),
        tool_match=draw(FRACTION),
        no_unknown_tool=draw(FRACTION),
        wrong_scale=draw(FRACTION),
        unanswered=0.0,
        bonus_needs_call=draw(st.booleans()),
    )
    return replace(reward, unanswered=reward.maximum * draw(FRACTION))


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    return rollout(*draw(CALLS), answer=draw(ANSWERS), ending=draw(st.sampled_from(Ending)))


@settings(max_examples=200)
@given(rewards() | st.builds(SparseReward, FRACTION, FRACTION), trajectories(), st.lists(trajectories()), ANSWERS)
def test_a_reward_is_bounded_and_never_raises(reward, scored, references, accepted):
    breakdown = reward(scored, taught(*references, answer=accepted))
    assert 0.0 <= breakdown.total <= reward.maximum
    assert breakdown.correct <= breakdown.terminated == scored.terminated


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


@given(rewards(), CALLS, CALLS, st.sampled_from(["5", "6"]))
def test_the_order_of_keys_does_not_count(reward, calls, teacher, answer):
    own = taught(rollout(*teacher), rollout(*calls))
    turned = rollout(*(ToolCall(call.name, reversed_keys(call.arguments)) for call in calls), answer=answer)
    assert reward(turned, own) == reward(rollout(*calls, answer=answer), own)


@given(rewards(), st.data(), CALLS, CALLS, st.sampled_from(["5", "6"]))
def test_the_order_of_calls_counts_only_for_strict(reward, data, calls, teacher, answer):
    if reward.matching == "strict":
        reward = replace(reward, matching="set")
    shuffled = rollout(*data.draw(st.permutations(calls)), answer=answer)
    own = taught(rollout(*teacher))
    assert reward(shuffled, own) == reward(rollout(*calls, answer=answer), own)


@given(rewards(), st.lists(KNOWN_CALLS, min_size=1, max_size=3), ANY_TEXT.filter(str.strip))
def test_every_reference_scores_the_maximum(reward, several, answer):
    references = [rollout(*calls, answer=answer) for calls in several]
    own = taught(*references, answer=answer)
    assert [reward(reference, own).total for reference in references] == [reward.maximum] * len(references)


@given(rewards(), trajectories(), trajectories(), trajectories(), ANSWERS)
def test_a_further_reference_never_lowers_the_reward(reward, scored, first, second, accepted):
    both = reward(scored, taught(first, second, answer=accepted)).total
    assert both == reward(scored, taught(second, first, answer=accepted)).total
    assert both >= max(reward(scored, taught(one, answer=accepted)).total for one in (first, second))
