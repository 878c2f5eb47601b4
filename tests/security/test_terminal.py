"""Foreign text on the screen, in Markdown, in HTML and in JSON: it is shown, and never obeyed."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from helpers.command_line import run_command
from helpers.small_artifacts import manifest
from helpers.tiny_models import make_student
from mentor_edge.cli import inspect, run, screen, tables, tasks
from mentor_edge.cli.screen import HarmlessConsole
from mentor_edge.evaluation.document import (
    Grid,
    Strong,
    html_text,
    markdown_block,
    markdown_code,
    markdown_table,
    markdown_text,
)
from mentor_edge.export.package.card import model_card
from mentor_edge.messages import Message, ToolCall
from mentor_edge.readable import harmless, harmless_json
from mentor_edge.results import SuiteRecord

TEXTS = {
    "clears the screen": "\x1b[2J\x1b[H",
    "sets the title": "\x1b]0;root@host\x07",
    "writes the clipboard": "\x1b]52;c;cm0gLXJmIH4=\x07",
    "a link": "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "C1 controls": "\x9b2J\x9d0;title\x9c",
    "asks the terminal": "\x1b[6n\x1b[c\x1bZ",
    "overwrites the line": "error\rall 3 files match",
    "backspaces": "fail\b\b\b\bpass",
    "a bell and a null": "\x07\x00",
    "deletes": "a\x7f\x7f",
    "turns text around": "exe\u202efdp.gguf",
    "isolates": "\u2066a\u2069\u2067b\u2069",
    "other line ends": "a\u2028b\u2029c\x85d\x0be\x0cf",
    "half a character": "\ud800 \udfff",
    "rich: conceal": "[conceal]evil.gguf[/conceal]",
    "rich: a wrong end": "[/x].gguf",
    "rich: a link": "[link=http://evil.example]ok[/link]",
    "rich: an event": "[@click=app.bell]x[/]",
    "rich: a backslash": "a\\[bold]b\\",
    "rich: an emoji": ":warning: :x:",
    "HTML": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "HTML: the end of an element": "</pre></td></table><h1>passed</h1>",
    "HTML: an attribute": '" onmouseover="alert(1)" \'',
    "HTML: an entity": "&lt;b&gt;&#x3c;script&#x3e;",
    "HTML: a comment": "<!-- --><![CDATA[x]]>",
    "Markdown: a link": "[verified](http://evil.example)",
    "Markdown: a script": "[x](javascript:alert(1))",
    "Markdown: a picture": "![x](http://evil.example/seen.png)",
    "Markdown: an escaped link": "\\[x\\](http://evil.example) [x\\\\](http://evil.example)",
    "Markdown: a definition": "[id]: http://evil.example [id][id]",
    "Markdown: a link in brackets": "<http://evil.example>",
    "Markdown: a heading": "x\n\n# The gate passed\n\n| a |\n|---|\n| b |",
    "Markdown: the end of code": "```\n\n# passed\n\n~~~\n````",
    "Markdown: ticks": "a`b``c```",
    "Markdown: an escaped tick": "a\\`<b>\\`",
    "Markdown: a cell": "a | b \\| c \\\\| d",
}


def _screen(text: str) -> str:
    console = HarmlessConsole(file=io.StringIO(), highlight=False, markup=False, emoji=False, width=400)
    for module in (screen, tables, inspect, run, tasks):
        module.console = console
    try:
        console.print(text, soft_wrap=True)
        tables.print_grid(Grid([text], [[text], [Strong(text)]]), text)
        tables.print_conversation(text, [Message("assistant", text, (ToolCall(text, {text: text}),), text)])
        screen.print_error(text)
        screen._warned.clear()
        screen.print_warning(text)
        progress = screen.StageProgress()
        progress(text, 0, 2)
        progress(text, 2, 2)
    finally:
        for module in (screen, tables, inspect, run, tasks):
            module.console = screen_console
    return console.file.getvalue()


screen_console = screen.console


class _Page(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_comment(self, data: str) -> None:
        self.tags.append("comment")

    def handle_data(self, data: str) -> None:
        self.text += data


_MARKDOWN = MarkdownIt("commonmark").enable("table")
_OURS = {"p", "table", "thead", "tbody", "tr", "th", "td", "strong", "code", "pre", "h1", "h2", "ul", "li", "a", "hr"}


def _shown(markdown: str) -> _Page:
    return _Page(_MARKDOWN.render(markdown))


def _markdown(text: str) -> str:
    page = _shown(f"x {markdown_text(text)} y\n")
    assert page.tags == ["p"], page.tags
    # Backslashes of LaTeX are kept in the file; a reader may drop them before brackets.
    shown = page.text.strip().replace("\\", "")
    assert shown == f"x {harmless(' '.join(text.split()))} y".replace("\\", "")
    return page.text


def _code(text: str) -> str:
    page = _shown(f"x {markdown_code(text)} y\n")
    assert page.tags == ["p", "code"], page.tags
    return page.text


def _block(text: str) -> str:
    page = _shown("\n".join(["a", "", *markdown_block([text, "b"]), "", "c"]))
    assert page.tags == ["p", "pre", "code", "p"], page.tags
    return page.text


def _table(text: str) -> str:
    page = _shown("\n".join(markdown_table(Grid([text, "b"], [[text, Strong(text)]]))))
    tags = " ".join(tag for tag in page.tags if tag != "strong")
    assert tags == "table thead tr th th tbody tr td td", tags
    return page.text


def _html(text: str) -> str:
    page = _Page(f'<p title="{html_text(text)}">{html_text(text)}</p>')
    assert page.tags == ["p"] and page.text == harmless(text)
    return page.text


def _card(text: str) -> str:
    named = manifest(suite=SuiteRecord(name=text, version=text, sha256="2"))
    source = named.source.model_copy(update={"base": f"/models/{text.replace('/', '')}", "model": text})
    card = model_card(named.model_copy(update={"source": source}), {})
    page = _shown(card.split("---\n", 2)[2])
    assert set(page.tags) <= _OURS and page.tags.count("h1") == 1 and page.tags.count("a") == 1, page.tags
    return card


def _json(text: str) -> str:
    printed = harmless_json(json.dumps({text: [text]}, ensure_ascii=False))
    assert json.loads(printed) == {text: [text]}
    return printed


PLACES: dict[str, Callable[[str], str]] = {
    "screen": _screen, "Markdown": _markdown, "code": _code, "block": _block, "table": _table, "HTML": _html,
    "card": _card, "JSON": _json,
}  # fmt: skip
ATTACKS = {f"{place}: {name}": (write, text) for place, write in PLACES.items() for name, text in TEXTS.items()}


@pytest.mark.parametrize("place", PLACES)
def test_no_text_gets_out_of_its_place(place: str) -> None:
    for name, (write, text) in ATTACKS.items():
        if name.startswith(f"{place}: "):
            written = write(text)
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", written), name
            written.encode()


@pytest.mark.parametrize(
    "text",
    [
        r"\[ x = \frac{1}{2} \] and \(y_1\), $a^{b}_{c}$", "naïve — 数学 ½ ⅷ",
        "שלום مرحبا", "👩‍👩‍👧 🇨🇭", "a\u200db",
        "x_1 * y_2 * z", "[58.0, 66.2]", "f([1, 2][0])",
    ],
)  # a table  # fmt: skip
def test_ordinary_text_survives(text: str) -> None:
    assert harmless(text) == text and markdown_text(text) in (text, text.replace("][", r"\]["))
    assert text in _screen(text)


def test_names_of_files_reach_the_screen_as_they_are(tmp_path: Path) -> None:
    names = ["[conceal]evil.gguf", "[x].gguf", "\x1b]0;title\x07.gguf", "a\u202eb.gguf", "[bold red]x"]
    student = make_student(tmp_path / "[conceal]a\x1b[2J", num_hidden_layers=1)
    for name in names:
        (tmp_path / name).write_bytes(b"GGUF\x03\x00")
        done = run_command("inspect", name, cwd=tmp_path)
        assert done.returncode == 1 and harmless(name) in done.stderr and "\x1b" not in done.stderr, done.stderr
    done = run_command("inspect", student, "--json", cwd=tmp_path)
    assert done.returncode == 0 and "[conceal]a\\x1b[2J" in done.stderr and "\x1b" not in done.stderr + done.stdout
