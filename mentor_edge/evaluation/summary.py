"""The figures of a group of outcomes: accuracy with its interval, failures, costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, quantiles
from typing import Any

from mentor_edge.evaluation.outcome import MISSING, Outcome
from mentor_edge.evaluation.statistics import wilson
from mentor_edge.messages import Ending, Limit
from mentor_edge.results import Result


class Counts(Result):
    """Right answers of a set of tasks."""

    n: int
    """Tasks."""
    correct: int
    """Right answers."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one split or domain. Rates are proportions."""

    n: int
    """Tasks."""
    correct: int
    """Right answers."""
    accuracy: float
    """Share of right answers."""
    low: float
    """Lower end of Wilson's 95 % interval around the accuracy."""
    high: float
    """Upper end of the interval."""
    in_format: int | None
    """Right answers without a call in another spelling than the template's own ("format"; `correct` is the "skill");
    None if no call's spelling is known."""
    format_rate: float | None
    """Their share."""
    malformed: int
    """Tasks that ended with an unreadable tool call; always wrong."""
    malformed_rate: float
    """Their share."""
    unknown_tool: int
    """Tasks that called a tool that was not offered, right or wrong."""
    unknown_tool_rate: float
    """Their share."""
    cut_off: int
    """Tasks that a limit cut off before the model could finish."""
    cut_off_rate: float
    """Their share."""
    cut_by: Mapping[str, int]
    """How many of them each limit cut off (see `mentor_edge.messages.Limit`)."""
    missing: int
    """Tasks without a prediction; always wrong."""
    endings: Mapping[str, int]
    """How many trajectories ended in which way."""
    calls: float
    """Mean number of calls per task."""
    turns: float
    """Mean number of turns per task."""
    tokens: float | None
    """Mean number of tokens per task; None if they were not counted."""
    seconds: Mapping[str, float] | None
    """Percentiles "p50", "p90" and "p99" of the time from the start of a task's batch to the task's end, interpolated
    linearly between values; None if no time was measured."""
    metrics: Mapping[str, float]
    """Means of further scores, over the tasks that have them."""

    def to_json(self) -> dict[str, Any]:
        """The figures as a dictionary."""
        return asdict(self)


def summarize(outcomes: Sequence[Outcome]) -> Summary:
    """The figures of some outcomes, at least one."""
    n = len(outcomes)
    accuracy = wilson(sum(outcome.correct for outcome in outcomes), n)
    spelling_known = any(outcome.own_spelling is not None for outcome in outcomes)
    in_format = sum(outcome.correct_in_format for outcome in outcomes) if spelling_known else None
    malformed = sum(outcome.malformed for outcome in outcomes)
    unknown_tool = sum(outcome.unknown_tool for outcome in outcomes)
    endings = Counter(outcome.ending for outcome in outcomes)
    cut_by = Counter(outcome.cut_by for outcome in outcomes if outcome.cut_by is not None)
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.metrics)
    return Summary(
        n=n,
        correct=sum(outcome.correct for outcome in outcomes),
        accuracy=accuracy.estimate,
        low=accuracy.low,
        high=accuracy.high,
        in_format=in_format,
        format_rate=None if in_format is None else in_format / n,
        malformed=malformed,
        malformed_rate=malformed / n,
        unknown_tool=unknown_tool,
        unknown_tool_rate=unknown_tool / n,
        cut_off=cut_by.total(),
        cut_off_rate=cut_by.total() / n,
        cut_by={limit.value: cut_by[limit] for limit in Limit if cut_by[limit]},
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
    """The figures of every domain, in order of appearance. A domain in several splits is not pooled over them: it
    appears once for each split, as "domain (split)"."""
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
    # "inclusive" puts the smallest value at 0 % and the largest at 100 %, as numpy's default does. It needs two values.
    cuts = quantiles(seconds if len(seconds) > 1 else [*seconds, *seconds], n=100, method="inclusive")
    return {f"p{percent}": round(cuts[percent - 1], 4) for percent in (50, 90, 99)}
