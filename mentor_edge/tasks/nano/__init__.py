"""The nano world: generated calculator and lookup problems, small enough for a model of under a million parameters.

It exists to run every stage end to end on two CPU cores; it is not a benchmark of useful skill.
"""
