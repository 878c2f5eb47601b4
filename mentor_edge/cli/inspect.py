"""`mentor-edge inspect`: what a student can do, before anything is spent on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from mentor_edge.cli.options import Json
from mentor_edge.cli.screen import console, print_json

if TYPE_CHECKING:
    from mentor_edge.inspection.student_report import StudentReport, Use
    from mentor_edge.inspection.template_report import Finding, TemplateReport

_MARKS = {"reaches": "[green]✓[/green]", "dropped": "[red]✗ dropped[/red]", "raises": "[yellow]✗ refused[/yellow]"}
_ABILITIES = {"yes": "[green]yes[/green]", "with a warning": "[yellow]with a warning[/yellow]", "no": "[red]no[/red]"}


def inspect(
    target: Annotated[
        str, typer.Argument(help="A Hugging Face directory or hub id, a run, a GGUF file or an ONNX directory.")
    ],
    template: Annotated[
        str | None, typer.Option(help="Another chat template: hermes, neutral or a file. Default: the student's own.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what reaches a student, and whether it can be trained, evaluated and exported. No weights are loaded.

    Exit code 1: `fit` or `export` would refuse it.
    """
    from mentor_edge.preflight import inspect_student

    report = inspect_student(target, template=template)
    _print_facts(report)
    if report.template is not None:
        _print_template(report.template)
    _print_uses(report)
    if as_json:
        print_json(report.to_json())
    if not report.usable:
        raise typer.Exit(1)


def _print_facts(report: StudentReport) -> None:
    table = Table(show_header=False, title=f"[bold]{escape(report.target)}[/bold]: {report.kind}", title_justify="left")
    rows = {
        "read from": report.directory if report.directory != report.target else "",
        "architecture": report.architecture or "unknown",
        "weights": _weights(report),
        "context": "unknown" if report.context_length is None else f"{report.context_length:,} tokens",
        "vocabulary": "unknown" if report.vocabulary is None else f"{report.vocabulary:,} tokens",
        "end of turn": ", ".join(f"{token.text} ({token.id})" for token in report.end_tokens) or "none",
        "output head": _head(report),
        "chat template": _template_line(report),
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, escape(value))
    for each in report.formats:
        mark = "[green]✓[/green]" if each.supported else "[red]✗[/red]"
        table.add_row(each.format.upper(), f"{mark} {escape(each.detail)}")
    console.print(table)


def _weights(report: StudentReport) -> str:
    if not report.bytes:
        return "none found"
    parts = [] if report.parameters is None else [f"{report.parameters / 1e6:,.1f} million"]
    kinds = list(report.dtypes)
    if kinds:
        parts.append(", ".join(kinds[:4]) + (f" and {len(kinds) - 4} more types" if len(kinds) > 4 else ""))
    return ", ".join([*parts, f"{report.bytes / 1e6:,.0f} MB"])


def _head(report: StudentReport) -> str:
    if report.own_head is None:
        return ""
    return "its own" if report.own_head else "the embedding"


def _template_line(report: StudentReport) -> str:
    if report.template is None:
        return "none"
    others = [name for name in report.templates if name != report.template_name]
    more = f" (there are also: {', '.join(others)})" if others else ""
    return f"{report.template_name}, sha256 {report.template.sha256[:12]}{more}"


def _print_template(template: TemplateReport) -> None:
    rows: dict[str, Finding] = {
        "system message": template.system,
        "offered tools": template.tools,
        "their parameters": template.parameters,
        "a call": template.call,
        "two calls in one turn": template.two_calls,
        "text before a call": template.text_with_call,
        "a tool result": template.result,
        "two tool results": template.two_results,
    }
    table = Table(title="what reaches the model", title_justify="left")
    table.add_column("the conversation has")
    table.add_column("the model reads it")
    for name, finding in rows.items():
        detail = f" [dim]{escape(finding.detail)}[/dim]" if finding.outcome == "raises" else ""
        table.add_row(name, _MARKS[finding.outcome] + detail)
    if template.read_back:
        unread = [name for name, entry in template.read_back.items() if not entry.equal]
        mark = f"[red]✗[/red] not: {', '.join(unread)}" if unread else "[green]✓[/green]"
        table.add_row("calls, read back by the parser", mark)
    console.print(table)
    if template.spelling:
        console.print("[bold]a call is written[/bold]")
        console.print(template.spelling, markup=False, style="cyan", soft_wrap=True)


def _print_uses(report: StudentReport) -> None:
    table = Table(show_header=False, title="what you can do", title_justify="left")
    for name, use in (("train", report.train), ("evaluate, run", report.evaluate), ("export", report.export)):
        table.add_row(name, _use(use))
    console.print(table)
    for note in (*report.notes, *(report.template.notes if report.template is not None else ())):
        console.print(f"- {note}", markup=False, soft_wrap=True)
    console.print(f"next: {_next(report)}", markup=False, soft_wrap=True)


def _use(use: Use) -> str:
    text = _ABILITIES[use.ability] + (f": {escape(use.reason)}" if use.reason else "")
    return f"{text}\n[bold]→[/bold] {escape(use.way_out)}" if use.way_out else text


def _next(report: StudentReport) -> str:
    if report.evaluate.ability != "yes":
        return report.evaluate.way_out or "copy or download the model again"
    if report.kind == "run":
        return f"mentor-edge export {report.target}"
    return f"mentor-edge evaluate {report.target}"
