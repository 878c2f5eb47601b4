"""The README's promises and limits agree with the code."""

from __future__ import annotations

import re

from helpers.paths import ROOT
from mentor_edge.errors import GateFailed, GateInconclusive, MentorEdgeError
from mentor_edge.export.gate import MARGIN
from mentor_edge.export.gguf.families import FAMILIES as GGUF_FAMILIES
from mentor_edge.export.onnx.families import FAMILIES as ONNX_FAMILIES

README = (ROOT / "README.md").read_text(encoding="utf-8")


def limit(start: str) -> str:
    """The bullet of "Honest limits" that starts like this, on one line."""
    bullets = README.partition("## Honest limits")[2].partition("\n## ")[0].split("\n- ")
    (found,) = (" ".join(bullet.split()) for bullet in bullets if bullet.startswith(start))
    return found


def families(bullet: str) -> set[str]:
    """The families that a bullet lists after "covers"."""
    listed = re.split(r"\.|, with", bullet.partition("covers ")[2])[0]
    return set(re.split(r", | and ", listed))


def test_families_of_both_formats() -> None:
    assert families(limit("GGUF export")) == {family.name for family in GGUF_FAMILIES.values()}
    assert families(limit("ONNX export")) == set(ONNX_FAMILIES.values())


def test_rope_scalings() -> None:
    known = {scaling for family in GGUF_FAMILIES.values() for scaling in family.scalings} - {"default"}
    spelled = {"linear": "linear", "yarn": "yarn", "llama3": "Llama 3's"}
    bullet = limit("GGUF export")
    assert known == spelled.keys() and all(word in bullet for word in spelled.values())


def test_exit_codes() -> None:
    (line,) = re.findall(r"^Exit codes: (.*?)\n\n", README, flags=re.MULTILINE | re.DOTALL)
    codes = {int(code) for code in re.findall(r"(?:^|; )(\d+) ", " ".join(line.split()))}
    raised = {MentorEdgeError.exit_code, GateFailed.exit_code, GateInconclusive.exit_code}
    assert codes == {0, 2, 129, 130, 143} | raised
    assert f"{GateFailed.exit_code} the gate failed" in " ".join(line.split())


def test_the_margin() -> None:
    assert f"the margin of {MARGIN * 100:g} points" in " ".join(README.split())


def test_the_quickstart_table_is_that_of_the_last_run() -> None:
    """The figures printed in the README are those of docs/quickstart.md."""
    report = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    for domain in ("id", "para", "comb", "distract", "names", "long", "irrel", "lookup"):
        (row,) = re.findall(rf"^│ {domain} +│(.*)│$", README, flags=re.MULTILINE)
        assert f"| {domain} | " + " | ".join(cell.strip() for cell in row.split("│")) + " |" in report
    gate = re.findall(r"^│ (q\w+|f32)(?: \(control\))? +│(.*)│$", README, flags=re.MULTILINE)
    assert {name for name, _ in gate} >= {"q8_0", "q4_k_m", "f32", "q2_k"}
    for name, row in gate:
        cells = " | ".join(cell.strip() for cell in row.split("│"))
        assert re.search(rf"^\| {name}(?: \(control\))? \| {re.escape(cells)} \|$", report, flags=re.MULTILINE)
