"""mentor.py says what it does: the formula in its docstring is the reward, and its signatures are the settings."""

from __future__ import annotations

import inspect
import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT
from mentor_edge.messages import Ending, Message, ToolCall, Trajectory
from mentor_edge.recipes import (
    RECIPES,
    MentorRecipe,
    MentorRewardConfig,
    MentorWeights,
    PolicyTraining,
    RolloutConfig,
    SFTRecipe,
    SupervisedTraining,
)
from mentor_edge.rewards import MATCHINGS, is_correct
from mentor_edge.rewards.matching import match
from mentor_edge.tasks.types import Task
from mentor_edge.tools.calculator import CALCULATOR

# The formula

ODD = MentorWeights(correct=0.53, tool_match=0.37, no_unknown_tool=0.11, wrong_scale=0.23, unanswered=0.07)


def formula() -> str:
    """The indented block of the docstring: a Python expression."""
    (block,) = re.findall(r"\n\n((?:        .*\n)+)", inspect.getsource(MentorRewardConfig))[:1]
    return " ".join(block.split())


def rollouts() -> list[Trajectory]:
    add, divide = ToolCall("add", {"a": 2, "b": 8}), ToolCall("divide", {"a": 10, "b": 2})
    unknown = ToolCall("teleport", {})
    used = [(), (add,), (add, divide), (divide, add), (add, add), (add, divide, unknown), (unknown,)]
    ended = [(ending, answer) for ending in Ending for answer in ("5", "6", None)]
    return [
        Trajectory((Message("assistant", "", calls),), answer, ending)
        for calls, (ending, answer) in itertools.product(used, ended)
    ]


@pytest.mark.parametrize("weights", [MentorWeights(), ODD], ids=["paper", "odd"])
@pytest.mark.parametrize("matching", MATCHINGS)
def test_the_formula_of_the_page_is_the_reward(matching: str, weights: MentorWeights) -> None:
    reward = MentorRewardConfig(matching=matching, weights=weights).build()
    references = rollouts()[2 * len(Ending) * 3], rollouts()[len(Ending) * 3]
    task = Task("t", (), CALCULATOR, "id", "test", answer="5", reference=references[0], other_references=references[1:])
    offered = task.tools_by_name.keys()
    totals = set()
    for rollout in rollouts():
        names = {
            "terminated": rollout.terminated,
            "answered": rollout.answer is not None,
            "right": is_correct(rollout, task),
            "match": max(match(matching, rollout.calls, reference.calls, offered) for reference in references),
            "known": matching != "overlap" and rollout.tools_used <= offered,
            **weights.model_dump(),
        }
        expected = eval(formula(), {}, names)
        assert reward(rollout, task).total == pytest.approx(expected, abs=1e-12)
        totals.add(round(expected, 6))
    assert len(totals) >= 4


# The signatures


@pytest.mark.parametrize("kind", RECIPES.values(), ids=RECIPES)
def test_the_arguments_are_the_fields_of_the_config_with_their_defaults(kind: type) -> None:
    parameters = dict(inspect.signature(kind).parameters)
    fields = kind.config_type.model_fields
    assert list(parameters) == [name for name in fields if name != "recipe"]
    assert {parameter.kind for parameter in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert kind().config == kind.config_type()
    text = inspect.getdoc(kind.__init__) or ""
    assert all(re.search(rf"^    {name}: \S", text, re.MULTILINE) for name in parameters)
    for section in (kind.config_type, *(type(value) for value in vars(kind.config_type()).values())):
        for name, field in getattr(section, "model_fields", {}).items():
            assert field.description or name == "recipe", f"{section.__name__}.{name} is not documented"


def test_sections_may_be_objects_or_mappings() -> None:
    objects = MentorRecipe(
        train=PolicyTraining(steps=3),
        rollout=RolloutConfig(temperature=0.5),
        reward=MentorRewardConfig(matching="f1", weights=MentorWeights(correct=1)),
    )
    mappings = MentorRecipe(
        train={"steps": 3},
        rollout={"temperature": 0.5},
        reward={"matching": "f1", "weights": {"correct": 1}},
    )
    assert objects.config == mappings.config
    assert SFTRecipe(train=SupervisedTraining(steps=3)).config == SFTRecipe(train={"steps": 3}).config


SNIPPET = """
from pathlib import Path
from mentor_edge.recipes import LoraConfig, MentorRecipe, MentorRewardConfig, PolicyTraining, SFTRecipe, SparseRecipe
from mentor_edge.recipes import SparseRewardConfig, StrictRecipe, SupervisedTraining

MentorRecipe(student="nano", output_dir=Path("a"), tasks="nano", train=PolicyTraining(steps=20), seed=1)
MentorRecipe(from_run="a", lora={"rank": 4}, reward=MentorRewardConfig(matching="f1"))
SparseRecipe(reward=SparseRewardConfig())
StrictRecipe(reward={"weights": {"correct": 1}})
SFTRecipe(train=SupervisedTraining(steps=20), lora=LoraConfig(rank=4))
MentorRecipe(studnet="nano")  # Unexpected keyword argument "studnet"
SFTRecipe(rollout={})  # Unexpected keyword argument "rollout"
MentorRecipe(train=PolicyTraining(stepz=20))  # Unexpected keyword argument "stepz"
MentorRecipe(train=SupervisedTraining())  # incompatible type "SupervisedTraining"
MentorRecipe(reward=SparseRewardConfig())  # incompatible type "SparseRewardConfig"
MentorRecipe(seed="one")  # incompatible type "str"
MentorRecipe(reward=MentorRewardConfig(matching="fuzzy"))  # incompatible type "Literal['fuzzy']"
"""


@pytest.mark.slow  # mypy reads the package from scratch
def test_mypy_names_misspelt_settings(tmp_path: Path) -> None:
    site = tmp_path / "site"  # as installed: static tools do not follow the mapping in pyproject.toml
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "mentor_edge", site / "mentor_edge", ignore=ignored)
    for part in ("recipes", "export"):
        shutil.copytree(ROOT / part, site / "mentor_edge" / part, ignore=ignored)
    (tmp_path / "snippet.py").write_text(SNIPPET)
    skipped = ",".join(f"{name}.*" for name in ("torch", "transformers", "trl", "peft", "datasets", "numpy", "sympy"))
    options = "[mypy]\nignore_missing_imports = True\n" + f"[mypy-{skipped}]\nfollow_imports = skip\n"
    (tmp_path / "mypy.ini").write_text(options)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=silent", "snippet.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(site)},
        capture_output=True,
        text=True,
    )
    reported: dict[int, str] = {}
    for line in done.stdout.splitlines():
        if parts := re.match(r"snippet\.py:(\d+): error: (.*)", line):
            reported[int(parts[1])] = reported.get(int(parts[1]), "") + parts[2]
    expected = {
        number: comment
        for number, line in enumerate(SNIPPET.splitlines(), 1)
        for _, _, comment in [line.partition("  # ")]
        if comment
    }
    assert reported.keys() == expected.keys(), done.stdout + done.stderr
    for number, comment in expected.items():
        assert comment in reported[number]
