"""From the cells of a comparison to its figures: accuracies, paired differences, costs, learning curves.

`mentor_edge.recipes.comparison.bootstrap` computes the intervals; its docstring lists what they do not cover.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from mentor_edge.errors import RunError

from .bootstrap import CONFIDENCE, REPLICATES, Interval, accuracy_interval, difference_interval
from .cell import BASE, Cell
from .comparison import (
    VERSION,
    Accuracy,
    Comparison,
    Cost,
    Curve,
    Difference,
    IntervalSettings,
    Multiplicity,
    RunScore,
)
from .grid import Answers, Grid, seed_order

CORE = ("para", "comb", "distract")
BASELINES = ("sft", "sparse")
"""Methods that every other one is compared with, besides the untrained base and the method in focus."""


@dataclass(frozen=True)
class _Resampling:
    """The arguments of every interval."""

    confidence: float
    replicates: int
    seed: int

    def accuracy(self, runs: Sequence[Sequence[Answers]], domains: Sequence[str]) -> Interval:
        return accuracy_interval(runs, domains, confidence=self.confidence, replicates=self.replicates, seed=self.seed)

    def difference(
        self, left: Sequence[Sequence[Answers]], right: Sequence[Sequence[Answers]], domains: Sequence[str]
    ) -> Interval:
        return difference_interval(
            left, right, domains, confidence=self.confidence, replicates=self.replicates, seed=self.seed
        )


def summarise(
    cells: Sequence[Cell],
    *,
    focus: str = "mentor",
    core: Sequence[str] = CORE,
    settings: Mapping[str, Any],
    allow_missing: bool = False,
    confidence: float = CONFIDENCE,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Comparison:
    """Compute everything in comparison.json from the cells.

    Besides each domain there are two pooled scores: "core", the mean of the `core` domains' accuracies, and "ood", the
    mean over all domains but "id". Differences are `method` minus `against`, as proportions (0.02 is two points). Every
    method is compared with the base, `focus` with every other method, and the others with "sft" and "sparse".
    `settings` (suite, configuration, versions) is copied. The same cells always yield the same comparison, even after
    a round trip through JSON.

    With `allow_missing`, a difference uses the pairs of base and seed that both sides have.

    Raises: RunError if cells are missing (it names them), appear twice, have different items or lack a core domain.
    """
    grid = Grid(cells)
    if absent := [domain for domain in core if domain not in grid.items] or ([] if core else ["any"]):
        raise RunError(f"the core score needs domains that no cell has: {', '.join(absent)}")
    if clash := {"core", "ood"} & set(grid.items):
        raise RunError(f"a domain may not be called {clash.pop()!r}: that is the name of a pooled score")
    missing = grid.missing()
    if missing and not allow_missing:
        raise RunError(f"{len(missing)} cells are missing: {'; '.join(missing)}", "train and evaluate them first")
    scopes = {domain: (domain,) for domain in grid.items} | {"core": tuple(core)}
    if ood := tuple(domain for domain in grid.items if domain != "id"):
        scopes["ood"] = ood
    resampling = _Resampling(confidence, replicates, seed)
    differences = tuple(_differences(grid, scopes, focus, resampling))
    return Comparison(
        settings=Comparison.settings_of(dict(settings)),
        version=VERSION,
        methods=tuple(grid.methods),
        bases=tuple(grid.bases),
        seeds=tuple(grid.seeds),
        teacher_noise=tuple(grid.noises),
        domains=tuple(grid.items),
        items=grid.items,
        core=tuple(core),
        statistics=IntervalSettings(
            interval="hierarchical percentile bootstrap",
            focus=focus,
            confidence=confidence,
            replicates=replicates,
            seed=seed,
        ),
        missing=tuple(missing),
        multiplicity=_multiplicity(differences),
        accuracy=tuple(_accuracies(grid, scopes, resampling)),
        differences=differences,
        costs=tuple(_costs(grid, cells)),
        curves=tuple(_curves(grid, cells)),
        cells=tuple(cells),
    )


def _multiplicity(differences: Sequence[Difference]) -> Multiplicity:
    distinct = {(row.method, row.against, row.domain, row.own_noise) for row in differences}
    return Multiplicity(
        shown=len(differences),
        distinct=len(distinct),
        excluding_zero=sum(row.excludes_zero for row in differences),
        corrected=False,
    )


def _accuracies(grid: Grid, scopes: Mapping[str, Sequence[str]], resampling: _Resampling) -> Iterator[Accuracy]:
    computed: dict[tuple[str, str | None, str], Interval] = {}
    for noise in grid.noises:
        for method in grid.methods:
            by_base = grid.runs(method, noise)
            keys = [(base, seed) for base in grid.bases for seed in sorted(by_base.get(base, {}), key=seed_order)]
            if not keys:
                continue
            runs = [[by_base[base][s] for b, s in keys if b == base] for base in dict.fromkeys(b for b, _ in keys)]
            for scope, domains in scopes.items():
                key = (method, grid.own_noise(method, noise), scope)
                interval = computed[key] = computed.get(key) or resampling.accuracy(runs, domains)
                yield Accuracy(
                    teacher_noise=noise,
                    method=method,
                    domain=scope,
                    estimate=interval.estimate,
                    low=interval.low,
                    high=interval.high,
                    levels=interval.levels,
                    n_items=sum(grid.items[domain] for domain in domains),
                    n_runs=len(keys),
                    per_run=tuple(
                        RunScore(base=base, seed=s, estimate=_score(by_base[base][s], domains)) for base, s in keys
                    ),
                )


def _score(run: Answers, domains: Sequence[str]) -> float:
    return fmean(float(run[domain].mean()) for domain in domains)


def _pairs(methods: Sequence[str], focus: str) -> list[tuple[str, str]]:
    """The pairs of methods to compare, each once and in one direction."""
    trained = [method for method in methods if method != BASE]
    candidates = [(method, BASE) for method in trained if BASE in methods]
    if focus in trained:
        candidates += [(focus, method) for method in trained]
    candidates += [(method, baseline) for method in trained for baseline in BASELINES if baseline in trained]
    pairs: list[tuple[str, str]] = []
    for method, against in candidates:
        if method != against and (method, against) not in pairs and (against, method) not in pairs:
            pairs.append((method, against))
    return pairs


def _differences(
    grid: Grid, scopes: Mapping[str, Sequence[str]], focus: str, resampling: _Resampling
) -> Iterator[Difference]:
    computed: dict[tuple[str, str, str | None, str], Interval] = {}
    for noise in grid.noises:
        for method, against in _pairs(grid.methods, focus):
            left, right = grid.runs(method, noise), grid.runs(against, noise)
            common = {base: _common_seeds(left.get(base, {}), right.get(base, {})) for base in grid.bases}
            bases = [base for base in grid.bases if common[base]]
            if not bases:
                continue
            a = [[left[base][seed] for seed in common[base]] for base in bases]
            b = [[right[base][seed if seed in right[base] else None] for seed in common[base]] for base in bases]
            own = grid.own_noise(method, noise) or grid.own_noise(against, noise)
            for scope, domains in scopes.items():
                key = (method, against, own, scope)
                interval = computed[key] = computed.get(key) or resampling.difference(a, b, domains)
                yield Difference(
                    teacher_noise=noise,
                    own_noise=own,
                    method=method,
                    against=against,
                    domain=scope,
                    estimate=interval.estimate,
                    low=interval.low,
                    high=interval.high,
                    levels=interval.levels,
                    per_base=dict(zip(bases, interval.per_base, strict=True)),
                    excludes_zero=interval.excludes_zero,
                    n_pairs=sum(map(len, a)),
                    n_items=sum(grid.items[domain] for domain in domains),
                )


def _common_seeds(left: Mapping[int | None, Any], right: Mapping[int | None, Any]) -> list[int | None]:
    """The seeds of `left` that have a partner on the right: the same seed, or the one run of an untrained base."""
    return sorted((seed for seed in left if seed in right or None in right), key=seed_order)


def _costs(grid: Grid, cells: Sequence[Cell]) -> Iterator[Cost]:
    for method in grid.methods:
        for noise in grid.own_noises(method):
            runs = _sorted_runs(cells, method, noise)
            if runs:
                yield Cost(
                    method=method,
                    teacher_noise=noise,
                    n_runs=len(runs),
                    updates=fmean(cell.updates for cell in runs),
                    tokens=fmean(cell.tokens for cell in runs),
                    rollout_tokens=fmean(cell.rollout_tokens for cell in runs),
                    cpu_seconds=fmean(cell.cpu_seconds for cell in runs),
                )


def _curves(grid: Grid, cells: Sequence[Cell]) -> Iterator[Curve]:
    for method in grid.methods:
        for noise in grid.own_noises(method):
            for base in grid.bases:
                curves = [dict(cell.curve) for cell in _sorted_runs(cells, method, noise) if cell.base == base]
                steps = sorted(set.intersection(*map(set, curves))) if curves else []
                if not steps:
                    continue
                points = [[curve[step] for curve in curves] for step in steps]
                yield Curve(
                    method=method,
                    teacher_noise=noise,
                    base=base,
                    n_seeds=len(curves),
                    steps=tuple(steps),
                    mean=tuple(map(fmean, points)),
                    low=tuple(map(min, points)),
                    high=tuple(map(max, points)),
                )


def _sorted_runs(cells: Sequence[Cell], method: str, noise: str | None) -> list[Cell]:
    runs = [cell for cell in cells if cell.method == method and cell.teacher_noise == noise]
    return sorted(runs, key=lambda cell: (cell.base, seed_order(cell.seed)))
