"""Errors keep their problem, hint and exit code, even across processes."""

from __future__ import annotations

import pickle

import pytest

from mentor_edge import errors
from mentor_edge.errors import ConfigError, MentorEdgeError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MentorEdgeError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("hint", [None, "do this"])
def test_an_error_survives_pickling_between_processes(kind: type[MentorEdgeError], hint: str | None) -> None:
    error = kind(["a", "b"], hint) if issubclass(kind, ConfigError) else kind("it failed", hint)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind and str(copy) == str(error)
    assert (copy.problem, copy.hint, copy.exit_code) == (error.problem, hint, kind.exit_code)
    assert str(error).endswith("do this") == (hint is not None)


def test_a_config_error_keeps_its_list() -> None:
    copy = pickle.loads(pickle.dumps(ConfigError(["a: wrong", "b: wrong"])))
    assert copy.problems == ["a: wrong", "b: wrong"]
    assert str(copy) == "2 mistakes in the configuration: a: wrong; b: wrong"
