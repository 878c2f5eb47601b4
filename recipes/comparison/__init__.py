"""Comparing training methods: plan, run, statistics, and the report in words and pictures."""
