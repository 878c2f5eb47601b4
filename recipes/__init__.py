"""Training methods as recipes: one readable file per method."""
