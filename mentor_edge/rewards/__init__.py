"""Rewards: pure functions of a trajectory and its task."""

from __future__ import annotations

from mentor_edge.rewards.breakdown import Reward, RewardBreakdown, is_correct
from mentor_edge.rewards.combined import CombinedReward, reward_function
from mentor_edge.rewards.completion import score_completion
from mentor_edge.rewards.matching import MATCHINGS, Matching
from mentor_edge.rewards.mentor import MentorReward
from mentor_edge.rewards.sparse import SparseReward

__all__ = [
    "MATCHINGS",
    "CombinedReward",
    "Matching",
    "MentorReward",
    "Reward",
    "RewardBreakdown",
    "SparseReward",
    "is_correct",
    "reward_function",
    "score_completion",
]
