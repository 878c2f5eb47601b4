"""Parity: whether an exported file computes what its source computes."""
