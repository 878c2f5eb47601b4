"""Runs tool calls in a pool of child processes, with limits on time, output and memory."""
