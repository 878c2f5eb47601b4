"""Sparse-reward RL: the baseline that has no teacher. Only the final answer is rewarded."""

from __future__ import annotations

from typing import ClassVar

from .config import RecipeConfig, SparseConfig
from .policy import PolicyRecipe


class SparseRecipe(PolicyRecipe):
    """`SparseReward`; tasks need an answer and no reference."""

    config: SparseConfig
    config_type: ClassVar[type[RecipeConfig]] = SparseConfig
    name: ClassVar[str] = "sparse"
    needs_reference: ClassVar[bool] = False
