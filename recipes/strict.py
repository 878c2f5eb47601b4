"""The strict-trajectory baseline of MENTOR's paper: only the teacher's exact calls are rewarded."""

from __future__ import annotations

from typing import ClassVar

from .config import RecipeConfig, StrictConfig
from .policy import PolicyRecipe


class StrictRecipe(PolicyRecipe):
    """`MentorReward(matching="strict")`: the same calls, in order, with the same arguments."""

    config: StrictConfig
    config_type: ClassVar[type[RecipeConfig]] = StrictConfig
    name: ClassVar[str] = "strict"
