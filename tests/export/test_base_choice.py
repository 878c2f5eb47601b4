"""The choice of the base that an adapter is merged onto."""

from __future__ import annotations

import pytest

from helpers.evaluations import evaluation
from mentor_edge.errors import ExportError
from mentor_edge.evaluation.evaluate import Evaluation
from mentor_edge.export.merge import bases_to_try, choose_base
from mentor_edge.results import BaseChoice


@pytest.mark.parametrize(
    ("asked", "trained_in_4_bit", "bases"),
    [
        ("auto", True, ("16-bit", "4-bit")),
        ("auto", False, ("16-bit",)),
        ("4-bit", False, ("4-bit",)),
        ("16-bit", True, ("16-bit",)),
    ],
)
def test_both_bases_are_tried_only_when_training_saw_the_second(
    asked: str, trained_in_4_bit: bool, bases: tuple[str, ...]
) -> None:
    assert bases_to_try(asked, trained_in_4_bit) == bases


def test_an_unknown_base_is_reported_with_the_known_ones() -> None:
    with pytest.raises(ExportError, match="unknown merge base 'nf4'\nknown: auto, 16-bit, 4-bit"):
        bases_to_try("nf4", True)


@pytest.mark.parametrize(
    ("first", "second", "base"), [(30, 31, "4-bit"), (31, 30, "16-bit"), (30, 30, "16-bit"), (0, 0, "16-bit")]
)
def test_the_base_that_solves_more_is_chosen(first: int, second: int, base: str) -> None:
    sides = {name: evaluation([i < right for i in range(40)]) for name, right in (("16-bit", first), ("4-bit", second))}
    choice = choose_base(sides)
    assert (choice.base, choice.n, choice.correct) == (base, 40, {"16-bit": first, "4-bit": second})
    assert choice.difference is not None and choice.difference.delta == pytest.approx((second - first) / 40)
    assert choice.difference.low <= choice.difference.delta <= choice.difference.high


def test_a_single_candidate_is_chosen() -> None:
    assert choose_base({"4-bit": evaluation([True, False])}) == BaseChoice(base="4-bit", n=2, correct={"4-bit": 1})


@pytest.mark.parametrize("sides", [{}, {"16-bit": evaluation([True]), "4-bit": evaluation([True], start=1)}])
def test_candidates_must_have_run_the_same_tasks(sides: dict[str, Evaluation]) -> None:
    with pytest.raises(ValueError, match=r"no evaluations to choose from|ran different tasks"):
        choose_base(sides)
