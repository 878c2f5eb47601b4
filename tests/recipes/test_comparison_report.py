from __future__ import annotations

import random
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from mentor_edge.cli.screen import console
from mentor_edge.cli.tables import print_comparison
from mentor_edge.errors import OutputError
from mentor_edge.recipes.comparison.cell import Cell
from mentor_edge.recipes.comparison.comparison import Comparison, Difference
from mentor_edge.recipes.comparison.page import comparison_html, comparison_markdown
from mentor_edge.recipes.comparison.pictures import write_pictures
from mentor_edge.recipes.comparison.summarise import summarise
from mentor_edge.recipes.comparison.text import difference_sentence

BASES = ("nano@0", "<b>")
NOISES = ("clean", "heavy")
RATES = {"base": 0.2, "sft": 0.5, "sparse": 0.5, "mentor": 0.8}
SETTINGS = {"suite": "nano-toolqa", "config": {"note": "<script>alert(1)</script> | $x$"}}
LINKS = {"accuracy": "a/accuracy.png", "differences": "a/differences.png", "curves": "a/curves.png"}


def make_cell(base: str, method: str, seed: int | None = None, noise: str | None = None) -> Cell:
    draw = random.Random(f"{base} {method} {seed} {noise}")
    domains = ("id", "para", "comb", "distract", "irrel")
    right = {domain: "".join("01"[draw.random() < RATES[method]] for _ in range(60)) for domain in domains}
    curve = ((0, 0.1), (50, RATES[method])) if method != "base" else ()
    return Cell(base, method, seed, noise, right, 50 * (method != "base"), 12345, 0, 2.25, curve)


def make_grid() -> list[Cell]:
    cells = []
    for base in BASES:
        cells.append(make_cell(base, "base"))
        for seed in (0, 1):
            cells.append(make_cell(base, "sparse", seed))
            cells += [make_cell(base, method, seed, noise) for noise in NOISES for method in ("sft", "mentor")]
    return cells


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return summarise(make_grid(), settings=SETTINGS)


@pytest.fixture(scope="module")
def pictures(comparison, tmp_path_factory):
    directory = tmp_path_factory.mktemp("pictures")
    return directory, write_pictures(comparison, directory)


def row_of(estimate: float = 0.031, low: float = 0.01, high: float = 0.052) -> Difference:
    return Difference(
        teacher_noise=None,
        own_noise=None,
        method="mentor",
        against="sft",
        domain="core",
        estimate=estimate,
        low=low,
        high=high,
        levels=("items",),
        per_base={},
        excludes_zero=low > 0 or high < 0,
        n_pairs=1,
        n_items=1,
    )


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (row_of(), "mentor beats sft on core by 3.1 points [1.0, 5.2]"),
        (
            row_of(estimate=-0.031, low=-0.052, high=-0.01),
            "mentor falls behind sft on core by 3.1 points [1.0, 5.2]",
        ),
        (
            row_of(low=-0.01),
            "no difference shown between mentor and sft on core: +3.1 points [-1.0, 5.2] (interval includes zero)",
        ),
        (
            row_of(estimate=0.0, low=0.0, high=0.0),
            "no difference shown between mentor and sft on core: +0.0 points [0.0, 0.0] (interval includes zero)",
        ),
        (row_of(estimate=0.002, low=0.0002, high=0.004), "mentor beats sft on core by 0.20 points [0.02, 0.40]"),
    ],
)
def test_sentences_follow_from_the_interval(row, sentence):
    assert difference_sentence(row) == sentence


def table_rows(markdown: str, title: str, noise: str) -> dict[str, list[str]]:
    section = markdown.split(f"## {title}\n")[1].split(f"### Teacher noise: {noise}\n")[1].split("##")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[1:]}


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"[-+]?\d+\.\d+", text)]


def test_the_numbers_of_markdown_are_those_of_the_file(comparison):
    markdown = comparison_markdown(comparison, LINKS)
    checked = 0
    for title, key in (("Accuracy", "accuracy"), ("Paired differences", "differences")):
        for noise in NOISES:
            table = table_rows(markdown, title, noise)
            for row in getattr(comparison, key):
                if row.teacher_noise != noise:
                    continue
                name = f"{row.method} - {row.against}" if isinstance(row, Difference) else row.method
                cell = table[name][row.domain]
                expected = [100 * row.estimate, 100 * row.low, 100 * row.high]
                assert numbers(cell) == pytest.approx(expected, abs=0.0501)
                assert cell.startswith("**") == (isinstance(row, Difference) and row.excludes_zero)
                checked += 1
    assert checked == len(comparison.accuracy) + len(comparison.differences) == 2 * 7 * (4 + 6)


def test_markdown_says_what_was_compared_and_what_it_does_not_show(comparison):
    markdown = comparison_markdown(comparison, LINKS)
    for part in (
        "Bases: &lt;b&gt;, nano@0",
        "Methods: base, sparse, sft, mentor",
        "Seeds: 0, 1",
        "Teacher noise: clean, heavy",
        "Updates per run: 50",
        "Items: 300 (id 60, para 60",
        "core: mean of the accuracies on para, comb, distract",
        "Methods without the teacher's traces, the same under every noise: base, sparse",
        "4,000 replicates over bases, seeds, items",
        "With 2 bases and 2 seeds, the intervals of a percentile bootstrap are too narrow",
        "not corrected for multiplicity",
        "84 differences are shown (7 of them repeat another one under a different noise)",
        "| mentor | clean | 4 | 50 | 12,345 | 0 | 2.2 |",
        "| mentor | clean | nano@0 | 2 | 50 | 80.0 [80.0, 80.0] |",
        *(f"({link})" for link in LINKS.values()),
    ):
        assert part in markdown, part
    assert "grid is incomplete" not in markdown and "<" not in markdown.replace("    ", "").split("## Settings")[0]


def test_sentences_are_sorted_by_what_their_interval_shows(comparison):
    section = comparison_markdown(comparison, {}).split("## Paired differences")[1].split("### Teacher noise: heavy")[1]
    shown, rest = section.split("Interval excludes zero:")[1].split("Interval includes zero:")
    assert "mentor beats sft on core by" in shown and "sparse beats base on core by" in shown
    assert "no difference shown between sparse and sft on core" in rest.split("## Costs")[0]


def test_conclusions_follow_the_figures():
    answers = {(c.base, c.seed, c.teacher_noise): c.right for c in make_grid() if c.method == "sft"}
    swapped = {"sft": "mentor", "mentor": "sft"}
    turned = [replace(cell, method=swapped.get(cell.method, cell.method)) for cell in make_grid()]
    markdown = comparison_markdown(summarise(turned, settings={}), {})
    assert "mentor falls behind sft on core by" in markdown and "mentor beats sft" not in markdown
    alike = [
        replace(cell, right=answers[cell.base, cell.seed, cell.teacher_noise]) if cell.method == "mentor" else cell
        for cell in make_grid()
    ]
    markdown = comparison_markdown(summarise(alike, settings={}), {})
    assert "no difference shown between mentor and sft on core: +0.0 points [0.0, 0.0]" in markdown
    assert "| mentor - sft | +0.0 [+0.0, +0.0] |" in markdown


def test_one_base_and_one_seed_are_named_as_limits():
    cells = [make_cell("nano@0", "base"), make_cell("nano@0", "sparse", 0)]
    markdown = comparison_markdown(summarise(cells, settings={}), {})
    assert (
        "There is one base" in markdown
        and "There is one seed" in markdown
        and "bootstrap are too narrow" not in markdown
    )
    assert (
        "### Without the teacher's traces" in markdown and "replicates over items" in markdown and "![" not in markdown
    )


def test_missing_runs_are_named():
    cells = [cell for cell in make_grid() if (cell.method, cell.seed) != ("mentor", 1)]
    comparison = summarise(cells, settings={}, allow_missing=True)
    assert "4 runs are missing (mentor on &lt;b&gt;, seed 1, noise clean;" in comparison_markdown(comparison, {})


def test_pictures_are_png_files(pictures):
    _, paths = pictures
    assert [path.name for path in paths] == ["accuracy.png", "differences.png", "curves.png"]
    for path in paths:
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) > 5000


def test_there_are_no_empty_pictures(tmp_path):
    comparison = summarise([make_cell("nano@0", "base")], settings={}, replicates=50)
    assert [path.name for path in write_pictures(comparison, tmp_path)] == ["accuracy.png"]
    assert comparison_html(comparison, tmp_path).count("<img") == 1


def test_pictures_that_cannot_be_written_are_explained(comparison, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_pictures(comparison, tmp_path / "file" / "pictures")


class Page(HTMLParser):
    """Checks that elements are closed in order, and collects them with their attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_valid_and_self_contained(comparison, pictures):
    text = comparison_html(comparison, pictures[0])
    page = Page(text)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "b", "link", "iframe", "a", "object"}
    sources = [attributes["src"] for _, attributes in page.tags if "src" in attributes]
    assert len(sources) == 3 and all(source.startswith("data:image/png;base64,iVBOR") for source in sources)
    without = re.sub(r'"data:image/png;base64,[^"]*"', '""', text)
    assert "http" not in without and "url(" not in without and "@import" not in without
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    assert "<b>" not in text and "<script" not in text
    assert "Bases: <b>, nano@0" in page.text and "<script>alert(1)</script> | $x$" in page.text


def test_the_page_contains_what_the_document_contains(comparison, pictures):
    text = Page(comparison_html(comparison, pictures[0])).text
    for row in comparison.differences:
        if row.domain == "core":
            assert difference_sentence(row) in text


def test_the_screen_shows_tables_and_limits(comparison):
    with console.capture() as capture:
        print_comparison(comparison)
    shown = re.sub(r"\s+", " ", capture.get())
    for part in ("Teacher noise: heavy; accuracy", "mentor - sparse", "costs, means over runs", "too narrow", "ood"):
        assert part in shown
    row = next(r for r in comparison.accuracy if (r.method, r.domain) == ("mentor", "core"))
    assert f"{100 * row.estimate:.1f} [{100 * row.low:.1f}, {100 * row.high:.1f}]" in shown


def test_matplotlib_is_loaded_only_to_draw():
    code = "import sys, mentor_edge.recipes.comparison.page; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
