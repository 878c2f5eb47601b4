"""The training methods by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mentor_edge.errors import ConfigError

from .base import Recipe
from .config import read_yaml
from .mentor import MentorRecipe
from .sft import SFTRecipe
from .sparse import SparseRecipe
from .strict import StrictRecipe

RECIPES: dict[str, type[Recipe]] = {
    recipe.name: recipe for recipe in (SFTRecipe, SparseRecipe, StrictRecipe, MentorRecipe)
}


def recipe_from_yaml(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Make the recipe that a YAML file names in its `recipe` key.

    Raises: ConfigError.
    """
    values = read_yaml(Path(path), overrides)
    if "compare" in values:
        raise ConfigError([f"compare: a comparison of methods, no recipe: {path}"], "run it with `mentor-edge compare`")
    name = values.get("recipe")
    if not isinstance(name, str) or name not in RECIPES:
        raise ConfigError([f"recipe: {name!r} is unknown (known: {', '.join(RECIPES)})"])
    return RECIPES[name](**values)
