"""The training methods by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mentor_edge.errors import ConfigError

from .base import Recipe
from .config import read_yaml
from .mentor import MentorRecipe, SparseRecipe, StrictRecipe
from .sft import SFTRecipe

RECIPES: dict[str, type[Recipe]] = {
    recipe.name: recipe for recipe in (SFTRecipe, SparseRecipe, StrictRecipe, MentorRecipe)
}
"""The class of each training method, by the name that recipe files use."""


def recipe_from_yaml(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Make the recipe that a YAML file names in its `recipe` key.

    Args:
        path: The recipe file. Its keys are the arguments of the recipe's class; recipes/configs/ has examples.
        overrides: Settings that replace those of the file, as "key.sub=value". Values are YAML.

    Returns:
        The recipe, ready to `fit`.

    Raises:
        ConfigError: With every mistake in the file and the overrides.
    """
    values = read_yaml(Path(path), overrides)
    if "compare" in values:
        raise ConfigError(
            [f"compare: {path} is a comparison of methods, not a recipe"], "run it with `mentor-edge compare`"
        )
    name = values.pop("recipe", None)
    if not isinstance(name, str) or name not in RECIPES:
        raise ConfigError([f"recipe: {name!r} is unknown (known: {', '.join(RECIPES)})"])
    return RECIPES[name](**values)
