"""Evaluation: running a suite through an engine, and the statistics of comparing two of them."""
