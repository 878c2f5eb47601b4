"""Training methods as recipes: one readable file per method.

A recipe takes its settings as keyword arguments. Sections are objects of the classes below, or mappings:
`MentorRecipe(train=PolicyTraining(steps=20))` is `MentorRecipe(train={"steps": 20})`.
"""

from __future__ import annotations

from .base import Recipe
from .config import ExtraReward, LoraConfig, RecipeConfig, TasksConfig
from .job import TrainingJob
from .mentor import (
    MentorConfig,
    MentorRecipe,
    MentorRewardConfig,
    MentorWeights,
    PolicyTraining,
    RolloutConfig,
    SparseConfig,
    SparseRecipe,
    SparseRewardConfig,
    SparseWeights,
    StrictConfig,
    StrictRecipe,
    StrictRewardConfig,
)
from .registry import RECIPES, recipe_from_yaml
from .run import Run
from .run_record import TaskCounts, Training
from .schedule import Coverage
from .sft import SFTConfig, SFTRecipe, SupervisedTraining
from .steps import FlatGroups, PolicyStep, Step, SupervisedStep

__all__ = [
    "RECIPES",
    "Coverage",
    "ExtraReward",
    "FlatGroups",
    "LoraConfig",
    "MentorConfig",
    "MentorRecipe",
    "MentorRewardConfig",
    "MentorWeights",
    "PolicyStep",
    "PolicyTraining",
    "Recipe",
    "RecipeConfig",
    "RolloutConfig",
    "Run",
    "SFTConfig",
    "SFTRecipe",
    "SparseConfig",
    "SparseRecipe",
    "SparseRewardConfig",
    "SparseWeights",
    "Step",
    "StrictConfig",
    "StrictRecipe",
    "StrictRewardConfig",
    "SupervisedStep",
    "SupervisedTraining",
    "TaskCounts",
    "TasksConfig",
    "Training",
    "TrainingJob",
    "recipe_from_yaml",
]
