"""The gate: the same tasks through the reference and through the exported file, compared item by item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mentor_edge.evaluation.evaluate import Evaluation, Outcome
from mentor_edge.evaluation.statistics import GateStatistic, items_needed, non_inferiority
from mentor_edge.results import Verdict

MARGIN = 0.02
IRRELEVANCE = "irrelevance"


@dataclass(frozen=True)
class GateReport:
    """The gate's result: a test per split, and what is reported beside it.

    Tasks on which no call is right are a split of their own, `IRRELEVANCE`: a file that calls nothing gains there what
    it loses elsewhere. `correct` has the right answers of the reference and of the file, per split. `malformed` counts
    conversations that ended in an unreadable call, per side.
    """

    verdict: Verdict
    splits: Mapping[str, GateStatistic]
    correct: Mapping[str, tuple[int, int]]
    malformed: Mapping[str, int]
    explanation: str

    def to_json(self) -> dict[str, Any]:
        splits = {
            name: {
                "verdict": statistic.verdict,
                **statistic.difference.model_dump(),
                "correct": {"reference": self.correct[name][0], "artifact": self.correct[name][1]},
            }
            for name, statistic in self.splits.items()
        }
        return {
            "verdict": self.verdict,
            "margin": next(iter(self.splits.values())).margin,
            "splits": splits,
            "malformed": dict(self.malformed),
            "explanation": self.explanation,
        }

    @property
    def headline(self) -> GateStatistic:
        """The out-of-domain test where there is one."""
        return self.splits.get("ood", next(iter(self.splits.values())))


def compare(reference: Evaluation, candidate: Evaluation, margin: float = MARGIN) -> GateReport:
    """Test non-inferiority on every split; the verdict is the worst of them.

    A reference that solves less than `margin` of a split cannot lose that much, so the split is inconclusive.

    Raises: ValueError when the two sides did not run the same tasks.
    """
    pairs = list(zip(reference.outcomes, candidate.outcomes, strict=True))
    if any(before.task_id != after.task_id for before, after in pairs):
        raise ValueError("the reference and the candidate ran different tasks")
    splits: dict[str, GateStatistic] = {}
    correct: dict[str, tuple[int, int]] = {}
    notes = []
    for split in dict.fromkeys(_split(before) for before, _ in pairs):
        before = [outcome.correct for outcome, _ in pairs if _split(outcome) == split]
        after = [other.correct for outcome, other in pairs if _split(outcome) == split]
        correct[split] = sum(before), sum(after)
        statistic = non_inferiority(before, after, margin)
        if sum(before) < margin * len(before):
            statistic = GateStatistic(Verdict.INCONCLUSIVE, statistic.difference, margin)
            notes.append(f"{split}: the reference solves {sum(before)} of {len(before)}, too few to lose any")
        else:
            notes.append(_explain(split, statistic))
        splits[split] = statistic
    order = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)
    verdict = min((statistic.verdict for statistic in splits.values()), key=order.index)
    malformed = {"reference": reference.malformed, "artifact": candidate.malformed}
    return GateReport(verdict, splits, correct, malformed, "; ".join(notes))


def _split(outcome: Outcome) -> str:
    return IRRELEVANCE if outcome.expected.get("calls") == [] else outcome.split


def _explain(split: str, statistic: GateStatistic) -> str:
    d = statistic.difference
    text = (
        f"{split}: {d.delta * 100:+.2f} points, 90 % interval [{d.low * 100:+.2f}, {d.high * 100:+.2f}], "
        f"n {d.n}, {d.lost} lost, {d.gained} gained"
    )
    if statistic.verdict is Verdict.INCONCLUSIVE:
        needed = items_needed((d.lost + d.gained) / d.n, statistic.margin)
        text += f" (an unchanged model needs about {max(needed, d.n + 1)} items at this margin)"
    return text
