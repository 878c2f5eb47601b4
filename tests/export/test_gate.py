"""The gate's verdicts on constructed outcomes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.evaluations import evaluation
from mentor_edge.evaluation.evaluate import Evaluation
from mentor_edge.export.gate import compare
from mentor_edge.messages import Limit
from mentor_edge.results import SideCounts, Verdict


def together(*parts: Evaluation) -> Evaluation:
    return replace(parts[0], outcomes=tuple(outcome for part in parts for outcome in part.outcomes))


@pytest.mark.parametrize(
    ("n", "lost", "gained", "margin", "verdict"),
    [
        (200, 0, 0, 0.02, Verdict.PASS),  # nothing changed, enough items
        (100, 0, 0, 0.02, Verdict.INCONCLUSIVE),  # nothing changed, too few items to tell
        (1200, 4, 3, 0.02, Verdict.PASS),
        (1200, 40, 39, 0.02, Verdict.PASS),  # many flips, but as many in each direction
        (1200, 60, 30, 0.02, Verdict.FAIL),
        (200, 40, 0, 0.02, Verdict.FAIL),
        (200, 8, 5, 0.02, Verdict.INCONCLUSIVE),
        (1200, 12, 0, 0.02, Verdict.PASS),  # certainly a loss, but one smaller than the margin
        (1200, 0, 60, 0.02, Verdict.PASS),
    ],
)
def test_verdicts(n: int, lost: int, gained: int, margin: float, verdict: Verdict) -> None:
    before = [True] * (n // 2) + [False] * (n - n // 2)
    after = [False] * lost + before[lost : n - gained] + [True] * gained
    report = compare(evaluation(before), evaluation(after), margin)
    assert report.verdict is verdict
    difference = report.headline
    assert (difference.n, difference.lost, difference.gained) == (n, lost, gained)
    assert f"{lost} lost, {gained} gained" in report.explanation
    assert ("needs about" in report.explanation) == (verdict is Verdict.INCONCLUSIVE)


def test_the_worst_split_decides() -> None:
    good, bad = [True] * 300, [False] * 60 + [True] * 240
    before = together(evaluation(good, split="id"), evaluation(good))
    assert compare(before, before).verdict is Verdict.PASS
    worse = together(evaluation(bad, split="id"), evaluation(good))
    report = compare(before, worse)
    assert report.verdict is Verdict.FAIL
    assert (report.splits["id"].verdict, report.splits["ood"].verdict) == (Verdict.FAIL, Verdict.PASS)
    assert report.headline is report.splits["ood"]
    few = together(evaluation(good, split="id"), evaluation([True] * 20))
    assert compare(few, few).verdict is Verdict.INCONCLUSIVE


def test_malformed_output_is_reported_separately() -> None:
    bits = [True] * 200 + [False] * 100
    report = compare(evaluation(bits), evaluation(bits, malformed=7))
    assert report.malformed == SideCounts(source=0, exported=7)
    assert report.verdict is Verdict.PASS


@pytest.mark.parametrize(("solved", "verdict"), [(5, Verdict.INCONCLUSIVE), (6, Verdict.PASS)])
def test_a_source_must_solve_as_much_as_the_margin(solved: int, verdict: Verdict) -> None:
    bits = [True] * solved + [False] * (300 - solved)
    report = compare(evaluation(bits), evaluation(bits), 0.02)
    assert report.verdict is verdict
    assert (f"the source solves {solved} of 300" in report.explanation) == (verdict is Verdict.INCONCLUSIVE)


def test_sides_that_ran_different_tasks_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="different tasks"):
        compare(evaluation([True] * 3), evaluation([True] * 3, start=1))
    with pytest.raises(ValueError, match="shorter"):
        compare(evaluation([True] * 3), evaluation([True] * 2))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200), st.floats(0.01, 0.3))
def test_a_file_never_passes_for_losing_more(pairs: list[tuple[bool, bool]], margin: float) -> None:
    """Turning a right answer of the file into a wrong one never improves the verdict."""
    order = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)
    before, after = (list(side) for side in zip(*pairs, strict=True))
    verdict = compare(evaluation(before), evaluation(after), margin).verdict
    if True in after:
        after[after.index(True)] = False
        worse = compare(evaluation(before), evaluation(after), margin).verdict
        assert order.index(worse) <= order.index(verdict)


def test_cut_off_conversations_are_counted_on_both_sides_and_warned_about() -> None:
    source, exported = evaluation([True] * 20), evaluation([True] * 20)
    cut = tuple(replace(outcome, cut_by=Limit.TURN_TOKENS, correct=False) for outcome in exported.outcomes[:2])
    report = compare(source, replace(exported, outcomes=cut + exported.outcomes[2:]))
    assert report.cut_off == SideCounts(source=0, exported=2)
    (warning,) = report.cut_off_warnings
    assert (
        warning.startswith("exported: 2 of 20 conversations (10.0 %) were cut off") and "--max-turn-tokens" in warning
    )
    assert compare(source, exported).cut_off_warnings == ()
