"""Rewards: pure functions of a trajectory and its task."""
