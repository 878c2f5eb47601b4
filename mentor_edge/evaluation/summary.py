"""The figures of a group of outcomes: accuracy with its interval, what went wrong, what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, quantiles
from typing import Any

from mentor_edge.evaluation.outcome import MISSING, Outcome
from mentor_edge.evaluation.statistics import wilson
from mentor_edge.messages import Ending


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one split or domain of `n` tasks.

    `accuracy` lies in [`low`, `high`], Wilson's 95 % interval. `malformed` counts tasks that ended with an unreadable
    tool call and `missing` those without a prediction, both always wrong; `unknown_tool` counts those that called a
    tool that was not offered, whatever they answered. `endings` counts how trajectories ended.

    `calls`, `turns` and `tokens` are means per task. `seconds` holds the percentiles "p50", "p90" and "p99" of the time
    from the start of a task's batch to its end, with linear interpolation between values. `tokens` and `seconds` are
    None where nobody measured them. `metrics` are means over the tasks that have them. Rates are proportions.
    """

    n: int
    correct: int
    accuracy: float
    low: float
    high: float
    malformed: int
    malformed_rate: float
    unknown_tool: int
    unknown_tool_rate: float
    missing: int
    endings: Mapping[str, int]
    calls: float
    turns: float
    tokens: float | None
    seconds: Mapping[str, float] | None
    metrics: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def summarize(outcomes: Sequence[Outcome]) -> Summary:
    """The figures of some outcomes, at least one."""
    n = len(outcomes)
    accuracy = wilson(sum(outcome.correct for outcome in outcomes), n)
    malformed = sum(outcome.malformed for outcome in outcomes)
    unknown_tool = sum(outcome.unknown_tool for outcome in outcomes)
    endings = Counter(outcome.ending for outcome in outcomes)
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.metrics)
    return Summary(
        n=n,
        correct=sum(outcome.correct for outcome in outcomes),
        accuracy=accuracy.estimate,
        low=accuracy.low,
        high=accuracy.high,
        malformed=malformed,
        malformed_rate=malformed / n,
        unknown_tool=unknown_tool,
        unknown_tool_rate=unknown_tool / n,
        missing=sum(outcome.error == MISSING for outcome in outcomes),
        endings={ending.value: endings[ending] for ending in Ending if endings[ending]},
        calls=fmean(outcome.calls for outcome in outcomes),
        turns=fmean(outcome.turns for outcome in outcomes),
        tokens=fmean(outcome.tokens for outcome in outcomes) if any(outcome.tokens for outcome in outcomes) else None,
        seconds=_percentiles([outcome.seconds for outcome in outcomes]),
        metrics={name: fmean(o.metrics[name] for o in outcomes if name in o.metrics) for name in names},
    )


def by_split(outcomes: Iterable[Outcome]) -> dict[str, Summary]:
    """The figures of every split, in order of appearance."""
    return {split: summarize(group) for (split,), group in _groups(outcomes, "split").items()}


def by_domain(outcomes: Iterable[Outcome]) -> dict[str, Summary]:
    """The figures of every domain, in order of appearance. A domain that stands in several splits is not pooled over
    them: it appears once for each, as "domain (split)"."""
    groups = _groups(outcomes, "domain", "split")
    splits = Counter(domain for domain, _ in groups)
    return {
        domain if splits[domain] == 1 else f"{domain} ({split})": summarize(group)
        for (domain, split), group in groups.items()
    }


def _groups(outcomes: Iterable[Outcome], *keys: str) -> dict[tuple[str, ...], list[Outcome]]:
    groups: dict[tuple[str, ...], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(tuple(getattr(outcome, key) for key in keys), []).append(outcome)
    return groups


def _percentiles(seconds: Sequence[float]) -> dict[str, float] | None:
    if not any(seconds):
        return None
    # "inclusive" puts the smallest value at 0 % and the largest at 100 %, as numpy's default does; it wants two values.
    cuts = quantiles(seconds if len(seconds) > 1 else [*seconds, *seconds], n=100, method="inclusive")
    return {f"p{percent}": round(cuts[percent - 1], 4) for percent in (50, 90, 99)}
