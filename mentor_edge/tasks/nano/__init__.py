"""The nano world: generated calculator and lookup problems, small enough for a model of under a million parameters.

It exists to run the whole machine end to end on two CPU cores; it is no benchmark of useful skill.
"""
