"""Statistics of one set of answers or of one pair of sets: Wilson's interval, Tango's paired interval, the
non-inferiority test. For several runs of several students, see `mentor_edge.recipes.comparison.bootstrap`.

No numpy, no scipy. An item is one task answered by both sides; order matters, since item i of one side is paired
with item i of the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from mentor_edge.results import PairedDifference, Verdict

GATE_CONFIDENCE = 0.90
"""Two-sided; its lower end is a one-sided 95 % bound, which is what a non-inferiority test requires."""


@dataclass(frozen=True, slots=True)
class Proportion:
    """A share of right answers with its interval. All values are between 0 and 1."""

    n: int
    """Items."""
    estimate: float
    """Right answers / n."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""


@dataclass(frozen=True, slots=True)
class GateStatistic:
    """A verdict with the figures behind it."""

    verdict: Verdict
    """The verdict."""
    difference: PairedDifference
    """The paired difference with its interval."""
    margin: float
    """The largest accepted loss, as a proportion: 0.02 is two points."""


def wilson(correct: int, n: int, confidence: float = 0.95) -> Proportion:
    """Wilson's score interval for a proportion; with n = 0 it is the whole of [0, 1] around 0.5.

    Source: E. B. Wilson (1927), JASA 22, 209-212.
    Raises: ValueError unless 0 <= correct <= n and 0 < confidence < 1.
    """
    z = _quantile(confidence)
    if not 0 <= correct <= n:
        raise ValueError(f"{correct} right answers of {n} are impossible")
    if n == 0:
        return Proportion(0, 0.5, 0.0, 1.0)
    estimate, spread = correct / n, z * z / n
    center = (estimate + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (estimate * (1 - estimate) + spread / 4)) / (1 + spread)
    # At the ends the bound is 0 or 1 exactly; the formula misses it by rounding.
    low = 0.0 if correct == 0 else center - half
    high = 1.0 if correct == n else center + half
    return Proportion(n, estimate, low, high)


def paired_difference(before: Sequence[bool], after: Sequence[bool], confidence: float = 0.95) -> PairedDifference:
    """The difference of two paired proportions with Tango's score interval.

    The interval contains every difference that the score test does not reject. Unlike Wald's interval, it is valid when
    few or no pairs differ. Source: T. Tango (1998), Statistics in Medicine 17, 891-908.
    Raises: ValueError for sequences of unequal length or without items, or a confidence outside (0, 1).
    """
    z = _quantile(confidence)
    if len(before) != len(after):
        raise ValueError(f"{len(before)} items before, {len(after)} after: pairs need the same items on both sides")
    n = len(before)
    if n == 0:
        raise ValueError("a paired difference needs at least one pair")
    lost = sum(bool(b) and not a for b, a in zip(before, after, strict=True))
    gained = sum(bool(a) and not b for b, a in zip(before, after, strict=True))
    delta = (gained - lost) / n
    # The score falls as the assumed difference grows, so each end is the one root on its side of the estimate.
    high = _bisect(lambda value: _score(gained, lost, n, value) > -z, delta, 1.0)
    low = -_bisect(lambda value: _score(lost, gained, n, value) > -z, -delta, 1.0)
    return PairedDifference(n=n, delta=delta, low=low, high=high, lost=lost, gained=gained)


def non_inferiority(source: Sequence[bool], exported: Sequence[bool], margin: float) -> GateStatistic:
    """Test whether `exported` loses less than `margin` against `source`, at a one-sided 5 % level.

    Pass: the interval's lower end is above -margin. Fail: it is not, and the whole interval is below zero, so a loss is
    shown. Inconclusive: neither; more items are needed (`items_needed`).

    Raises: ValueError as `paired_difference` does, or when `margin` is not between 0 and 1.
    """
    _check_open_unit("margin", margin)
    difference = paired_difference(source, exported, GATE_CONFIDENCE)
    if difference.low > -margin:
        verdict = Verdict.PASS
    elif difference.high < 0:
        verdict = Verdict.FAIL
    else:
        verdict = Verdict.INCONCLUSIVE
    return GateStatistic(verdict, difference, margin)


def items_needed(discordance: float, margin: float) -> int:
    """Roughly how many items an unchanged model needs to pass `non_inferiority` with 80 % probability.

    `discordance` is the fraction of items on which the two sides disagree, half of them in each direction. Normal
    approximation of the score test's power. With few items the true probability differs by several points.

    Raises: ValueError when `discordance` is not in [0, 1] or `margin` not in (0, 1).
    """
    _check_open_unit("margin", margin)
    if not 0 <= discordance <= 1:
        raise ValueError(f"discordance {discordance} is not between 0 and 1")
    test = _quantile(GATE_CONFIDENCE) * math.sqrt(_variance(discordance / 2, discordance / 2, -margin))
    power = NormalDist().inv_cdf(0.80) * math.sqrt(discordance)
    return math.floor(((test + power) / margin) ** 2) + 1


def _quantile(confidence: float) -> float:
    _check_open_unit("confidence", confidence)
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _check_open_unit(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} {value} is not between 0 and 1")


def _score(gained: int, lost: int, n: int, difference: float) -> float:
    """Tango's score statistic for the hypothesis that the true difference is `difference` (between -1 and 1)."""
    deviation = gained - lost - n * difference
    variance = n * _variance(gained / n, lost / n, difference)
    if variance <= 0:
        return math.copysign(math.inf, deviation) if deviation else 0.0
    return deviation / math.sqrt(variance)


def _variance(gained: float, lost: float, difference: float) -> float:
    """Variance of one pair's change under the hypothesis, from the fractions of gained and lost pairs."""
    # `p` is the likeliest probability of a lost pair when the difference is as assumed: the root of a quadratic.
    linear = (2 - gained + lost) * difference - gained - lost
    constant = -lost * difference * (1 - difference)
    p = (math.sqrt(max(linear * linear - 8 * constant, 0.0)) - linear) / 4
    return 2 * p + difference * (1 - difference)


def _bisect(inside: Callable[[float], bool], low: float, high: float) -> float:
    """The point at which `inside` turns from true (at `low`) to false, to the last bit."""
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if inside(middle) else (low, middle)
    return high
