"""Writes docs/students.md: what the chat templates of real models do with tools, measured by rendering them.

    python docs/generate_students.py [FOLDER ...]

docs/students_templates.json lists the templates: where each comes from, its end token, its SHA-256 and what was
measured. Templates that TRL ships are measured again whenever this runs (and compared by tests/docs/test_students.py);
the others if a FOLDER contains a file of their name. No template is part of this repository.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mentor_edge.chat import ChatTemplate
from mentor_edge.inspection.template import probe_template
from mentor_edge.inspection.template_report import TemplateReport

DOCS = Path(__file__).resolve().parent
PAGE, RECORD, TEXT = DOCS / "students.md", DOCS / "students_templates.json", DOCS / "students_text.md"
_TABLE = "<!-- table -->\n"
_REASONS = "<!-- reasons -->\n"
_MARKS = {"reaches": "✓", "dropped": "dropped", "raises": "refused"}


@dataclass(frozen=True)
class Row:
    """One template of the table."""

    model: str
    """The models that use it."""
    source: str
    """Where it comes from: "trl/FILE", or a package or repository and the path in it."""
    file: str
    """Its file's name."""
    eos: str
    """The end token of these models."""
    more_ends: tuple[str, ...]
    """Further tokens that end a turn."""
    chatml: bool
    """Whether these models have the tokens of the template "hermes"."""
    sha256: str
    """Hash of the template."""
    measured: dict[str, Any]
    """Its `TemplateReport`."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Row:
        """A row of the record."""
        return cls(**{**values, "more_ends": tuple(values["more_ends"])})

    @property
    def report(self) -> TemplateReport:
        """What was measured."""
        return TemplateReport.model_validate(self.measured)


def rows() -> list[Row]:
    """The rows of the record."""
    return [Row.from_json(values) for values in json.loads(RECORD.read_text(encoding="utf-8"))]


def source_of(row: Row, folders: Sequence[Path]) -> str | None:
    """The text of a row's template, if it is at hand: in this repository, from TRL's package, or in a folder."""
    if row.source.startswith("tests/"):
        folders = [DOCS.parent / "tests" / "helpers"]
    elif row.source.startswith("trl "):
        import trl

        folders = [Path(trl.__file__).parent / "chat_templates"]
    for folder in folders:
        if (folder / row.file).is_file():
            with (folder / row.file).open(encoding="utf-8", newline="") as file:
                return file.read()
    return None


def measured(row: Row, source: str) -> Row:
    """The row with a template measured again."""
    values = vars(row) | {
        "sha256": hashlib.sha256(source.encode()).hexdigest(),
        "measured": probe_template(ChatTemplate(source, row.eos, "<s>", row.more_ends)).model_dump(mode="json"),
    }
    return Row(**values)


def page(rows: Sequence[Row]) -> str:
    """The text of docs/students.md."""
    text = TEXT.read_text(encoding="utf-8")
    text = text.replace(_TABLE, "\n".join(_table(rows)) + "\n")
    return text.replace(_REASONS, "\n".join(_reasons(rows)) + "\n")


def _table(rows: Sequence[Row]) -> Iterator[str]:
    heads = ("template of", "tools", "a call", "two calls", "result", "system", "rewrites", "calls read", "verdict")
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for row in rows:
        report = row.report
        findings = (report.tools, report.call, report.two_calls, report.result, report.system)
        cells = [row.model, *(_MARKS[finding.outcome] for finding in findings), _rewrites(report), _read(report)]
        yield f"| {' | '.join([*cells, verdict(row)])} |"


def _rewrites(report: TemplateReport) -> str:
    parts = [
        name
        for name, rewrites in (("result", report.rewrites_after_result), ("question", report.rewrites_after_question))
        if rewrites
    ]
    return ", ".join(parts) or "-"


def _read(report: TemplateReport) -> str:
    if not report.spelling:
        return "-"
    unread = [name for name, entry in report.read_back.items() if not entry.equal]
    return "✓" if not unread else "no" if "text" in unread else f"not {', '.join(unread)}"


def verdict(row: Row) -> str:
    """What a user of the model has to do."""
    if not row.report.problems:
        return "works"
    return f"with `template: {'hermes' if row.chatml else 'neutral'}`"


def _reasons(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        report = row.report
        lines = [f"- **{row.model}** ({row.source}, sha256 `{row.sha256[:12]}`)"]
        if report.spelling:
            lines.append(f"writes a call as `{_code(report.spelling)}`")
        lines += [*report.problems, *report.notes]
        yield ". ".join(line.rstrip(".") for line in lines) + "."


def _code(text: str) -> str:
    """Text that fits between backquotes, on one line."""
    return text.replace("`", "'").replace("\n", "↵").replace("|", "\\|")


def write(rows: Sequence[Row]) -> None:
    """Write the record and the page."""
    values = [vars(row) | {"more_ends": list(row.more_ends)} for row in rows]
    RECORD.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    found = []
    for row in rows():
        source = source_of(row, [Path(folder) for folder in sys.argv[1:]])
        found.append(row if source is None else measured(row, source))
        print(f"{'kept' if source is None else 'measured'}: {row.model}")
    write(found)
