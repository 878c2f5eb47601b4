"""Functions that answer a misspelt argument with a `ConfigError`, like a misspelt key of a recipe file."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from mentor_edge.errors import ConfigError, did_you_mean

_P = ParamSpec("_P")
_R = TypeVar("_R")


def checked_arguments(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """`function` with the same signature; unknown keyword arguments raise a ConfigError that names all of them.

    Type checkers see the signature as it is written and report a misspelt argument before anything runs.
    """
    parameters = inspect.signature(function).parameters
    keywords = [name for name, one in parameters.items() if one.kind is not one.POSITIONAL_ONLY and name != "self"]

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        unknown = [name for name in kwargs if name not in keywords]
        if unknown:
            raise ConfigError([f"unknown setting {name!r}{did_you_mean(name, keywords)}" for name in unknown])
        return function(*args, **kwargs)

    return checked
