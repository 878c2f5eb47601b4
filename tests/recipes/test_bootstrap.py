from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mentor_edge.recipes.comparison.bootstrap import accuracy_interval, difference_interval

DOMAINS = ("id", "para")


def draw(rate: float, *, bases: int, seeds: int, items: int, seed: int = 0):
    random = np.random.default_rng(seed)
    return [
        [{domain: (random.random(items) < rate).astype(int) for domain in DOMAINS} for _ in range(seeds)]
        for _ in range(bases)
    ]


GRIDS = st.fixed_dictionaries(
    {"bases": st.integers(1, 3), "seeds": st.integers(1, 3), "items": st.integers(1, 60), "seed": st.integers(0, 99)}
)
RATES = st.floats(0, 1)


@settings(max_examples=40)
@given(grid=GRIDS, rate=RATES, other=RATES)
def test_bounds_surround_the_estimate_and_differences_are_antisymmetric(grid, rate, other):
    a, b = draw(rate, **grid), draw(other, **{**grid, "seed": grid["seed"] + 100})
    for interval in (
        accuracy_interval(a, DOMAINS, replicates=1000),
        difference_interval(a, b, DOMAINS, replicates=1000),
    ):
        assert interval.low <= interval.estimate + 1e-9 and interval.estimate <= interval.high + 1e-9
    there, back = (
        difference_interval(a, b, DOMAINS, replicates=1000),
        difference_interval(b, a, DOMAINS, replicates=1000),
    )
    assert (there.estimate, there.low, there.high) == pytest.approx((-back.estimate, -back.high, -back.low), abs=1e-9)
    assert there.estimate == pytest.approx(
        accuracy_interval(a, DOMAINS).estimate - accuracy_interval(b, DOMAINS).estimate, abs=1e-9
    )


@settings(max_examples=25)
@given(grid=GRIDS, rate=RATES)
def test_a_method_does_not_differ_from_itself(grid, rate):
    runs = draw(rate, **grid)
    same = difference_interval(runs, runs, DOMAINS, replicates=500)
    assert (same.estimate, same.low, same.high, same.excludes_zero) == (0.0, 0.0, 0.0, False)


@settings(max_examples=20)
@given(rate=st.floats(0.2, 0.8), seed=st.integers(0, 99), order=st.permutations(range(3)))
def test_the_order_of_seeds_does_not_matter(rate, seed, order):
    runs = draw(rate, bases=2, seeds=3, items=100, seed=seed)
    shuffled = [[base[i] for i in order] for base in runs]
    first, second = accuracy_interval(runs, DOMAINS), accuracy_interval(shuffled, DOMAINS)
    assert first.estimate == pytest.approx(second.estimate, abs=1e-12)
    assert (first.low, first.high) == pytest.approx((second.low, second.high), abs=0.01)  # noise of resampling


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_more_items_at_the_same_rate_narrow_the_interval(rate):
    def width(times: int) -> float:
        pattern = np.tile(np.arange(20) < 20 * rate, times).astype(int)
        interval = accuracy_interval([[{"id": pattern}]], ["id"])
        assert interval.estimate == pytest.approx(rate)
        return interval.high - interval.low

    assert width(1) > 1.5 * width(4) > 2.25 * width(16)


def test_the_interval_is_the_textbook_one_for_one_run():
    runs = [[{"id": np.arange(400) < 240}]]
    interval = accuracy_interval([[{"id": runs[0][0]["id"].astype(int)}]], ["id"])
    half = 1.96 * np.sqrt(0.6 * 0.4 / 400)
    assert (interval.low, interval.high) == pytest.approx((0.6 - half, 0.6 + half), abs=0.005)
    assert interval.levels == ("items",) and interval.per_base == (0.6,)


def test_spread_of_bases_and_seeds_widens_the_interval():
    def runs(*rates: tuple[float, ...]):
        return [[{"id": (np.arange(500) < 500 * rate).astype(int)} for rate in base] for base in rates]

    same = accuracy_interval(runs((0.5, 0.5), (0.5, 0.5)), ["id"])
    seeds = accuracy_interval(runs((0.4, 0.6), (0.4, 0.6)), ["id"])
    bases = accuracy_interval(runs((0.4, 0.4), (0.6, 0.6)), ["id"])
    widths = [interval.high - interval.low for interval in (same, seeds, bases)]
    assert widths[0] < widths[1] < widths[2]
    assert {interval.estimate for interval in (same, seeds, bases)} == {0.5}
    assert bases.per_base == (0.4, 0.6)


def test_levels_with_one_unit_are_not_resampled():
    def levels(bases: int, seeds: int) -> tuple[str, ...]:
        return accuracy_interval(draw(0.5, bases=bases, seeds=seeds, items=9), DOMAINS, replicates=50).levels

    assert levels(1, 1) == ("items",)
    assert levels(1, 2) == ("seeds", "items")
    assert levels(2, 1) == ("bases", "items")
    assert levels(2, 2) == ("bases", "seeds", "items")


def test_a_pooled_score_weighs_domains_equally_and_resamples_them_independently():
    run = {"id": [1] * 10, "para": [0] * 90}
    assert accuracy_interval([[run]], DOMAINS).estimate == 0.5
    half = np.arange(100) % 2
    alone = accuracy_interval([[{"id": half}]], ["id"])
    pooled = accuracy_interval([[{"id": half, "para": half}]], DOMAINS)
    ratio = (pooled.high - pooled.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(np.sqrt(0.5), abs=0.07)
    assert pooled == accuracy_interval([[{"id": half, "para": half}]], DOMAINS[::-1])


def test_items_are_paired():
    """Two methods that share 295 of 300 answers differ with far less noise than two unrelated ones."""
    random = np.random.default_rng(3)
    a = (random.random(300) < 0.5).astype(int)
    b = a.copy()
    b[np.flatnonzero(a)[:5]] = 0
    paired = difference_interval([[{"id": a}]], [[{"id": b}]], ["id"])
    unrelated = difference_interval([[{"id": a}]], [[{"id": random.permutation(b)}]], ["id"])
    assert paired.estimate == unrelated.estimate == pytest.approx(5 / 300)
    assert paired.excludes_zero and not unrelated.excludes_zero


def test_a_single_run_is_paired_with_every_seed():
    trained, base = draw(0.7, bases=2, seeds=3, items=40), draw(0.4, bases=2, seeds=1, items=40, seed=1)
    repeated = [runs * 3 for runs in base]
    assert difference_interval(trained, base, DOMAINS) == difference_interval(trained, repeated, DOMAINS)
    assert difference_interval(trained, base, DOMAINS).levels == ("bases", "seeds", "items")


def test_bases_may_have_different_numbers_of_seeds():
    runs = draw(0.5, bases=2, seeds=3, items=50)
    fewer = [runs[0], runs[1][:2]]
    interval = accuracy_interval(fewer, DOMAINS)
    means = [np.mean([np.mean([run[domain].mean() for domain in DOMAINS]) for run in base]) for base in fewer]
    assert interval.per_base == pytest.approx(means) and interval.estimate == pytest.approx(np.mean(means))


def test_the_seed_decides():
    runs = draw(0.5, bases=2, seeds=2, items=50)
    assert accuracy_interval(runs, DOMAINS, seed=1) == accuracy_interval(runs, DOMAINS, seed=1)
    assert accuracy_interval(runs, DOMAINS, seed=1) != accuracy_interval(runs, DOMAINS, seed=2)


def test_items_only_coverage_is_nominal():
    random = np.random.default_rng(7)
    rate_a, rate_b, simulations = 0.7, 0.55, 300
    accuracy = difference = 0
    for _ in range(simulations):
        shared = random.random(120)  # correlates the two sides, as a common item does
        own = random.random(120)
        a = (shared < rate_a).astype(int)
        b = (np.where(random.random(120) < 0.5, shared, own) < rate_b).astype(int)
        interval = accuracy_interval([[{"id": a}]], ["id"])
        accuracy += interval.low <= rate_a <= interval.high
        interval = difference_interval([[{"id": a}]], [[{"id": b}]], ["id"])
        difference += interval.low <= rate_a - rate_b <= interval.high
    assert 0.90 <= accuracy / simulations <= 0.99
    assert 0.90 <= difference / simulations <= 0.99


def test_two_bases_and_three_seeds_cover_less_than_nominal_as_the_module_says():
    random = np.random.default_rng(8)
    covered, simulations = 0, 300
    for _ in range(simulations):
        runs = []
        for base in 0.6 + 0.1 * random.standard_normal(2):
            rates = base + 0.01 * random.standard_normal(3)
            runs.append([{"id": (random.random(300) < rate).astype(int)} for rate in rates])
        interval = accuracy_interval(runs, ["id"], replicates=1000)
        covered += interval.low <= 0.6 <= interval.high
    assert 0.6 <= covered / simulations <= 0.85


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ([], [], "at least one base"),
        ([[]], [[]], "at least one base"),
        ([[{"id": [1]}]], [], "1 bases on one side, 0"),
        ([[{"id": [1]}] * 3], [[{"id": [1]}] * 2], "3 seeds on one side, 2"),
        ([[{"id": [1, 0]}]], [[{"id": [1]}]], "different items"),
        ([[{"id": [1, 0]}, {"id": [1]}]], [[{"id": [1]}]], "same items"),
        ([[{"id": []}]], [[{"id": []}]], "at least one"),
        ([[{"id": [2]}]], [[{"id": [1]}]], "right"),
        ([[{"para": [1]}]], [[{"id": [1]}]], "lacks the domain 'id'"),
    ],
)
def test_impossible_inputs_are_refused(a, b, reason):
    with pytest.raises(ValueError, match=reason):
        difference_interval(a, b, ["id"])


@pytest.mark.parametrize("wrong", [{"confidence": 1.0}, {"replicates": 1}, {"domains": []}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be between|at least one domain"):
        accuracy_interval([[{"id": [1, 0]}]], **{"domains": ["id"], **wrong})
