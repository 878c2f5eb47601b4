"""The report of an evaluation: a table of figures, and a Markdown file with a picture of accuracies and intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

from mentor_edge.evaluation.document import (
    Grid,
    markdown_table,
    markdown_text,
    new_figure,
    save_figure,
    without_formulas,
    write_lines,
)
from mentor_edge.evaluation.evaluate import Evaluation
from mentor_edge.evaluation.summary import Summary, by_domain, by_split
from mentor_edge.evaluation.unread_calls import unread_calls
from mentor_edge.messages import Ending, Limit
from mentor_edge.readable import duration

_NOTES = (
    "Intervals are Wilson's, at 95 %. Right: the skill, with calls in any spelling that can be read. Format: right, "
    "with every call in the spelling of the model's own chat template. Malformed: ended with an unreadable tool call, "
    "which is never right.",
    "Cut off: a limit ended the conversation, which is never right. Unknown: called a tool that was not offered.",
    "Calls, turns and tokens are means per task. Time: percentiles (50 / 90 / 99) from the start of a task's batch to "
    "its end.",
)


def write_evaluation_report(path: Path, evaluation: Evaluation, title: str, notes: Sequence[str] = ()) -> list[Path]:
    """Write the figures as Markdown, with `notes` below them, and a picture next to the file. Returns both paths.

    Raises: OutputError.
    """
    picture = path.with_suffix(".png")
    _draw(picture, evaluation)
    limits = evaluation.limits
    facts = {
        "suite": f"{evaluation.suite} {evaluation.version}, {len(evaluation.outcomes)} tasks",
        "suite's hash": evaluation.sha256,
        "model": evaluation.identity,
        "threads": "unknown" if evaluation.threads is None else str(evaluation.threads),
        "limits": "none"
        if limits is None
        else ", ".join(f"{name} {value:,}" for name, value in asdict(limits).items()),
    }
    lines = [
        f"# {markdown_text(f'{evaluation.suite}: {title}')}",
        "",
        *(line for warning in first_lines(evaluation) for line in (f"**Warning: {markdown_text(warning)}**", "")),
        *(f"- {name}: {markdown_text(value)}" for name, value in facts.items()),
        "",
        *markdown_table(figures_grid(evaluation)),
        "",
        f"![accuracy with 95 % intervals]({quote(picture.name)})",
        "",
        *(f"- {markdown_text(statement)}" for statement in (*statements(evaluation), *notes, *_NOTES)),
        "",
    ]
    write_lines(path, lines)
    return [path, picture]


def _groups(evaluation: Evaluation) -> Iterator[tuple[str, Summary]]:
    """Every domain of every split, then the whole split if it has several domains."""
    for split, total in by_split(evaluation.outcomes).items():
        domains = by_domain(outcome for outcome in evaluation.outcomes if outcome.split == split)
        for domain, figures in domains.items():
            yield f"{split}: {domain}", figures
        if len(domains) > 1:
            yield f"{split}: all", total


def figures_grid(evaluation: Evaluation) -> Grid:
    """The figures of every domain and split. No row pools several splits."""
    groups = list(_groups(evaluation))
    metrics = list(dict.fromkeys(name for _, figures in groups for name in figures.metrics))
    formats = any(figures.in_format is not None for _, figures in groups)
    header = [
        "split: domain",
        "n",
        "right %",
        "95 % interval",
        *(["format %"] if formats else []),
        "malformed %",
        "cut off %",
        "unknown %",
        *(f"{m} %" for m in metrics),
        "calls",
        "turns",
        "tokens",
        "time",
    ]
    return Grid(header, [_row(label, figures, metrics, formats) for label, figures in groups])


def _row(label: str, figures: Summary, metrics: list[str], formats: bool) -> list[str]:
    seconds = figures.seconds
    return [
        label,
        str(figures.n),
        _percent(figures.accuracy),
        f"{_percent(figures.low)} to {_percent(figures.high)}",
        *(["-" if figures.format_rate is None else _percent(figures.format_rate)] if formats else []),
        _percent(figures.malformed_rate),
        _percent(figures.cut_off_rate),
        _percent(figures.unknown_tool_rate),
        *(_percent(figures.metrics[name]) if name in figures.metrics else "-" for name in metrics),
        f"{figures.calls:.2f}",
        f"{figures.turns:.2f}",
        "-" if figures.tokens is None else f"{figures.tokens:,.0f}",
        "-" if seconds is None else " / ".join(duration(value) for value in seconds.values()),
    ]


def first_lines(evaluation: Evaluation) -> list[str]:
    """What a reader must know before the figures: they come first in every report."""
    unread = unread_calls(evaluation.outcomes)
    severe = [cut.statement for cut in evaluation.cut_offs() if cut.severe]
    return [*([unread] if unread else []), *evaluation.warnings, *severe]


def statements(evaluation: Evaluation) -> Iterator[str]:
    """How trajectories ended and how many predictions are missing, per split, and what few conversations were cut off
    by."""
    for split, figures in by_split(evaluation.outcomes).items():
        parts = list(_endings(figures))
        if figures.missing:
            parts.append(f"{figures.missing} without a prediction, counted as wrong")
        yield f"{split}: {', '.join(parts)}"
    yield from (cut.statement for cut in evaluation.cut_offs() if not cut.severe)


def _endings(figures: Summary) -> Iterator[str]:
    for ending, count in figures.endings.items():
        if ending == Ending.OUT_OF_TURNS:
            out_of_turns = figures.cut_by.get(Limit.ROUNDS, 0)
            if count > out_of_turns:  # calls were all that was wanted
                yield f"{count - out_of_turns} ended with calls"
            count = out_of_turns
        if count:
            yield f"{count} {ending.replace('_', ' ')}"


def _percent(proportion: float) -> str:
    return f"{100 * proportion:.1f}"


def _draw(path: Path, evaluation: Evaluation) -> None:
    groups = list(_groups(evaluation))
    figure = new_figure(height=1.2 + 0.3 * len(groups))
    axes = figure.subplots()
    for row, (label, figures) in enumerate(groups):
        colour = "black" if label.endswith(": all") else "tab:blue"
        axes.plot([100 * figures.low, 100 * figures.high], [row, row], color=colour, linewidth=3)
        axes.plot(100 * figures.accuracy, row, "o", color=colour)
    axes.set_yticks(range(len(groups)), [without_formulas(f"{label} ({figures.n})") for label, figures in groups])
    axes.set(xlabel="right answers, % (95 % interval)", xlim=(-2, 102))
    axes.invert_yaxis()
    save_figure(path, figure)
