"""The teacher's references: checking that they can be trained on, and choosing among them."""
