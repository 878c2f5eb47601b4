"""A user's own rewards: plain functions with a weight, in Python and in a recipe file, and how their defects appear."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from helpers.paths import DOCS
from mentor_edge.errors import ConfigError, RewardError
from mentor_edge.messages import Ending, Message, ToolCall, Trajectory
from mentor_edge.recipes import MentorConfig, SparseConfig, StrictConfig
from mentor_edge.recipes.config import build_config
from mentor_edge.rewards import CombinedReward, MentorReward, SparseReward, reward_function
from mentor_edge.tasks.types import Task
from mentor_edge.tools.calculator import CALCULATOR


def trajectory(*tools: str, answer: str | None = "5", ending: Ending = Ending.ANSWERED) -> Trajectory:
    calls = tuple(ToolCall(name, {}) for name in tools)
    return Trajectory((Message("assistant", "", calls),), answer, ending)


TASK = Task("task-7", (), CALCULATOR, "id", "test", answer="5", reference=trajectory("add"))


def brevity(trajectory: Trajectory, task: Task) -> float:
    return 1.0 / (1 + len(trajectory.calls))


def test_a_function_is_added_with_its_weight():
    reward = CombinedReward(MentorReward(), [(brevity, 0.2)])
    breakdown = reward(trajectory("add"), TASK)
    assert breakdown.extra == pytest.approx(0.1) and breakdown.total == pytest.approx(1.2)
    base = MentorReward()(trajectory("add"), TASK)
    assert (breakdown.tool_match, breakdown.no_unknown_tool, breakdown.reason, breakdown.correct) == (
        base.tool_match,
        base.no_unknown_tool,
        base.reason,
        True,
    )
    assert base.extra == 0.0


def test_several_functions_add_up_on_any_base():
    def polite(trajectory: Trajectory, task: Task) -> bool:
        return task.id == "task-7"

    reward = CombinedReward(SparseReward(), [(brevity, -0.2), (polite, 0.5)])
    assert reward(trajectory("add", "add", "add"), TASK).extra == pytest.approx(0.45)
    # The base may pay nothing; a user's function is still called for every rollout.
    cut = reward(trajectory(ending=Ending.TRUNCATED), TASK)
    assert (cut.total, cut.terminated) == (pytest.approx(0.3), False)
    assert reward.maximum == 1.0
    assert CombinedReward(reward, [(polite, 1.0)])(trajectory(), TASK).total == pytest.approx(2.3)


@pytest.mark.parametrize("value", [1, True, 0.5, np.float32(0.5), np.int64(1), Fraction(1, 2)], ids=repr)
def test_any_real_number_may_be_returned(value):
    breakdown = CombinedReward(SparseReward(), [(lambda trajectory, task: value, 1.0)])(trajectory(), TASK)
    assert breakdown.extra == float(value) and type(breakdown.total) is float


@pytest.mark.parametrize(
    "value", [None, math.nan, math.inf, "0.5", 1j, [0.5], 10**400], ids=lambda value: repr(value)[:9]
)
def test_a_value_that_is_not_a_finite_number_is_an_error(value):
    def careless(trajectory: Trajectory, task: Task) -> Any:
        return value

    with pytest.raises(RewardError, match=r"careless returned .* for task task-7") as caught:
        CombinedReward(MentorReward(), [(brevity, 1.0), (careless, 1.0)])(trajectory(), TASK)
    assert caught.value.hint == "it must return a finite number" and len(str(caught.value)) < 300


def test_a_function_that_raises_is_an_error_not_a_zero():
    def broken(trajectory: Trajectory, task: Task) -> float:
        raise KeyError("speed")

    with pytest.raises(RewardError, match=r"broken raised KeyError on task task-7: 'speed'") as caught:
        CombinedReward(MentorReward(), [(broken, 1.0)])(trajectory(), TASK)
    assert isinstance(caught.value.__cause__, KeyError)


def test_weights_that_are_not_numbers_are_refused():
    weights: list[Any] = [math.nan, "0.1", 0.2, None, True]
    with pytest.raises(ConfigError) as caught:
        CombinedReward(MentorReward(), [(brevity, weight) for weight in weights])
    assert len(caught.value.problems) == 4
    assert caught.value.problems[0] == "brevity: expected a finite number, got nan"


# By dotted path

MODULE = """
from mentor_edge.messages import Trajectory
from mentor_edge.tasks.types import Task


def brevity(trajectory: Trajectory, task: Task) -> float:
    return max(0.0, 1.0 - 0.25 * len(trajectory.calls))


def with_default(trajectory, task, scale=2.0):
    return scale


def of_text(text):
    return 1.0


def of_three(trajectory, task, tokenizer):
    return 1.0


weight = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of a module in the working directory. No other test uses it, because modules stay loaded."""
    name = f"rewards_of_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return name


def test_a_dotted_path_is_found_in_the_working_directory(module):
    for path in (f"{module}.brevity", f"{module}:brevity"):
        function = reward_function(path)
        assert CombinedReward(MentorReward(), [(function, 0.4)])(trajectory("add"), TASK).extra == pytest.approx(0.3)
    assert reward_function(f"{module}.with_default")(trajectory(), TASK) == 2.0


def test_a_dotted_path_may_lead_into_a_package(tmp_path, monkeypatch):
    package = tmp_path / "rewards_in_a_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "short.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert reward_function("rewards_in_a_package.short.brevity")(trajectory(), TASK) == 1.0


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("no_such_module_anywhere.brevity", "cannot import no_such_module_anywhere: ModuleNotFoundError"),
        ("{module}.missing", "{module} has no 'missing'"),
        ("{module}.of_text", "cannot be called with (trajectory, task)"),
        ("{module}.of_three", "cannot be called with (trajectory, task)"),
        ("{module}.weight", "cannot be called with (trajectory, task)"),
        ("brevity", "'brevity' does not name an object: write package.module:name"),
        ("", "'' does not name an object"),
        (".brevity", "'.brevity' does not name an object"),
        ("{module}..brevity", "cannot import"),
        ("broken_rewards.brevity", "cannot import broken_rewards: ZeroDivisionError"),
        ("unreadable_rewards.brevity", "cannot import unreadable_rewards: SyntaxError"),
    ],
)
def test_a_path_without_such_a_function_is_a_mistake_in_the_configuration(path, problem, module):
    Path("broken_rewards.py").write_text("1 / 0", encoding="utf-8")
    Path("unreadable_rewards.py").write_text("def brevity(", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        reward_function(path.format(module=module))
    assert problem.format(module=module) in str(caught.value)


# In a recipe


def test_a_recipe_builds_the_reward_with_its_extras(module):
    values = {"reward": {"extra": [{"function": f"{module}.brevity", "weight": 0.2}]}}
    for kind, base in (
        (MentorConfig, MentorReward()),
        (StrictConfig, MentorReward("strict")),
        (SparseConfig, SparseReward()),
    ):
        reward = build_config(kind, values).reward.build()
        assert reward(trajectory("add"), TASK).total == pytest.approx(base(trajectory("add"), TASK).total + 0.15)


def test_a_recipe_sets_matching_weights_and_bonus():
    values = {"reward": {"matching": "f1", "weights": {"tool_match": 0.2}, "bonus_needs_call": True}}
    reward = build_config(MentorConfig, values).reward.build()
    assert reward == MentorReward("f1", tool_match=0.2, bonus_needs_call=True)
    assert build_config(MentorConfig, {}).reward.build() == MentorReward()


def test_the_recipe_file_of_the_document_can_be_built(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "rewards.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    reward = build_config(MentorConfig, yaml.safe_load(block)).reward.build()
    assert reward(trajectory("add"), TASK).extra == pytest.approx(0.075)
    assert reward(trajectory(answer=None), TASK).total == pytest.approx(0.15)


def test_all_mistakes_in_the_reward_of_a_recipe_are_reported_at_once(module):
    values = {
        "reward": {
            "matching": "fuzzy",
            "weights": {"speed": 1.0, "correct": "much"},
            "extra": [
                {"function": f"{module}.missing", "weight": 0.1},
                {"function": f"{module}.brevity", "weight": math.nan},
            ],
        }
    }
    with pytest.raises(ConfigError) as caught:
        build_config(MentorConfig, values)
    message = str(caught.value)
    assert len(caught.value.problems) == 5
    for problem in (
        "reward.matching",
        "reward.weights.speed: unknown key",
        "reward.weights.correct: Input should be a valid number, got 'much'",
        "has no 'missing'",
        "reward.extra.1.weight",
    ):
        assert problem in message
