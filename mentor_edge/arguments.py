"""Decorators that turn a misspelt argument into a `ConfigError`, as for a misspelt key of a recipe file.

Type checkers see the original signatures, and report a misspelt argument before anything runs.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

from mentor_edge.errors import ConfigError, did_you_mean

_P = ParamSpec("_P")
_R = TypeVar("_R")


def checked_arguments(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """`function` with the same signature; unknown keyword arguments raise a ConfigError that names all of them."""
    known = _keywords(function)

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if unknown := kwargs.keys() - known:
            raise ConfigError([_mistake(name, known) for name in kwargs if name in unknown])
        return function(*args, **kwargs)

    return checked


def checked_settings(init: Callable[_P, None]) -> Callable[_P, None]:
    """Like `checked_arguments`, for an `__init__` that only checks its arguments: the ConfigError also lists the
    mistakes that `init` finds in the known arguments, so that all are reported at once.
    """
    known = _keywords(init)

    @functools.wraps(init)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> None:
        problems = [_mistake(name, known) for name in kwargs if name not in known]
        for name in kwargs.keys() - known:
            del kwargs[name]
        try:
            init(*args, **kwargs)
        except ConfigError as error:
            problems += error.problems
        if problems:
            raise ConfigError(problems) from None

    return checked


def _keywords(function: Callable[_P, _R]) -> list[str]:
    parameters = inspect.signature(function).parameters
    keywords = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, parameter in parameters.items() if parameter.kind in keywords and name != "self"]


def _mistake(name: str, known: Iterable[str]) -> str:
    return f"{name}: unknown setting{did_you_mean(name, known)}"
