"""Misspelt arguments are ConfigErrors, with the nearest known name."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from mentor_edge.arguments import checked_arguments, checked_settings
from mentor_edge.errors import ConfigError


@checked_arguments
def export(target: str, /, gguf: str = "", *, suite: str = "nano") -> str:
    """Documented."""
    return f"{target} {gguf} {suite}"


class Recipe:
    @checked_settings
    def __init__(self, student: str = "nano", *, seed: int = 0) -> None:
        self.settings = student, seed
        if seed < 0:
            raise ConfigError([f"seed: {seed} is negative"])


def test_known_arguments_reach_the_function() -> None:
    assert export("a", "q8_0", suite="gsm8k") == "a q8_0 gsm8k"
    assert Recipe("x", seed=3).settings == ("x", 3)


def test_the_signature_and_the_docstring_stay() -> None:
    assert str(inspect.signature(export)).startswith("(target: 'str', /, gguf: 'str' = '', *, suite: 'str' = 'nano')")
    assert export.__doc__ == "Documented." and export.__name__ == "export"
    assert list(inspect.signature(Recipe).parameters) == ["student", "seed"]


def test_every_misspelt_argument_is_named_with_the_nearest_one() -> None:
    misspelt: dict[str, Any] = {"gguff": "q8_0", "colour": 1, "suite": "nano"}
    with pytest.raises(ConfigError) as refused:
        export("a", **misspelt)
    assert refused.value.problems == [
        "gguff: unknown setting (did you mean 'gguf'?)",
        "colour: unknown setting (known: gguf, suite)",
    ]


def test_a_positional_only_argument_and_self_are_not_settings() -> None:
    for function, name in ((lambda **given: export("a", **given), "target"), (Recipe, "self_")):
        with pytest.raises(ConfigError, match=f"{name}: unknown setting"):
            function(**{name: 1})


def test_settings_report_their_own_mistakes_along_with_misspelt_names() -> None:
    misspelt: dict[str, Any] = {"studnet": "x", "seed": -1}
    with pytest.raises(ConfigError) as refused:
        Recipe(**misspelt)
    assert refused.value.problems == ["studnet: unknown setting (did you mean 'student'?)", "seed: -1 is negative"]
    with pytest.raises(ConfigError) as refused:
        Recipe(seed=-1)
    assert refused.value.problems == ["seed: -1 is negative"]


def test_other_errors_pass_through() -> None:
    with pytest.raises(TypeError, match="multiple values"):
        Recipe("x", student="y")  # type: ignore[misc]
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        export()  # type: ignore[call-arg]
