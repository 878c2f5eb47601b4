"""Training methods as recipes: one readable file per method."""

from __future__ import annotations

from .base import Recipe
from .mentor import MentorRecipe
from .registry import RECIPES, recipe_from_yaml
from .run import Run
from .sft import SFTRecipe
from .sparse import SparseRecipe
from .strict import StrictRecipe

__all__ = [
    "RECIPES",
    "MentorRecipe",
    "Recipe",
    "Run",
    "SFTRecipe",
    "SparseRecipe",
    "StrictRecipe",
    "recipe_from_yaml",
]
