"""The pictures of a comparison: accuracies, paired differences, learning curves."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mentor_edge.evaluation.document import new_figure, save_figure, without_formulas

from .cell import BASE
from .comparison import Comparison
from .text import noise_title, of_noise

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_pictures(comparison: Comparison, directory: Path) -> list[Path]:
    """Save accuracy.png, differences.png and curves.png in `directory`, leaving out those without data.

    Raises: OutputError when a picture cannot be written.
    """
    drawings: dict[str, tuple[bool, Callable[[Comparison], Figure]]] = {
        "accuracy": (bool(comparison.accuracy), _draw_accuracy),
        "differences": (bool(comparison.differences), _draw_differences),
        "curves": (bool(comparison.curves), _draw_curves),
    }
    paths = []
    for name, (has_data, draw) in drawings.items():
        path = directory / f"{name}.png"
        if has_data:
            save_figure(path, draw(comparison))
            paths.append(path)
    return paths


def _colours(comparison: Comparison) -> dict[str, str]:
    """A colour for every method, the same in all pictures; grey for the untrained base."""
    trained = [method for method in comparison.methods if method != BASE]
    return {BASE: "grey"} | {method: f"C{i % 10}" for i, method in enumerate(trained)}


def _draw_accuracy(comparison: Comparison) -> Figure:
    noises, columns, colours = comparison.teacher_noise, comparison.scopes, _colours(comparison)
    figure = new_figure(9, 0.4 + 2.8 * len(noises))
    panels = figure.subplots(len(noises), 1, squeeze=False, sharex=True)[:, 0]
    methods = comparison.methods
    for axes, noise in zip(panels, noises, strict=True):
        rows = of_noise(comparison.accuracy, noise)
        for i, method in enumerate(methods):
            of_method = [row for row in rows if row.method == method]
            positions = [columns.index(row.domain) + 0.7 * ((i + 0.5) / len(methods) - 0.5) for row in of_method]
            centers = [100 * row.estimate for row in of_method]
            # By rounding, a bound can be on the wrong side of the estimate; error bars must not have negative lengths.
            below = [max(0.0, 100 * (row.estimate - row.low)) for row in of_method]
            above = [max(0.0, 100 * (row.high - row.estimate)) for row in of_method]
            axes.errorbar(
                positions,
                centers,
                yerr=[below, above],
                fmt="o",
                markersize=3,
                linewidth=1.2,
                color=colours[method],
                label=without_formulas(method),
            )
        axes.set(title=without_formulas(noise_title(noise)), ylabel="accuracy, %", ylim=(-3, 103))
        axes.set_xticks(range(len(columns)), [without_formulas(column) for column in columns])
        axes.grid(axis="y", linewidth=0.4)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False)
    return figure


def _draw_differences(comparison: Comparison) -> Figure:
    """A forest plot of the pairs on core: first those against the base, then the focus method's, then the rest."""
    noises = comparison.teacher_noise
    core = [row for row in comparison.differences if row.domain == "core"]
    pairs = list(dict.fromkeys((row.method, row.against) for row in core))
    labels = [without_formulas(f"{method} - {against}") for method, against in pairs]
    figure = new_figure(2.5 + 3.2 * len(noises), 1.2 + 0.24 * len(pairs))
    panels = figure.subplots(1, len(noises), squeeze=False, sharex=True, sharey=True)[0]
    for axes, noise in zip(panels, noises, strict=True):
        for row in of_noise(core, noise):
            height = pairs.index((row.method, row.against))
            colour = "grey" if not row.excludes_zero else "tab:green" if row.estimate > 0 else "tab:red"
            axes.plot([100 * row.low, 100 * row.high], [height, height], color=colour, linewidth=2.5)
            axes.plot(100 * row.estimate, height, "o", color=colour, markersize=4)
        axes.axvline(0, color="black", linewidth=0.8)
        for index, ((_, upper), (_, lower)) in enumerate(itertools.pairwise(pairs)):
            if (upper == BASE) != (lower == BASE):
                axes.axhline(index + 0.5, color="lightgrey", linewidth=0.8)
        axes.set(title=without_formulas(noise_title(noise)), xlabel="points on core")
        axes.set_yticks(range(len(pairs)), labels)
        axes.grid(axis="x", linewidth=0.4)
    panels[0].invert_yaxis()
    return figure


def _draw_curves(comparison: Comparison) -> Figure:
    noises, bases, colours = comparison.teacher_noise, comparison.bases, _colours(comparison)
    figure = new_figure(1 + 4 * len(bases), 0.5 + 2.6 * len(noises))
    panels = figure.subplots(len(noises), len(bases), squeeze=False, sharex=True, sharey=True)
    lines: dict[str, Any] = {}
    for panel_row, noise in zip(panels, noises, strict=True):
        for axes, base in zip(panel_row, bases, strict=True):
            for row in comparison.curves:
                if row.base != base or row.teacher_noise not in (None, noise):
                    continue
                mean, low, high = ([100 * value for value in values] for values in (row.mean, row.low, row.high))
                colour = colours[row.method]
                (line,) = axes.plot(row.steps, mean, color=colour, linewidth=1.3, marker=".", markersize=3)
                axes.fill_between(row.steps, low, high, color=colour, alpha=0.15, linewidth=0)
                lines.setdefault(row.method, line)
            axes.set_title(without_formulas(f"{base}. {noise_title(noise)}"), fontsize=9)
            axes.grid(linewidth=0.4)
        panel_row[0].set_ylabel("validation, %")
    for axes in panels[-1]:
        axes.set_xlabel("step")
    figure.legend(
        lines.values(),
        map(without_formulas, lines),
        loc="outside lower center",
        ncols=min(len(lines), 6),
        frameon=False,
    )
    return figure
