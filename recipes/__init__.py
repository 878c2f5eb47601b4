"""Training methods as recipes: one readable file per method."""

from __future__ import annotations

from .base import Recipe, recipe_from_yaml
from .mentor import MentorRecipe
from .run import Run
from .sft import SFTRecipe
from .sparse import SparseRecipe
from .strict import StrictRecipe

RECIPES: dict[str, type[Recipe]] = {
    recipe.name: recipe for recipe in (SFTRecipe, SparseRecipe, StrictRecipe, MentorRecipe)
}

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
