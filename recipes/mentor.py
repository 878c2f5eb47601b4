"""MENTOR (arXiv 2510.18383): GRPO, rewarded for the right answer and for using the teacher's tools."""

from __future__ import annotations

from typing import ClassVar

from .config import MentorConfig, RecipeConfig
from .policy import PolicyRecipe


class MentorRecipe(PolicyRecipe):
    """`MentorReward`, with any matching: the trace itself is never imitated, only how tools were used counts."""

    config: MentorConfig
    config_type: ClassVar[type[RecipeConfig]] = MentorConfig
    name: ClassVar[str] = "mentor"
