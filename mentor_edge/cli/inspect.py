"""`mentor-edge inspect`: what a student can do, before anything is spent on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mentor_edge.cli.options import Json, TemplateArguments, TemplateName
from mentor_edge.cli.screen import console, print_json

if TYPE_CHECKING:
    from mentor_edge.inspection.student_report import FormatSupport, StudentReport, Use
    from mentor_edge.inspection.template_report import Finding, TemplateReport

_Parts = list[str | tuple[str, str]]
_LONGEST = 2_000
"""Characters of one fact."""
_GOOD, _BAD = ("✓", "green"), ("✗", "red")
_MARKS: dict[str, _Parts] = {"reaches": [_GOOD], "dropped": [_BAD, " dropped"], "raises": [_BAD, " refused"]}
_ABILITIES: dict[str, _Parts] = {
    "yes": [_GOOD, (" yes", "green")],
    "with a warning": [("! with a warning", "yellow")],
    "no": [_BAD, (" no", "red")],
}


def inspect(
    target: Annotated[
        str, typer.Argument(help="A Hugging Face directory or hub id, a run, a GGUF file or an ONNX directory.")
    ],
    template: TemplateName = None,
    template_arguments: TemplateArguments = None,
    as_json: Json = False,
) -> None:
    """Show what reaches a student, and whether it can be trained, evaluated and exported. No weights are loaded.

    Exit code 1: `fit` or `export` would refuse it.
    """
    from mentor_edge.chat.setting import parse_arguments
    from mentor_edge.preflight import inspect_student

    arguments = parse_arguments(template_arguments or [])
    report = inspect_student(target, template=template, template_arguments=arguments)
    console.print(Text.assemble((report.target, "bold"), f"  {report.kind}"), soft_wrap=True)
    _print_facts(report)
    if report.template is not None:
        _print_template(report.template)
    options = f" --template {template}" if template else ""
    options += "".join(f" --template-argument {each}" for each in template_arguments or [])
    _print_uses(report, options)
    if as_json:
        print_json(report.to_json())
    if not report.usable:
        raise typer.Exit(1)


def _grid(title: str) -> Table:
    table = Table(show_header=False, title=Text(title, "bold"), title_justify="left", box=box.SIMPLE, padding=(0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _print_facts(report: StudentReport) -> None:
    table = _grid("")
    for name, value in _facts(report):
        table.add_row(name, _short(value))
    for each in report.formats:
        table.add_row(each.format.upper(), _support(each))
    console.print(table)


def _facts(report: StudentReport) -> Iterator[tuple[str, str]]:
    if report.directory != report.target:
        yield "read from", report.directory
    yield "architecture", report.architecture or "unknown"
    yield "weights", _weights(report)
    yield "context", "unknown" if report.context_length is None else f"{report.context_length:,} tokens"
    yield "vocabulary", "unknown" if report.vocabulary is None else f"{report.vocabulary:,} tokens"
    yield "end tokens", ", ".join(f"{token.text} ({token.id})" for token in report.end_tokens) or "none"
    if report.own_head is not None:
        yield "output head", "its own" if report.own_head else "the embedding (tied)"
    yield "chat template", _template_line(report)


def _weights(report: StudentReport) -> str:
    if not report.bytes:
        return "none found"
    parts = [] if report.parameters is None else [f"{report.parameters / 1e6:,.1f} million"]
    kinds = list(report.dtypes)
    if kinds:
        parts.append(", ".join(kinds[:4]) + (f" and {len(kinds) - 4} more types" if len(kinds) > 4 else ""))
    return ", ".join([*parts, f"{report.bytes / 1e6:,.0f} MB"])


def _template_line(report: StudentReport) -> str:
    if report.template is None:
        return "none"
    others = [name for name in report.templates if name != report.template_name]
    more = f" (also there: {', '.join(others)})" if others else ""
    return f"{report.template_name}, sha256 {report.template.sha256[:12]}{more}"


def _support(each: FormatSupport) -> Text:
    return Text.assemble(_GOOD if each.supported else _BAD, f" {_short(each.detail)}")


def _print_template(template: TemplateReport) -> None:
    findings: dict[str, Finding] = {
        "system message": template.system,
        "offered tools": template.tools,
        "their parameters": template.parameters,
        "a call": template.call,
        "two calls in one turn": template.two_calls,
        "text before a call": template.text_with_call,
        "a tool result": template.result,
        "two tool results": template.two_results,
        "an answer": template.answer,
    }
    table = _grid("what reaches the model")
    for name, finding in findings.items():
        detail = f": {finding.detail}" if finding.outcome == "raises" else ""
        table.add_row(name, Text.assemble(*_MARKS[finding.outcome], detail))
    table.add_row("thinking", _thinking(template))
    if template.spelling:
        unread = [name for name, entry in template.read_back.items() if not entry.equal]
        mark, read = (_BAD, f" not {', '.join(unread)}") if unread else (_GOOD, " with every kind of arguments")
        table.add_row("the parser reads its calls", Text.assemble(mark, read))
    console.print(table)
    if template.spelling:
        console.print(Text("  how it writes a call", "bold"))
        console.print(Padding(Text(_short(template.spelling), style="cyan"), (0, 4), expand=False))


def _thinking(template: TemplateReport) -> str:
    parts = ["enable_thinking changes the prompt" if template.thinking_switch else "no switch"]
    if template.opens_thinking:
        parts.append("the prompt opens a thinking block")
    return ", ".join(parts)


def _print_uses(report: StudentReport, options: str) -> None:
    table = _grid("what you can do")
    uses = {"train": report.train, "evaluate, run": report.evaluate, "export": report.export}
    for name, use in uses.items():
        table.add_row(name, _use(use))
    console.print(table)
    for note in (*report.notes, *(report.template.notes if report.template is not None else ())):
        console.print(f"  - {_short(note)}", soft_wrap=True)
    console.print(f"  next: {_next(report, options)}", soft_wrap=True)


def _use(use: Use) -> Text:
    reason = f": {_short(use.reason)}" if use.reason else ""
    hint: _Parts = ["\n", ("→", "bold"), f" {_short(use.hint)}"] if use.hint else []
    return Text.assemble(*_ABILITIES[use.ability], reason, *hint)


def _short(text: str) -> str:
    """A text of the model as far as it is worth reading: rich wraps a megabyte in ten seconds."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _next(report: StudentReport, options: str) -> str:
    """The command to run next; `options` choose the template that was inspected."""
    if report.evaluate.ability != "yes":
        return report.evaluate.hint or "copy or download the model again"
    if report.kind == "run":
        return f"mentor-edge export {report.target}"
    return f"mentor-edge evaluate {report.target}{options}"
