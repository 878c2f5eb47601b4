"""The report of a comparison as a list of blocks (headings, sentences, tables), which Markdown and HTML both render.

Every sentence follows from the figures of a `Comparison`. Accuracies are percentages and differences are percentage
points, both with one decimal; intervals are in brackets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mentor_edge.evaluation.document import Grid, Strong

from .comparison import Accuracy, Comparison, Cost, Curve, Difference

TITLE = "Comparison of training methods"
PICTURES = {
    "accuracy": "accuracy of every method on every domain, with intervals",
    "differences": "paired differences on the core domains, with intervals and a line at zero",
    "curves": "validation accuracy while training: mean over seeds, band from the lowest to the highest seed",
}
"""Name of a picture -> what it shows."""
MAIN_DOMAINS = ("id", "core", "ood")
"""The columns of the short table: the domain `id` and the two pooled scores."""

_Row = TypeVar("_Row", Accuracy, Difference, Cost, Curve)


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Picture:
    """One of `PICTURES`."""

    name: str


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Preformatted text."""

    text: str


Block = Heading | Paragraph | Bullets | Grid | Picture | Verbatim


def percent(value: float) -> str:
    """A proportion in percent, with one decimal."""
    return f"{100 * value:z.1f}"


def accuracy_text(row: Accuracy) -> str:
    """Such as "62.1 [58.0, 66.2]", in percent."""
    return f"{percent(row.estimate)} [{percent(row.low)}, {percent(row.high)}]"


def difference_text(row: Difference) -> str:
    """Such as "+3.1 [+1.0, +5.2]", in points."""
    digits = _digits(row)
    estimate, low, high = (f"{100 * value:+z.{digits}f}" for value in (row.estimate, row.low, row.high))
    return f"{estimate} [{low}, {high}]"


def difference_sentence(row: Difference) -> str:
    """A difference in plain words. It calls one side better only if the interval excludes zero."""
    method, against, domain, digits = row.method, row.against, row.domain, _digits(row)
    estimate, low, high = (100 * value for value in (row.estimate, row.low, row.high))
    if not row.excludes_zero:
        return (
            f"no difference shown between {method} and {against} on {domain}: {estimate:+z.{digits}f} points "
            f"[{low:z.{digits}f}, {high:z.{digits}f}] (interval includes zero)"
        )
    verb = "beats"
    if estimate < 0:
        verb, estimate, low, high = "falls behind", -estimate, -high, -low
    return (
        f"{method} {verb} {against} on {domain} by {estimate:.{digits}f} points [{low:.{digits}f}, {high:.{digits}f}]"
    )


def _digits(row: Difference) -> int:
    """One decimal, or two if one decimal would print a nonzero bound of an interval that excludes zero as zero."""
    return 2 if row.excludes_zero and min(abs(row.low), abs(row.high)) < 0.0005 else 1


def noise_title(noise: str | None) -> str:
    """Heading of the tables of one noise."""
    return "Without the teacher's traces" if noise is None else f"Teacher noise: {noise}"


def of_noise(rows: Sequence[_Row], noise: str | None) -> list[_Row]:
    """The rows of one noise."""
    return [row for row in rows if row.teacher_noise == noise]


def accuracy_grid(comparison: Comparison, noise: str | None, columns: Sequence[str]) -> Grid:
    """Methods as rows, domains as columns."""
    rows = {(row.method, row.domain): row for row in of_noise(comparison.accuracy, noise)}
    methods = [method for method in comparison.methods if any(key[0] == method for key in rows)]
    return Grid(
        ["method", *columns],
        [[method, *(accuracy_text(rows[method, domain]) for domain in columns)] for method in methods],
    )


def difference_grid(comparison: Comparison, noise: str | None, columns: Sequence[str]) -> Grid:
    """Pairs as rows. Cells whose interval excludes zero are strong."""
    rows = {(row.method, row.against, row.domain): row for row in of_noise(comparison.differences, noise)}
    cells = {key: (Strong if row.excludes_zero else str)(difference_text(row)) for key, row in rows.items()}
    pairs = list(dict.fromkeys((method, against) for method, against, _ in rows))
    return Grid(
        ["difference", *columns],
        [
            [f"{method} - {against}", *(cells[method, against, domain] for domain in columns)]
            for method, against in pairs
        ],
    )


def cost_grid(comparison: Comparison) -> Grid:
    """Methods and noises as rows."""
    rows = []
    for row in comparison.costs:
        counts = [f"{count:,.0f}" for count in (row.updates, row.tokens, row.rollout_tokens)]
        rows.append([row.method, row.teacher_noise or "-", str(row.n_runs), *counts, f"{row.cpu_seconds:,.1f}"])
    return Grid(["method", "noise", "runs", "updates", "tokens", "rollout tokens", "CPU seconds"], rows)


def curve_grid(comparison: Comparison) -> Grid:
    """The end of each learning curve, and its highest point."""
    rows = []
    for row in comparison.curves:
        best = max(range(len(row.steps)), key=lambda i: row.mean[i])
        last = f"{percent(row.mean[-1])} [{percent(row.low[-1])}, {percent(row.high[-1])}]"
        highest = f"{percent(row.mean[best])} at {row.steps[best]}"
        noise = row.teacher_noise or "-"
        rows.append([row.method, noise, row.base, str(row.n_seeds), str(row.steps[-1]), last, highest])
    return Grid(["method", "noise", "base", "seeds", "last step", "last: mean [lowest, highest]", "highest mean"], rows)


def multiplicity_sentence(comparison: Comparison) -> str:
    """How many differences are shown, and how many would exclude zero by chance."""
    counts = comparison.multiplicity
    by_chance = (1 - comparison.statistics.confidence) * counts.shown
    repeated = counts.shown - counts.distinct
    repeats = f" ({repeated} of them repeat another one under a different noise)" if repeated else ""
    return (
        f"{counts.shown} differences are shown{repeats}; the intervals of {counts.excluding_zero} exclude zero. "
        f"They are not corrected for multiplicity: if no methods differed, about {by_chance:.0f} intervals would be "
        "expected to exclude zero by chance, and more if intervals are too narrow."
    )


def limits(comparison: Comparison) -> list[str]:
    """What the figures do not show."""
    bases, seeds = len(comparison.bases), len(comparison.seeds)
    nominal = f"{100 * comparison.statistics.confidence:g} %"
    statements = []
    if bases == 1:
        statements.append("There is one base: bases are not resampled, and nothing follows for other students.")
    if seeds == 1:
        statements.append("There is one seed: seeds are not resampled, and nothing follows for other training runs.")
    if bases > 1 or seeds > 1:
        counts = " and ".join(f"{n} {name}" for n, name in ((bases, "bases"), (seeds, "seeds")) if n > 1)
        statements.append(
            f"With {counts}, the intervals of a percentile bootstrap are too narrow: resampling n units reproduces "
            f"only (n - 1) / n of their variance and does not account for small n. If bases or seeds truly differ, the "
            f"nominal {nominal} interval covers the true value less often than that."
        )
    statements += [
        multiplicity_sentence(comparison),
        "An interval that includes zero does not show that two methods are equal.",
        "An interval without width (every run right, or wrong, on every item; no item answered differently) means only "
        "that resampling could not change the score. With fewer than about ten items that differ, intervals are also "
        "too narrow.",
        "All figures are for this suite, these bases, this amount of training and these settings of each method.",
    ]
    if comparison.missing:
        statements.append(
            f"The grid is incomplete: {len(comparison.missing)} runs are missing ({'; '.join(comparison.missing)}"
            "). A difference uses the bases and seeds that both of its sides have; accuracies of different methods may "
            "come from different runs."
        )
    return statements


def document(comparison: Comparison) -> list[Block]:
    """The whole report."""
    columns = comparison.scopes
    noises = comparison.teacher_noise
    blocks: list[Block] = [
        Heading(1, TITLE),
        Paragraph("Generated from comparison.json. Accuracies are in percent, differences in percentage points."),
        Heading(2, "What was compared"),
        Bullets(list(_facts(comparison))),
        Heading(2, "Accuracy"),
        Picture("accuracy"),
    ]
    for noise in noises:
        blocks += [Heading(3, noise_title(noise)), accuracy_grid(comparison, noise, columns)]
    blocks += [
        Heading(2, "Paired differences"),
        Paragraph(
            "Both sides have the same bases, seeds and items. Cells in bold have an interval that excludes zero; the "
            f"sentences are about core. {multiplicity_sentence(comparison)}"
        ),
        Picture("differences"),
    ]
    for noise in noises:
        blocks += [Heading(3, noise_title(noise)), difference_grid(comparison, noise, columns)]
        rows = [row for row in of_noise(comparison.differences, noise) if row.domain == "core"]
        for text, shown in (("Interval excludes zero:", True), ("Interval includes zero:", False)):
            sentences = [difference_sentence(row) for row in rows if row.excludes_zero is shown]
            blocks += [Paragraph(text), Bullets(sentences or ["none"])]
    blocks += [Heading(2, "Costs"), Paragraph("Means over the runs of a method."), cost_grid(comparison)]
    if comparison.curves:
        blocks += [
            Heading(2, "Learning curves"),
            Paragraph("Validation accuracy in percent. Brackets contain the lowest and highest seed, not an interval."),
            Picture("curves"),
            curve_grid(comparison),
        ]
    blocks += [Heading(2, "Limits"), Bullets(limits(comparison))]
    if comparison.settings:
        settings = json.dumps(comparison.settings, indent=2, ensure_ascii=False, default=str)
        blocks += [Heading(2, "Settings"), Verbatim(settings)]
    return blocks


def _facts(comparison: Comparison) -> Iterator[str]:
    statistics, items = comparison.statistics, comparison.items
    trained = [row for row in comparison.costs if row.updates]
    yield f"Bases: {', '.join(comparison.bases)}"
    yield f"Methods: {', '.join(comparison.methods)}"
    yield f"Seeds: {', '.join(map(str, comparison.seeds)) or 'none'}"
    yield f"Teacher noise: {', '.join(noise or 'none used' for noise in comparison.teacher_noise)}"
    without_teacher = [row.method for row in comparison.costs if row.teacher_noise is None]
    if without_teacher and comparison.teacher_noise != (None,):
        yield f"Methods without the teacher's traces, the same under every noise: {', '.join(without_teacher)}"
    updates = sorted({round(row.updates) for row in trained})
    if updates:
        counts = f"{updates[0]:,}" if len(updates) == 1 else f"{updates[0]:,} to {updates[-1]:,}, see costs"
        yield f"Updates per run: {counts}"
    yield f"Runs evaluated: {len(comparison.cells)}"
    yield f"Items: {sum(items.values()):,} ({', '.join(f'{domain} {n}' for domain, n in items.items())})"
    yield f"core: mean of the accuracies on {', '.join(comparison.core)}"
    if ood := [domain for domain in items if domain != "id"]:
        yield f"ood: mean of the accuracies on {', '.join(ood)}"
    used = {level for row in (*comparison.accuracy, *comparison.differences) for level in row.levels}
    levels = [level for level in ("bases", "seeds", "items") if level in used]
    yield (
        f"Intervals: {100 * statistics.confidence:g} %, {statistics.interval}, {statistics.replicates:,} "
        f"replicates over {', '.join(levels)}"
    )
