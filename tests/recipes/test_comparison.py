from __future__ import annotations

import json
import random
import re
from dataclasses import replace

import pytest

from mentor_edge.errors import RunError
from mentor_edge.recipes.comparison.cell import Cell
from mentor_edge.recipes.comparison.comparison import Comparison, Multiplicity
from mentor_edge.recipes.comparison.summarise import summarise

DOMAINS = {"id": 60, "para": 50, "comb": 50, "distract": 50, "names": 40, "long": 40, "irrel": 30, "lookup": 30}
BASES = ("nano@0", "nano-broad@0")
NOISES = ("clean", "heavy")
RATES = {"base": 0.2, "sft": 0.5, "sparse": 0.5, "mentor": 0.8}
SETTINGS = {"suite": {"name": "nano", "items": 350}, "versions": {"mentor_edge": "0.1.0"}}


def make_cell(base: str, method: str, seed: int | None = None, noise: str | None = None, **changes) -> Cell:
    draw = random.Random(f"{base} {method} {seed} {noise}")
    rate = RATES[method]
    right = {domain: "".join("01"[draw.random() < rate] for _ in range(n)) for domain, n in DOMAINS.items()}
    trained = method != "base"
    curve = tuple((step, min(1.0, rate * step / 40 + draw.random() / 50)) for step in (0, 20, 40)) if trained else ()
    cell = Cell(base, method, seed, noise, right, 40 * trained, 9000 * trained, 500 * (method == "mentor"), 1.5, curve)
    return replace(cell, **changes)


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


def find(rows, **wanted):
    (row,) = [row for row in rows if all(getattr(row, key) == value for key, value in wanted.items())]
    return row


def test_the_grid_is_described(comparison):
    assert comparison.version == 1 and comparison.settings["suite"] == SETTINGS["suite"]
    assert comparison.methods == ("base", "sparse", "sft", "mentor")
    assert comparison.bases == tuple(sorted(BASES)) and comparison.seeds == (0, 1)
    assert comparison.teacher_noise == NOISES and comparison.domains == tuple(DOMAINS)
    assert comparison.missing == () and len(comparison.cells) == len(make_grid())


def test_accuracies_are_the_means_of_the_runs(comparison):
    cells = [cell for cell in make_grid() if cell.method == "sft" and cell.teacher_noise == "heavy"]
    row = find(comparison.accuracy, teacher_noise="heavy", method="sft", domain="para")
    expected = [cell.right["para"].count("1") / 50 for cell in cells]
    assert row.estimate == pytest.approx(sum(expected) / 4) and row.low < row.estimate < row.high
    assert (row.n_items, row.n_runs) == (50, 4)
    runs = {(run.base, run.seed): run.estimate for run in row.per_run}
    assert runs == {(cell.base, cell.seed): pytest.approx(rate) for cell, rate in zip(cells, expected, strict=True)}


def test_pooled_scores_are_means_of_domains(comparison):
    def score(domain: str) -> float:
        return find(comparison.accuracy, teacher_noise="clean", method="mentor", domain=domain).estimate

    assert score("core") == pytest.approx((score("para") + score("comb") + score("distract")) / 3)
    assert score("ood") == pytest.approx(sum(score(domain) for domain in DOMAINS if domain != "id") / 7)
    row = find(comparison.accuracy, teacher_noise="clean", method="mentor", domain="core")
    assert row.n_items == 150 and row.levels == ("bases", "seeds", "items")


def core_rate(method: str, noise: str) -> float:
    cells = [cell for cell in make_grid() if cell.method == method and cell.teacher_noise in (None, noise)]
    return (
        sum(cell.right[domain].count("1") for cell in cells for domain in ("para", "comb", "distract"))
        / 150
        / len(cells)
    )


def test_known_differences_have_the_right_sign(comparison):
    for noise in NOISES:
        for method, against in [("mentor", "base"), ("mentor", "sft"), ("mentor", "sparse"), ("sft", "base")]:
            row = find(comparison.differences, teacher_noise=noise, method=method, against=against, domain="core")
            assert row.excludes_zero and row.low > 0
            assert row.estimate == pytest.approx(core_rate(method, noise) - core_rate(against, noise))
            assert row.estimate == pytest.approx(RATES[method] - RATES[against], abs=0.1)
            assert row.estimate == pytest.approx(sum(row.per_base.values()) / 2) and row.n_pairs == 4


def test_every_pair_is_compared_once_in_every_domain(comparison):
    rows = [row for row in comparison.differences if row.teacher_noise == "clean" and row.domain == "ood"]
    pairs = [(row.method, row.against) for row in rows]
    assert sorted(pairs) == sorted(
        [
            ("sparse", "base"),
            ("sft", "base"),
            ("mentor", "base"),
            ("mentor", "sparse"),
            ("mentor", "sft"),
            ("sparse", "sft"),
        ]
    )
    count = comparison.multiplicity
    shown = sum(row.excludes_zero for row in comparison.differences)
    assert count == Multiplicity(shown=2 * 6 * 10, distinct=2 * 6 * 10 - 10, excluding_zero=shown, corrected=False)


def test_the_method_in_focus_decides_the_direction():
    comparison = summarise(make_grid(), settings={}, focus="sft", replicates=50)
    pairs = {(row.method, row.against) for row in comparison.differences}
    assert {("sft", "mentor"), ("sft", "sparse"), ("mentor", "sparse")} < pairs and ("mentor", "sft") not in pairs


def test_methods_without_the_teacher_appear_in_every_noise(comparison):
    for method in ("base", "sparse"):
        clean, heavy = (
            find(comparison.accuracy, teacher_noise=noise, method=method, domain="core") for noise in NOISES
        )
        assert clean.model_copy(update={"teacher_noise": "heavy"}) == heavy
        assert find(comparison.costs, method=method).teacher_noise is None
    assert find(comparison.accuracy, teacher_noise="clean", method="base", domain="id").n_runs == 2


def test_identical_cells_differ_by_exactly_zero():
    cells = make_grid()
    answers = {(c.base, c.seed, c.teacher_noise): c.right for c in cells if c.method == "sft"}
    cells = [
        replace(cell, right=answers[cell.base, cell.seed, cell.teacher_noise]) if cell.method == "mentor" else cell
        for cell in cells
    ]
    comparison = summarise(cells, settings={})
    rows = [row for row in comparison.differences if (row.method, row.against) == ("mentor", "sft")]
    assert len(rows) == 20
    assert all((row.estimate, row.low, row.high) == (0, 0, 0) and not row.excludes_zero for row in rows)


def test_costs_and_curves_are_means(comparison):
    row = find(comparison.costs, method="mentor", teacher_noise="clean")
    assert row.model_dump(include={"updates", "tokens", "rollout_tokens", "cpu_seconds", "n_runs"}) == {
        "updates": 40,
        "tokens": 9000,
        "rollout_tokens": 500,
        "cpu_seconds": 1.5,
        "n_runs": 4,
    }
    curve = find(comparison.curves, method="mentor", teacher_noise="clean", base="nano@0")
    seeds = [dict(make_cell("nano@0", "mentor", seed, "clean").curve) for seed in (0, 1)]
    assert curve.steps == (0, 20, 40) and curve.n_seeds == 2
    assert curve.mean == pytest.approx([(seeds[0][step] + seeds[1][step]) / 2 for step in curve.steps])
    assert curve.low == tuple(min(seed[step] for seed in seeds) for step in curve.steps)
    assert not [row for row in comparison.curves if row.method == "base"]


def test_a_curve_has_the_steps_that_all_seeds_have():
    cells = [make_cell("nano@0", "base"), make_cell("nano@0", "sft", 0, "clean")]
    cells.append(make_cell("nano@0", "sft", 1, "clean", curve=((0, 0.1), (40, 0.3), (60, 0.4))))
    (row,) = summarise(cells, settings={}, replicates=50).curves
    assert row.steps == (0, 40)


def test_the_summary_can_be_recomputed_from_the_file(comparison):
    saved = json.loads(json.dumps(comparison.to_json()))
    assert saved == comparison.to_json() and saved["suite"] == SETTINGS["suite"]
    assert summarise([Cell.from_json(cell) for cell in saved["cells"]], settings=SETTINGS) == comparison
    assert Comparison.settings_of(saved) == SETTINGS


def test_the_order_of_cells_changes_no_figure(comparison):
    shuffled = random.Random(1).sample(make_grid(), len(make_grid()))
    again = summarise(shuffled, settings=SETTINGS)
    for key in ("accuracy", "costs", "curves"):
        assert sorted(map(repr, getattr(again, key))) == sorted(map(repr, getattr(comparison, key)))
    wanted = {"teacher_noise": "heavy", "method": "mentor", "against": "sft", "domain": "ood"}
    assert find(again.differences, **wanted) == find(comparison.differences, **wanted)


def test_missing_cells_are_named():
    cells = [cell for cell in make_grid() if (cell.method, cell.seed, cell.base) != ("mentor", 1, "nano@0")]
    cells = [cell for cell in cells if (cell.method, cell.base) != ("base", "nano-broad@0")]
    with pytest.raises(RunError) as error:
        summarise(cells, settings={})
    assert error.value.problem == (
        "3 cells are missing: base on nano-broad@0; mentor on nano@0, seed 1, noise clean; "
        "mentor on nano@0, seed 1, noise heavy"
    )


def test_an_incomplete_grid_can_be_summarised():
    cells = [cell for cell in make_grid() if (cell.method, cell.seed, cell.base) != ("mentor", 1, "nano@0")]
    cells = [cell for cell in cells if (cell.method, cell.base) != ("base", "nano-broad@0")]
    comparison = summarise(cells, settings={}, allow_missing=True, replicates=200)
    assert len(comparison.missing) == 3
    wanted = {"teacher_noise": "clean", "method": "mentor", "domain": "core"}
    assert find(comparison.differences, against="sft", **wanted).n_pairs == 3
    assert list(find(comparison.differences, against="base", **wanted).per_base) == ["nano@0"]
    assert find(comparison.accuracy, **wanted).n_runs == 3


def test_a_pair_without_a_common_run_has_no_row():
    cells = [
        make_cell("nano@0", "base"),
        make_cell("nano@0", "sft", 0, "clean"),
        make_cell("nano@0", "mentor", 1, "clean"),
    ]
    comparison = summarise(cells, settings={}, allow_missing=True, replicates=50)
    assert {(row.method, row.against) for row in comparison.differences} == {
        ("sft", "base"),
        ("mentor", "base"),
    }


def test_one_base_without_any_teacher():
    cells = [make_cell("nano@0", "base"), make_cell("nano@0", "sparse", 0)]
    comparison = summarise(cells, settings={}, replicates=50)
    assert comparison.teacher_noise == (None,) and comparison.differences[0].levels == ("items",)


def test_settings_cannot_replace_a_figure():
    saved = summarise([make_cell("nano@0", "base")], settings={"version": 9, "bases": "x", "config": 1}).to_json()
    assert (saved["version"], saved["bases"], saved["config"]) == (1, ["nano@0"], 1)


FIRST = make_cell("nano@0", "base")


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ([], "no cell"),
        ([FIRST, FIRST], "base on nano@0 appears twice"),
        ([make_cell("nano@0", "base", 3)], "base on nano@0, seed 3: only an untrained base"),
        ([FIRST, make_cell("nano@0", "sft", None, "clean")], "only an untrained base has no seed"),
        ([FIRST, make_cell("nano@0", "sft", 0, "clean"), make_cell("nano@0", "sft", 1)], "and some without"),
        ([FIRST, make_cell("nano@0", "sft", 0, right={"id": "01"})], "different items from the first cell"),
        ([make_cell("nano@0", "base", right={"id": "01"})], "core score needs domains that no cell has: para, comb"),
        ([make_cell("nano@0", "base", right={**FIRST.right, "ood": "1"})], "may not be called 'ood'"),
    ],
)
def test_inconsistent_cells_are_refused(cells, reason):
    with pytest.raises(RunError, match=re.escape(reason)):
        summarise(cells, settings={}, replicates=50)


def test_a_cell_survives_json():
    for cell in make_grid():
        assert Cell.from_json(json.loads(json.dumps(cell.to_json()))) == cell


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("base", ""), ("base", 3), ("method", None), ("seed", "0"), ("seed", True), ("teacher_noise", 1),
        ("right", {}), ("right", ["01"]), ("right", {"id": "012"}), ("right", {"id": ""}), ("right", {"id": 1}),
        ("updates", -1), ("tokens", 1.5), ("rollout_tokens", None), ("cpu_seconds", float("nan")),
        ("cpu_seconds", "1"), ("curve", None), ("curve", [[0]]), ("curve", [[0, 1.5]]), ("curve", [[0.5, 1]]),
        ("curve", ["ab"]),
    ],
)  # a table  # fmt: skip
def test_damaged_cells_are_refused(key, value):
    saved = make_cell("nano@0", "sft", 0, "clean").to_json()
    with pytest.raises(RunError, match=f"'{key}' is unusable"):
        Cell.from_json({**saved, key: value})
    del saved[key]
    with pytest.raises(RunError, match=f"'{key}' is unusable: missing"):
        Cell.from_json(saved)


def test_a_list_is_not_a_cell():
    with pytest.raises(RunError, match="a saved cell is list, not an object"):
        Cell.from_json([1])
