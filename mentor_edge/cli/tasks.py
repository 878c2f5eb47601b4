"""`mentor-edge tasks`: check a tasks file before training on it, and find evaluation tasks among training tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mentor_edge.cli.options import Json, Tools
from mentor_edge.cli.screen import StageProgress, console, print_json

if TYPE_CHECKING:
    from mentor_edge.tasks.contamination import ContaminationReport
    from mentor_edge.teacher.validation import ReferenceFailure

app = typer.Typer(no_args_is_help=True, help="Check tasks files, and find evaluation tasks among training tasks.")

_SHOWN = 20


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(help="A JSONL file of tasks (see docs/tasks.md).")],
    tools: Tools = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Check only the first N tasks.")] = None,
    as_json: Json = False,
) -> None:
    """Execute every reference. Exit with 1 if one does not score full, or a task has none."""
    from mentor_edge.teacher.validation import validate_file
    from mentor_edge.tools.catalog import load_tools
    from mentor_edge.tools.execution.executor import ToolExecutor

    with load_tools(tools or []) as loaded, ToolExecutor() as executor, StageProgress() as progress:
        result = validate_file(file, loaded.by_name, executor, limit=limit, progress=progress)
    _print_failures(result.failures)
    counts = f"{result.tasks} tasks, {result.references} references, {len(result.failures)} failures"
    console.print(f"{file}: {counts}")
    if as_json:
        print_json(result.to_json())
    if result.failures:
        raise typer.Exit(1)


@app.command()
def overlap(
    training: Annotated[
        str,
        typer.Argument(
            help="Training tasks: a JSONL file, nano-train, calculator-train, or a suite as NAME or NAME:DATA."
        ),
    ],
    evaluation: Annotated[str, typer.Argument(help="Evaluation tasks, named in the same way.")],
    tools: Tools = None,
    as_json: Json = False,
) -> None:
    """Report evaluation tasks that are among the training tasks: equal prompts, and shared 8-grams."""
    from mentor_edge.tasks.contamination import contamination
    from mentor_edge.tasks.registry import load_tasks
    from mentor_edge.tools.catalog import load_tools

    with load_tools(tools or []) as loaded:
        suites = [load_tasks(spec, loaded.by_name) for spec in (training, evaluation)]
    report = contamination(suites[0].tasks, suites[1].tasks)
    print_contamination(report)
    if as_json:
        print_json({"training_suite": suites[0].sha256, "evaluation_suite": suites[1].sha256, **report.to_json()})


def print_contamination(report: ContaminationReport) -> None:
    """Print a table of domains, and the worst pairs."""
    title = f"evaluation tasks found among {report.training} training tasks"
    table = Table("domain", "n", "equal", f"shared from {report.threshold:g}", "mean share", title=title)
    for domain, counts in report.by_domain.items():
        cells = map(str, (counts.n, counts.exact, counts.overlapping))
        table.add_row(domain, *cells, f"{counts.mean_share:.3f}")
    console.print(table)
    for pair in report.overlaps[:_SHOWN]:
        relation = "equal to" if pair.exact else f"{pair.share:.2f} of its {report.n}-grams in"
        console.print(f"  {pair.evaluation_id}: {relation} {pair.training_id}")
    if len(report.overlaps) > _SHOWN:
        console.print(f"  and {len(report.overlaps) - _SHOWN} more")


def _print_failures(failures: Sequence[ReferenceFailure]) -> None:
    if not failures:
        return
    table = Table("line", "task", "reference", "reason")
    for row in failures[:_SHOWN]:
        table.add_row(str(row.line), row.id, str(row.reference or "-"), row.reason)
    console.print(table)
    if len(failures) > _SHOWN:
        console.print(f"and {len(failures) - _SHOWN} more (--json lists all)")
