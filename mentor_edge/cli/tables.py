"""The tables that commands print. Their content comes from the layers below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from mentor_edge.cli.screen import console, print_warning
from mentor_edge.evaluation.document import Grid, Strong, message_text
from mentor_edge.messages import Message
from mentor_edge.readable import counted, duration, harmless
from mentor_edge.results import QuantizedParity, Survival

if TYPE_CHECKING:
    from mentor_edge.evaluation.evaluate import Evaluation
    from mentor_edge.export import Artifact
    from mentor_edge.manifest import ManifestEntry
    from mentor_edge.quickstart.summary import QuickstartSummary
    from mentor_edge.recipes.comparison.comparison import Comparison

_WIDEST = 200
"""Characters of a table's lines on a pipe."""
_VERDICT_STYLE = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


def print_grid(grid: Grid, title: str, *, unwrapped: Sequence[str] = (), verdict: str | None = None) -> None:
    """Print a table. Columns in `unwrapped` stay on one line; the column `verdict` colours its rows."""
    table = Table(title=title, title_justify="left")
    for name in grid.header:
        table.add_column(name, no_wrap=name in unwrapped)
    for row in grid.rows:
        cells = (Text(harmless(cell), "bold" if isinstance(cell, Strong) else "") for cell in row)
        table.add_row(*cells, style=None if verdict is None else _VERDICT_STYLE[row[grid.header.index(verdict)]])
    if not console.is_terminal:  # a pipe has no width
        table.width = console.measure(table, options=console.options.update(width=_WIDEST)).maximum
    console.print(table, crop=False)


def print_evaluation(evaluation: Evaluation, title: str) -> None:
    """What a reader must know first, the figures of every domain and split, and how trajectories ended."""
    from mentor_edge.evaluation.report import figures_grid, first_lines, statements

    known = first_lines(evaluation)
    for warning in known:
        print_warning(warning)
    title = f"{evaluation.suite} {evaluation.version}: {title}"
    print_grid(figures_grid(evaluation), f"{title} (see the warning)" if known else title, unwrapped=("time",))
    for statement in (*statements(evaluation), f"suite's sha256: {evaluation.sha256}"):
        console.print(statement)
    if evaluation.threads is not None:
        context = f", context {evaluation.context_length:,} tokens" if evaluation.context_length is not None else ""
        console.print(f"{counted(evaluation.threads, 'thread')}{context}")


def print_comparison(comparison: Comparison) -> None:
    """Tables of accuracies, paired differences and costs, and what they do not show."""
    from mentor_edge.recipes.comparison.text import (
        MAIN_DOMAINS,
        accuracy_grid,
        cost_grid,
        difference_grid,
        limits,
        noise_title,
    )

    columns = [domain for domain in MAIN_DOMAINS if domain in comparison.scopes]
    for noise in comparison.teacher_noise:
        title = noise_title(noise)
        print_grid(accuracy_grid(comparison, noise, columns), f"{title}; accuracy, % [interval]")
        grid = difference_grid(comparison, noise, columns)
        if grid.rows:
            print_grid(grid, f"{title}; paired differences, points [interval]; bold: excludes zero")
    print_grid(cost_grid(comparison), "costs, means over runs")
    for statement in limits(comparison):
        console.print(f"- {statement}")


def print_quickstart(summary: QuickstartSummary, out: Path) -> None:
    """The quickstart's tables."""
    from mentor_edge.export.gate_grid import gate_grid
    from mentor_edge.quickstart.report import accuracy_grid, lift_sentences

    print_grid(accuracy_grid(summary), "accuracy, % (greedy, torch)")
    for sentence in (*lift_sentences(summary), summary.overlap):
        console.print(sentence)
    title = "gate: merged torch model against the file in llama.cpp"
    print_grid(gate_grid(summary.artifacts), title, verdict="gate")
    conversation = summary.conversation
    console.print(Text.assemble("\n", (conversation.file, "bold"), f" answers (expected: {conversation.expected})"))
    print_conversation(conversation.question, [Message.from_openai(row) for row in conversation.messages])
    stages = ", ".join(f"{name} {duration(seconds)}" for name, seconds in summary.seconds.items())
    console.print(f"\ntime: {stages}\nwritten: {out / 'report.md'}, {out / 'summary.json'}")


def print_conversation(question: str, messages: Sequence[Message]) -> None:
    """A conversation, one line per message."""
    for message in (Message("user", question), *messages):
        console.print(Text.assemble("  ", (f"{message.role:>9}", "dim"), f"  {harmless(message_text(message))}"))


def print_gate(artifact: Artifact) -> None:
    """The gate's table for an exported artifact, and the facts behind each verdict."""
    from mentor_edge.export.gate_grid import gate_grid

    manifest = artifact.manifest
    for entry in manifest.entries:
        for warning in entry.gate.cut_off_warnings:
            print_warning(f"{entry.format} {entry.quant}, {warning}" if warning.startswith("exported") else warning)
    print_grid(gate_grid(artifact.summary()), f"gate on {manifest.suite.name}", verdict="gate")
    if (choice := manifest.source.choice) is not None:
        solved = ", ".join(f"{base} {correct}" for base, correct in choice.correct.items())
        console.print(f"merged onto the {choice.base} base (right answers out of {choice.n}: {solved})")
    for format, parity in manifest.parity.items():
        console.print(
            f"{format}: the conversion changes logits by {parity.max_difference:.1e} at most, in {parity.positions} "
            f"positions; template and {parity.text.token_cases} token cases are equal",
        )
    for entry in manifest.entries:
        console.print(f"{entry.format} {entry.quant}: {'; '.join(_facts(entry))}", soft_wrap=True)
    console.print(f"written: {artifact.directory} (its run.md lists the commands to run it)")


def _noise(survival: Survival) -> str:
    """How large the rounding of the weights is beside the fine-tune's change of them."""
    times = survival.noise
    if times is None:
        return ""
    return f", {'but' if times > 1 else 'with'} rounding noise {times:.2g} times as large as the fine-tune"


def _facts(entry: ManifestEntry) -> Iterator[str]:
    """The main facts of a model's manifest entry."""
    yield entry.gate.explanation
    yield f"malformed {entry.gate.malformed.exported} (source {entry.gate.malformed.source})"
    if entry.gate.cut_off is not None:
        yield f"cut off {entry.gate.cut_off.exported} (source {entry.gate.cut_off.source})"
    if isinstance(entry.parity, QuantizedParity):
        yield f"divergence {entry.parity.kl_mean:.2g} nats, same top-1 {entry.parity.top1_agreement:.1%}"
    if entry.survival is not None and entry.survival.projection is not None:
        yield f"{entry.survival.projection:.0%} of the fine-tune left on average{_noise(entry.survival)}"
    if entry.quantization.format == "gguf":
        yield "tensors " + ", ".join(f"{count} {kind}" for kind, count in entry.quantization.types.items())
        if entry.quantization.note is not None:
            yield entry.quantization.note
