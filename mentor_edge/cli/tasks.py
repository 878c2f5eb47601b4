"""`mentor-edge tasks`: check a tasks file before training on it, and look for evaluation tasks among training tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from mentor_edge.cli.options import Json, Tools
from mentor_edge.cli.screen import StageProgress, console, print_json
from mentor_edge.errors import TaskError

if TYPE_CHECKING:
    from mentor_edge.tasks.contamination import ContaminationReport
    from mentor_edge.tasks.types import Suite
    from mentor_edge.tools.types import Tool

app = typer.Typer(no_args_is_help=True, help="Check tasks files, and compare training with evaluation tasks.")

_SHOWN = 20
_TRAINING_TASKS = 1000
"""How many training tasks of a generated suite are compared: as many as recipes take by default."""


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(help="A JSONL file of tasks (docs/tasks.md).")],
    tools: Tools = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only this many tasks, from the start.")] = None,
    as_json: Json = False,
) -> None:
    """Execute every reference and require that it scores full (exit 1 when one does not, or a task has none)."""
    from mentor_edge.tasks import jsonl
    from mentor_edge.teacher.validation import validate_references
    from mentor_edge.tools.catalog import load_tools
    from mentor_edge.tools.execution.executor import ToolExecutor

    failures: list[dict[str, Any]] = []
    with load_tools(tools or []) as box, ToolExecutor() as executor, StageProgress() as progress:
        suite = jsonl.load(file, box.by_name)
        tasks = suite.tasks[:limit]
        lines = _lines(file)
        for done, task in enumerate(tasks, start=1):
            # One reference at a time: training drops the bad ones of a task, but a file should hold none.
            for number, reference in enumerate(task.references or (None,), start=1):
                alone = replace(task, reference=reference, other_references=())
                for rejected in validate_references([alone], executor)[1]:
                    which = number if task.references else None
                    failures.append(
                        {"line": lines[task.id], "id": task.id, "reference": which, "reason": rejected.reason}
                    )
            progress("executing references", done, len(tasks))
    references = sum(len(task.references) for task in tasks)
    _print_failures(failures)
    console.print(f"{file}: {len(tasks)} tasks, {references} references, {len(failures)} failures", markup=False)
    if as_json:
        print_json(
            {
                "file": str(file),
                "sha256": suite.sha256,
                "tasks": len(tasks),
                "references": references,
                "failures": failures,
            }
        )
    if failures:
        raise typer.Exit(1)


@app.command()
def overlap(
    training: Annotated[
        str, typer.Argument(help="A JSONL file, nano-train, calculator-train, or a suite as NAME or NAME:DATA.")
    ],
    evaluation: Annotated[str, typer.Argument(help="The same.")],
    tools: Tools = None,
    as_json: Json = False,
) -> None:
    """Report evaluation tasks that stand among the training tasks: equal prompts, and shared 8-grams."""
    from mentor_edge.tasks.contamination import contamination
    from mentor_edge.tools.catalog import load_tools

    with load_tools(tools or []) as box:
        suites = [_suite(named, box.by_name) for named in (training, evaluation)]
    report = contamination(suites[0].tasks, suites[1].tasks)
    print_contamination(report)
    if as_json:
        print_json({"training_suite": suites[0].sha256, "evaluation_suite": suites[1].sha256, **report.to_json()})


def print_contamination(report: ContaminationReport) -> None:
    """A table of domains, and the worst pairs."""
    title = f"evaluation tasks found among {report.training} training tasks"
    table = Table("domain", "n", "equal", f"shared from {report.threshold:g}", "mean share", title=title)
    for domain, counts in report.by_domain.items():
        shown = [f"{counts[key]:g}" for key in ("n", "exact", "overlapping")]
        table.add_row(escape(domain), *shown, f"{counts['mean_share']:.3f}")
    console.print(table)
    for found in report.overlaps[:_SHOWN]:
        share = "equal to" if found.exact else f"{found.share:.2f} of its {report.n}-grams in"
        console.print(f"  {found.evaluation_id}: {share} {found.training_id}", markup=False)
    if len(report.overlaps) > _SHOWN:
        console.print(f"  and {len(report.overlaps) - _SHOWN} more")


def _print_failures(failures: list[dict[str, Any]]) -> None:
    if not failures:
        return
    table = Table("line", "task", "reference", "reason")
    for row in failures[:_SHOWN]:
        table.add_row(str(row["line"]), escape(row["id"]), str(row["reference"] or "-"), escape(row["reason"]))
    console.print(table)
    if len(failures) > _SHOWN:
        console.print(f"and {len(failures) - _SHOWN} more (--json lists all)")


def _lines(file: Path) -> dict[str, int]:
    """The line of every task of a file that `load` has accepted."""
    with file.open("rb") as lines:
        return {json.loads(line)["id"]: number for number, line in enumerate(lines, start=1) if line.strip()}


def _suite(named: str, tools: Mapping[str, Tool]) -> Suite:
    from mentor_edge.tasks import calculator, jsonl
    from mentor_edge.tasks.nano import suites as nano
    from mentor_edge.tasks.registry import SUITES, load_suite

    training = {"nano-train": nano.training_suite, "calculator-train": calculator.training_suite}
    if named in training:
        return training[named](_TRAINING_TASKS)
    name, _, data = named.partition(":")
    if name not in SUITES:
        if not Path(named).exists():
            raise TaskError(
                f"there is no file and no suite {named!r}", f"known suites: {', '.join([*training, *SUITES])}"
            )
        return jsonl.load(named, tools)
    try:
        return load_suite(name, data or None)
    except TaskError as error:
        raise error if data else TaskError(error.problem, f"write {name}:PATH") from None
