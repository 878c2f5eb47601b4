"""Recipe configurations: every mistake at once, files, overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.paths import DATA, ROOT
from mentor_edge.errors import ConfigError
from mentor_edge.recipes import (
    MentorConfig,
    MentorRecipe,
    MentorRewardConfig,
    MentorWeights,
    PolicyTraining,
    RolloutConfig,
    SFTConfig,
    SparseConfig,
    SparseRecipe,
    StrictRecipe,
    TasksConfig,
    recipe_from_yaml,
)
from mentor_edge.recipes.comparison.plan import ComparisonPlan
from mentor_edge.recipes.config import build_config
from mentor_edge.rewards import MentorReward, SparseReward

CONFIGS = sorted((ROOT / "recipes" / "configs").glob("*.yaml"))
EXCERPT = DATA / "gsm8k_excerpt.jsonl"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    if "compare" in values:
        plan = ComparisonPlan.read(path)
        assert set(plan.methods) == set(values["compare"]["methods"]) and list(plan.cells())
        with pytest.raises(ConfigError, match=r"compare: .* is a comparison of methods, not a recipe"):
            recipe_from_yaml(path)
        return
    recipe = recipe_from_yaml(path, [f"tasks.path={EXCERPT}"] if "gsm8k" in path.name else [])
    assert recipe.name == values["recipe"]
    assert str(recipe.config.output_dir) == values["output_dir"]


@pytest.mark.parametrize("path", [path for path in CONFIGS if "gsm8k" in path.name], ids=lambda path: path.stem)
def test_gsm8k_configs_say_how_to_set_the_path(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set tasks\.path=PATH"):
        recipe_from_yaml(path)


def test_a_config_has_few_fields() -> None:
    def leaves(model: Any) -> int:
        nested = (field.annotation for field in model.model_fields.values())
        return sum(leaves(kind) if hasattr(kind, "model_fields") else 1 for kind in nested)

    # About 25. MENTOR's reward adds eight (five of them weights). The rest are references, runs to continue from, the
    # stall guard, the tools of a tasks file, the chat template with its
    # arguments, and strict calls.
    assert leaves(MentorConfig) <= 41 and leaves(SparseConfig) <= 36 and leaves(SFTConfig) <= 27
    assert len(MentorConfig.model_fields) <= 12
    for section in (PolicyTraining, RolloutConfig, TasksConfig, MentorRewardConfig, MentorWeights):
        assert len(section.model_fields) <= 10


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        MentorRecipe(
            studnet="nano",
            seed=-1,
            tasks={"suite": "gsm8k", "teacher_noise": "loud"},
            lora={"rank": 0, "base": "int3"},
            train={"steps": "many", "learn_rate": 1},
            rollout={"temperature": 0, "engine": "vllm", "tool_timeout": [5]},
            reward={
                "matching": "exact",
                "weights": {"correct": "much", "tool_match": float("nan"), "toolmatch": 1},
                "extra": [{"function": "no_such_module.f"}, {"function": "math.sqrt", "weight": "heavy"}],
            },
        )
    problems = refused.value.problems
    locations = [problem.split(":")[0] for problem in problems]
    assert sorted(locations) == sorted(
        [
            "studnet",
            "seed",
            "tasks.teacher_noise",
            "lora.rank",
            "lora.base",
            "train.steps",
            "train.learn_rate",
            "rollout.temperature",
            "rollout.engine",
            "rollout.tool_timeout",
            "reward.matching",
            "reward.weights.correct",
            "reward.weights.tool_match",
            "reward.weights.toolmatch",
            "reward.extra.0.function",
            "reward.extra.1.function",
            "reward.extra.1.weight",
        ]
    )
    shown = dict(zip(locations, problems, strict=True))
    assert shown["studnet"] == "studnet: unknown setting (did you mean 'student'?)"
    assert shown["train.learn_rate"] == "train.learn_rate: unknown key (did you mean 'learning_rate'?)"
    assert (
        "got -1" in shown["seed"]
        and "got 'many'" in shown["train.steps"]
        and "'edge' or 'trl'" in shown["rollout.engine"]
    )
    assert str(refused.value).startswith("17 mistakes in the configuration: ")
    assert "'set', 'overlap', 'f1', 'calls', 'strict' or 'none', got 'exact'" in shown["reward.matching"]
    assert shown["reward.weights.toolmatch"] == "reward.weights.toolmatch: unknown key (did you mean 'tool_match'?)"
    assert "should be a valid number, got 'much'" in shown["reward.weights.correct"]
    assert "should be a finite number, got nan" in shown["reward.weights.tool_match"]
    assert "No module named 'no_such_module'" in shown["reward.extra.0.function"]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"tasks": "gsm8k"}, "tasks: suite gsm8k needs a path"),
        ({"tasks": "mmlu"}, "tasks.suite: Input should be 'nano', 'calculator', 'gsm8k' or 'jsonl', got 'mmlu'"),
        ({"train": {"micro_batch": 7}}, "train: micro_batch 7 does not divide the 96 rollouts of a step"),
        ({"train": {"rollouts_per_prompt": 1}}, "train.rollouts_per_prompt: .*greater than or equal to 2, got 1"),
        ({"train": 5}, "train: .*got 5"),
        ({"recipe": "sft"}, "recipe: .*'mentor', got 'sft'"),
        (
            {"tasks": {"suite": "gsm8k", "path": "x", "references": 2}},
            "tasks.references: suite gsm8k has one reference",
        ),
        (
            {"student": "a/b", "from_run": "runs/a"},
            "from_run: student 'a/b' is set, too; set only one of student and from_run",
        ),
        ({"train": {"stop_after_dead_steps": 0}}, "train.stop_after_dead_steps: .*got 0"),
        (
            {"reward": {"extra": [{"function": "os.path.join", "wieght": 1}]}},
            r"reward\.extra\.0\.wieght: unknown key \(did you mean 'weight'\?\)",
        ),
    ],
)
def test_a_mistake_is_reported_with_the_value(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as refused:
        build_config(MentorConfig, values)
    assert len(refused.value.problems) == 1


def test_each_method_builds_its_own_reward() -> None:
    def reward_of(recipe: Any) -> Any:
        return recipe.config.reward.build()

    assert reward_of(MentorRecipe()) == MentorReward()
    assert reward_of(MentorRecipe(reward={"matching": "f1", "bonus_needs_call": True, "weights": {"correct": 1}})) == (
        MentorReward("f1", correct=1, bonus_needs_call=True)
    )
    assert reward_of(SparseRecipe(reward={"weights": {"wrong": 0}})) == SparseReward(wrong=0)
    assert reward_of(StrictRecipe(reward={"weights": {"tool_match": 0.5}})) == MentorReward("strict", tool_match=0.5)
    for recipe in (SparseRecipe, StrictRecipe):
        with pytest.raises(ConfigError, match=r"reward\.matching: unknown key \(known: extra, weights\)"):
            recipe(reward={"matching": "f1"})
    with pytest.raises(ConfigError, match=r"reward\.weights\.tool_match: unknown key \(known: correct, wrong\)"):
        SparseRecipe(reward={"weights": {"tool_match": 0.3}})


def test_configs_cannot_be_changed_afterwards() -> None:
    config = MentorRecipe().config
    with pytest.raises(ValueError, match="frozen"):
        config.train.steps = 3


@pytest.mark.parametrize(
    ("text", "overrides", "problem"),
    [
        ("recipe: dpo", [], r"recipe: 'dpo' is unknown \(known: sft, sparse, strict, mentor\)"),
        ("seed: 1", [], "recipe: None is unknown"),
        ("- a", [], "contains list, not a mapping"),
        ("a: [", [], "is not YAML"),
        ("seed: 2026-13-45", [], "is not YAML: month must be in"),
        ("seed: !!bool x", [], "is not YAML"),
        ("seed: !!timestamp x", [], "is not YAML"),
        ("recipe: sft", ["seed=" + "9" * 5000], "is not YAML after the ="),
        ("recipe: sft", ["seed"], "'seed' is not KEY=VALUE"),
        ("recipe: sft\nseed: 3", ["seed.x=1"], "seed is not a section"),
        ("recipe: sft", ["seed=[1"], r"'seed=\[1' is not YAML after the ="),
        ("recipe: [sft]", [], "recipe: .*is unknown"),
    ],
)
def test_unreadable_recipe_files_are_refused(tmp_path: Path, text: str, overrides: list[str], problem: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        recipe_from_yaml(path, overrides)


def test_a_missing_recipe_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.yaml: No such file"):
        recipe_from_yaml(tmp_path / "none.yaml")


def test_overrides_reach_sections_and_are_read_as_yaml() -> None:
    path = ROOT / "recipes" / "configs" / "nano-mentor.yaml"
    recipe = recipe_from_yaml(path, ["train.steps=3", "tasks.limit=null", "lora.base=nf4", "rollout.temperature=0.5"])
    config = recipe.config
    assert isinstance(config, MentorConfig)
    assert (config.train.steps, config.tasks.limit, config.lora.base, config.rollout.temperature) == (
        3,
        None,
        "nf4",
        0.5,
    )
