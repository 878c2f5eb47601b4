from __future__ import annotations

import math
import random
from fractions import Fraction
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mentor_edge.evaluation.statistics import (
    GATE_CONFIDENCE,
    items_needed,
    non_inferiority,
    paired_difference,
    wilson,
)
from mentor_edge.results import PairedDifference, Verdict


def pairs(lost: int, gained: int, n: int, *, both: int | None = None) -> tuple[list[bool], list[bool]]:
    same = n - lost - gained
    both = same if both is None else both
    before = [True] * lost + [False] * gained + [True] * both + [False] * (same - both)
    after = [False] * lost + [True] * gained + [True] * both + [False] * (same - both)
    return before, after


def difference(lost: int, gained: int, n: int, confidence: float = 0.95) -> PairedDifference:
    return paired_difference(*pairs(lost, gained, n), confidence)


COUNTS = st.integers(1, 400).flatmap(
    lambda n: st.integers(0, n).flatmap(lambda lost: st.tuples(st.just(lost), st.integers(0, n - lost), st.just(n)))
)
CONFIDENCE = st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.999])


# Wilson


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_gives_the_published_values(correct, n, low, high):
    interval = wilson(correct, n)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.integers(0, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), CONFIDENCE)
def test_wilson_contains_the_estimate_and_mirrors(counts, confidence):
    correct, n = counts
    interval, mirrored = wilson(correct, n, confidence), wilson(n - correct, n, confidence)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    assert interval.low == pytest.approx(1 - mirrored.high)


@pytest.mark.parametrize(
    ("correct", "n", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 0.0), (1, 2, 1.0), (1, 2, 95)]
)
def test_wilson_refuses_nonsense(correct, n, confidence):
    with pytest.raises(ValueError, match=r"impossible|not between"):
        wilson(correct, n, confidence)


# Tango


def brute_force_score(lost: int, gained: int, n: int, delta: float) -> float:
    """The score by maximizing the multinomial likelihood numerically: no formula in common with the code."""
    low, high = max(0.0, -delta), (1 - delta) / 2  # range of the probability of a lost pair

    def log_likelihood(p: float) -> float:
        cells = ((lost, p), (gained, p + delta), (n - lost - gained, 1 - 2 * p - delta))
        if any(count and q <= 0 for count, q in cells):
            return -math.inf
        return sum(count * math.log(q) for count, q in cells if count)

    for _ in range(200):  # concave in p
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (a, high) if log_likelihood(a) < log_likelihood(b) else (low, b)
    p = (low + high) / 2
    variance = (2 * p + delta - delta * delta) / n
    return ((gained - lost) / n - delta) / math.sqrt(variance)


@pytest.mark.parametrize(
    ("lost", "gained", "n", "low", "high"),
    [
        # Fagerland, Lydersen and Laake (2014), Statistics in Medicine 33, 2850-2875: airway hyper-responsiveness.
        (7, 1, 21, -0.517, -0.026),
    ],
)
def test_tango_gives_the_published_values(lost, gained, n, low, high):
    result = difference(lost, gained, n)
    assert (result.low, result.high) == (pytest.approx(low, abs=5e-4), pytest.approx(high, abs=5e-4))


@pytest.mark.parametrize("n", [1, 7, 100, 1200])
def test_tango_without_discordant_pairs_is_known_in_closed_form(n):
    z2 = NormalDist().inv_cdf(0.95) ** 2
    result = difference(0, 0, n, 0.90)
    assert (result.low, result.high) == (pytest.approx(-z2 / (n + z2)), pytest.approx(z2 / (n + z2)))


@given(COUNTS, CONFIDENCE)
@settings(max_examples=60)
def test_the_ends_solve_the_score_equation(counts, confidence):
    lost, gained, n = counts
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    result = difference(lost, gained, n, confidence)
    if result.high < 1 - 1e-9:
        assert brute_force_score(lost, gained, n, result.high) == pytest.approx(-z, rel=1e-3)
    else:
        assert gained == n
    if result.low > -1 + 1e-9:
        assert brute_force_score(lost, gained, n, result.low) == pytest.approx(z, rel=1e-3)
    else:
        assert lost == n


@given(COUNTS, CONFIDENCE)
def test_swapping_the_sides_mirrors_the_interval(counts, confidence):
    before, after = pairs(*counts)
    forward, backward = paired_difference(before, after, confidence), paired_difference(after, before, confidence)
    assert (forward.delta, forward.low, forward.high) == (-backward.delta, -backward.high, -backward.low)
    assert (forward.lost, forward.gained) == (backward.gained, backward.lost)


@given(COUNTS, CONFIDENCE)
def test_the_interval_contains_the_estimate_and_stays_in_range(counts, confidence):
    result = difference(*counts, confidence)
    assert -1 <= result.low <= result.delta <= result.high <= 1
    assert result.delta == float(Fraction(counts[1] - counts[0], counts[2]))
    assert result.low < result.high


@given(COUNTS, st.integers(2, 5))
def test_more_data_of_the_same_kind_narrows_the_interval(counts, times):
    lost, gained, n = counts
    few, many = difference(lost, gained, n), difference(lost * times, gained * times, n * times)
    assert many.high - many.low < few.high - few.low


@given(COUNTS)
def test_more_confidence_widens_the_interval(counts):
    narrow, wide = difference(*counts, 0.8), difference(*counts, 0.95)
    assert wide.low <= narrow.low and narrow.high <= wide.high and (wide.low, wide.high) != (narrow.low, narrow.high)


@given(COUNTS, st.randoms(use_true_random=False))
def test_only_the_counts_of_pairs_matter(counts, rng: random.Random):
    lost, gained, n = counts
    rows = list(zip(*pairs(lost, gained, n, both=(n - lost - gained) // 2), strict=True))
    rng.shuffle(rows)
    before, after = zip(*rows, strict=True)
    assert paired_difference(before, after) == difference(lost, gained, n)


def test_pairs_must_be_pairs():
    with pytest.raises(ValueError, match="3 items before, 2 after"):
        paired_difference([True] * 3, [True] * 2)
    with pytest.raises(ValueError, match="at least one pair"):
        paired_difference([], [])


# The gate


@pytest.mark.parametrize(
    ("lost", "gained", "n", "margin", "verdict"),
    [
        (0, 0, 600, 0.02, Verdict.PASS),
        (0, 0, 100, 0.02, Verdict.INCONCLUSIVE),
        (2, 1, 600, 0.02, Verdict.PASS),
        (77, 0, 600, 0.02, Verdict.FAIL),
        (42, 0, 1200, 0.02, Verdict.FAIL),
        (20, 18, 400, 0.02, Verdict.INCONCLUSIVE),
        (0, 60, 600, 0.02, Verdict.PASS),
        (14, 2, 1200, 0.02, Verdict.PASS),  # a loss is shown, but one below the margin
    ],
)
def test_verdicts(lost, gained, n, margin, verdict):
    result = non_inferiority(*pairs(lost, gained, n), margin)
    assert result.verdict is verdict and result.margin == margin
    assert result.difference == difference(lost, gained, n, GATE_CONFIDENCE)


@given(COUNTS, st.floats(0.001, 0.5), st.floats(0.001, 0.5))
def test_a_wider_margin_never_takes_a_pass_away(counts, first, second):
    narrow, wide = (non_inferiority(*pairs(*counts), margin) for margin in sorted((first, second)))
    assert wide.verdict is Verdict.PASS or narrow.verdict is not Verdict.PASS
    assert narrow.verdict is Verdict.FAIL or wide.verdict is not Verdict.FAIL


@given(COUNTS, st.floats(0.001, 0.5))
def test_the_verdict_follows_from_the_interval(counts, margin):
    result = non_inferiority(*pairs(*counts), margin)
    assert (result.verdict is Verdict.PASS) == (result.difference.low > -margin)
    assert (result.verdict is Verdict.FAIL) == (result.difference.low <= -margin and result.difference.high < 0)


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.02, 2, math.nan])
def test_a_margin_is_a_proportion(margin):
    with pytest.raises(ValueError, match="margin"):
        non_inferiority([True], [True], margin)
    with pytest.raises(ValueError, match="margin"):
        items_needed(0.03, margin)


@pytest.mark.parametrize(("discordance", "margin"), [(0.0, 0.02), (0.005, 0.02), (0.03, 0.02), (0.08, 0.05)])
def test_that_many_items_let_an_unchanged_model_pass(discordance, margin):
    n, rng = items_needed(discordance, margin), random.Random(0)
    passed = 0
    for _ in range(300):
        changed = sum(rng.random() < discordance for _ in range(n))
        lost = sum(rng.random() < 0.5 for _ in range(changed))
        passed += difference(lost, changed - lost, n, GATE_CONFIDENCE).low > -margin
    assert 0.72 <= passed / 300 <= (1.0 if discordance == 0 else 0.95)


def test_without_disagreement_the_items_needed_are_exact():
    n = items_needed(0.0, 0.02)
    assert non_inferiority(*pairs(0, 0, n), 0.02).verdict is Verdict.PASS
    assert non_inferiority(*pairs(0, 0, n - 1), 0.02).verdict is Verdict.INCONCLUSIVE


@given(st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0.005, 0.2))
def test_more_disagreement_needs_more_items(first, second, margin):
    few, many = sorted((first, second))
    assert items_needed(few, margin) <= items_needed(many, margin)
    assert items_needed(few, margin) >= items_needed(few, margin * 1.5)
