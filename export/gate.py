"""The gate: the same tasks through the source and through the exported model, compared task by task."""

from __future__ import annotations

from mentor_edge.evaluation.evaluate import Evaluation, Outcome
from mentor_edge.evaluation.statistics import items_needed, non_inferiority
from mentor_edge.results import GateReport, Measure, SideCounts, SplitReport, Verdict

MARGIN = 0.02
IRRELEVANCE = "irrelevance"
"""The split of tasks on which any call is wrong. A model that never calls gains there what it loses elsewhere."""


def compare(source: Evaluation, exported: Evaluation, margin: float = MARGIN, measure: Measure = "skill") -> GateReport:
    """Test non-inferiority on every split; the verdict is the worst of them.

    Both sides are scored by the same `measure`: "skill" accepts calls in every spelling that can be read, "format" only
    in that of the model's own chat template.

    A source that solves less than `margin` of a split cannot lose that much, so that split is inconclusive.

    Raises: ValueError when the two sides did not run the same tasks.
    """
    pairs = list(zip(source.outcomes, exported.outcomes, strict=True))
    if any(before.task_id != after.task_id for before, after in pairs):
        raise ValueError("the source and the exported model ran different tasks")
    splits: dict[str, SplitReport] = {}
    notes = []
    for split in dict.fromkeys(_split(before) for before, _ in pairs):
        before = [_right(outcome, measure) for outcome, _ in pairs if _split(outcome) == split]
        after = [_right(outcome, measure) for task, outcome in pairs if _split(task) == split]
        statistic = non_inferiority(before, after, margin)
        solves_too_few = sum(before) < margin * len(before)
        splits[split] = SplitReport(
            **statistic.difference.model_dump(),
            verdict=Verdict.INCONCLUSIVE if solves_too_few else statistic.verdict,
            correct=SideCounts(source=sum(before), exported=sum(after)),
        )
        if solves_too_few:
            notes.append(f"{split}: the source solves {sum(before)} of {len(before)}, too few to lose any")
        else:
            notes.append(_explanation(split, splits[split], margin))
    order = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)
    return GateReport(
        verdict=min((report.verdict for report in splits.values()), key=order.index),
        margin=margin,
        measure=measure,
        splits=splits,
        malformed=SideCounts(source=source.malformed, exported=exported.malformed),
        cut_off=SideCounts(source=source.cut_off, exported=exported.cut_off),
        cut_off_warnings=tuple(
            f"{side}: {cut.statement}"
            for side, evaluation in (("source", source), ("exported", exported))
            for cut in evaluation.cut_offs()
            if cut.severe
        ),
        explanation=f"{measure}: {'; '.join(notes)}",
    )


def _right(outcome: Outcome, measure: Measure) -> bool:
    return outcome.correct if measure == "skill" else outcome.correct_in_format


def _split(outcome: Outcome) -> str:
    return IRRELEVANCE if outcome.expected.get("calls") == [] else outcome.split


def _explanation(split: str, report: SplitReport, margin: float) -> str:
    text = (
        f"{split}: {report.delta * 100:+.2f} points, "
        f"90 % interval [{report.low * 100:+.2f}, {report.high * 100:+.2f}], "
        f"n {report.n}, {report.lost} lost, {report.gained} gained"
    )
    if report.verdict is Verdict.INCONCLUSIVE:
        needed = items_needed(report.flips / report.n, margin)
        text += f" (an unchanged model needs about {max(needed, report.n + 1)} items at this margin)"
    return text
