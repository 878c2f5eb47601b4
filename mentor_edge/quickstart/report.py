"""The quickstart's report.md with its two pictures, made from the summary alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mentor_edge.evaluation.document import (
    Grid,
    markdown_block,
    markdown_table,
    markdown_text,
    message_text,
    new_figure,
    save_figure,
    write_lines,
)
from mentor_edge.evaluation.summary import Counts
from mentor_edge.messages import Message
from mentor_edge.quickstart.summary import QuickstartSummary, TrainingStep
from mentor_edge.results import ModelSummary


def accuracy_grid(summary: QuickstartSummary) -> Grid:
    """Accuracy in percent: a row for each domain, a column for each model."""
    models = list(summary.accuracy.values())
    by_domain = {"id": [model.id for model in models]}
    by_domain |= {domain: [model.ood[domain] for model in models] for domain in models[0].ood}
    rows = [[domain, str(counts[0].n), *map(_percent, counts)] for domain, counts in by_domain.items()]
    return Grid(["domain", "n", *summary.accuracy], rows)


def lift_sentences(summary: QuickstartSummary) -> list[str]:
    """What each kind of training changed, with its interval."""
    sentences = []
    for name, lift in summary.lift.items():
        low, high = lift.ci
        sentences.append(
            f"{name} - base on {'+'.join(lift.domains)}: {100 * lift.delta:+.2f} points, "
            f"95 % interval [{100 * low:+.2f}, {100 * high:+.2f}], n {lift.n}"
        )
    return sentences


def _percent(counts: Counts) -> str:
    return f"{100 * counts.correct / counts.n:.1f}" if counts.n else "-"


def write_report(out: Path, summary: QuickstartSummary) -> None:
    """Write report.md and its two pictures to the directory `out`.

    Raises: OutputError.
    """
    from mentor_edge.export.gate_grid import gate_grid

    _draw_training(out / "training.png", summary.training.mentor)
    _draw_gate(out / "gate.png", summary.artifacts)
    student, traces, suite, conversation = summary.student, summary.traces, summary.suite, summary.conversation
    messages = map(Message.from_openai, conversation.messages)
    seconds = Grid(["stage", "s"], [[name, f"{value:.1f}"] for name, value in summary.seconds.items()])
    lines = [
        "# Quickstart report",
        "",
        f"Student: nano, {student.parameters:,} parameters, seed {summary.seed}. "
        f"Teacher: programmatic, noise {traces.noise}, {traces.n} traces, {traces.calls_per_trace} calls each. "
        f"Suite: {suite.name} {suite.version}, sha256 {suite.sha256}.",
        "",
        "## Accuracy, % (greedy, merged model in torch)",
        "",
        *markdown_table(accuracy_grid(summary)),
        "",
        *(f"- {sentence}" for sentence in lift_sentences(summary)),
        f"- {summary.overlap}",
        "",
        "![reward and accuracy of the MENTOR rollouts](training.png)",
        "",
        "## Gate",
        "",
        "Merged torch model against the file in llama.cpp, item by item; a file's verdict is the worst of its splits. "
        "Controls show what the gate can see and are never shipped.",
        "",
        *markdown_table(gate_grid(summary.artifacts)),
        "",
        "![gate intervals](gate.png)",
        "",
        f"## One conversation with {conversation.file}",
        "",
        f"Tools offered: {markdown_text(', '.join(conversation.tools))}. "
        f"Expected answer: {markdown_text(conversation.expected)}.",
        "",
        *markdown_block(
            [f"user: {conversation.question}", *(f"{message.role}: {message_text(message)}" for message in messages)]
        ),
        "",
        "## Seconds",
        "",
        *markdown_table(seconds),
        "",
    ]
    write_lines(out / "report.md", lines)


def _draw_training(path: Path, log: Sequence[TrainingStep]) -> None:
    figure = new_figure()
    axes = figure.subplots()
    steps = [row.step for row in log]
    axes.plot(steps, [row.reward for row in log], label="reward (maximum 1.1)")
    axes.plot(steps, [row.accuracy for row in log], label="accuracy of sampled rollouts")
    axes.set(xlabel="step", ylim=(0, 1.15))
    axes.legend(loc="lower right", frameon=False)
    save_figure(path, figure)


def _draw_gate(path: Path, models: Sequence[ModelSummary]) -> None:
    from mentor_edge.export.gate import MARGIN

    figure = new_figure()
    axes = figure.subplots()
    colours = {"pass": "tab:green", "fail": "tab:red", "inconclusive": "tab:orange"}
    rows = [(f"{model.quant} {split}", result) for model in models for split, result in model.splits.items()]
    for row, (_, result) in enumerate(rows):
        colour = colours[result.verdict]
        axes.plot([100 * result.low, 100 * result.high], [row, row], color=colour, linewidth=3)
        axes.plot(100 * result.delta, row, "o", color=colour)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.axvline(-100 * MARGIN, color="grey", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set(xlabel="accuracy, points against the merged model (90 % interval; dashed: margin)")
    axes.invert_yaxis()
    save_figure(path, figure)
