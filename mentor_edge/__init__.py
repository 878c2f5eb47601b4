"""mentor-edge: distil tool use into a small language model, and refuse to ship a file that lost the skill."""
