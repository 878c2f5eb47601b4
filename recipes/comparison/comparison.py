"""`Comparison`: the result of comparing training methods, in the shape that comparison.json stores."""

from __future__ import annotations

from typing import Any

from mentor_edge.results import Result

from .cell import Cell

VERSION = 1


class _Estimate(Result):
    """A score or a difference of scores with its interval, as proportions (0.02 is two points)."""

    estimate: float
    """The value over all runs."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    levels: tuple[str, ...]
    """What was resampled for the interval: any of "bases", "seeds" and "items"."""


class RunScore(Result):
    """The accuracy of one run."""

    base: str
    """The student before training."""
    seed: int | None
    """Seed of the run; None for an untrained student."""
    estimate: float
    """Accuracy."""


class Accuracy(_Estimate):
    """The accuracy of one method on one domain, or on a pooled score ("core", "ood")."""

    teacher_noise: str | None
    """The noise whose table shows this row."""
    method: str
    """The method."""
    domain: str
    """The domain or the pooled score."""
    n_items: int
    """Items that every run answered."""
    n_runs: int
    """Runs."""
    per_run: tuple[RunScore, ...]
    """The accuracy of every run."""


class Difference(_Estimate):
    """The paired difference of two methods, `method` minus `against`, on one domain or pooled score."""

    teacher_noise: str | None
    """The noise whose table shows this row."""
    own_noise: str | None
    """None if neither side uses the teacher's traces: the row is then the same under every noise."""
    method: str
    """The method on the left."""
    against: str
    """The method on the right."""
    domain: str
    """The domain or the pooled score."""
    per_base: dict[str, float]
    """The difference on every base."""
    excludes_zero: bool
    """Whether the interval excludes zero."""
    n_pairs: int
    """Pairs of runs."""
    n_items: int
    """Items that every run answered."""


class Cost(Result):
    """What a method cost under one noise: means over its runs."""

    method: str
    """The method."""
    teacher_noise: str | None
    """The teacher's noise; None if the method does not use the teacher."""
    n_runs: int
    """Runs."""
    updates: float
    """Optimizer updates."""
    tokens: float
    """Tokens that the updates processed."""
    rollout_tokens: float
    """Tokens that the student generated while training."""
    cpu_seconds: float
    """Processor time of the training."""


class Curve(Result):
    """The learning curve of a method on one base: validation accuracy over its seeds."""

    method: str
    """The method."""
    teacher_noise: str | None
    """The teacher's noise; None if the method does not use the teacher."""
    base: str
    """The student before training."""
    n_seeds: int
    """Seeds."""
    steps: tuple[int, ...]
    """The steps that all seeds logged."""
    mean: tuple[float, ...]
    """Mean over the seeds, for every step."""
    low: tuple[float, ...]
    """Lowest seed, for every step."""
    high: tuple[float, ...]
    """Highest seed, for every step."""


class Multiplicity(Result):
    """How many differences are shown, and how many intervals exclude zero."""

    shown: int
    """Differences in all tables."""
    distinct: int
    """The same, but a difference that recurs under every noise counts once."""
    excluding_zero: int
    """Differences whose interval excludes zero."""
    corrected: bool
    """Whether the intervals are corrected for multiplicity."""


class IntervalSettings(Result):
    """How the intervals were computed."""

    interval: str
    """Name of the procedure."""
    focus: str
    """The method that is compared with every other one."""
    confidence: float
    """Nominal coverage, such as 0.95."""
    replicates: int
    """Bootstrap replicates."""
    seed: int
    """Seed of the resampling."""


class Comparison(Result):
    """Everything that a comparison measured. The figures follow from `cells` alone."""

    settings: dict[str, Any]
    """What was compared (suite, package versions, recipe settings), copied from the caller; the top level of
    comparison.json."""
    version: int
    """Version of this format."""
    methods: tuple[str, ...]
    """Methods, the untrained base first."""
    bases: tuple[str, ...]
    """Students that training started from."""
    seeds: tuple[int, ...]
    """Seeds of the runs."""
    teacher_noise: tuple[str | None, ...]
    """The teacher's noises; (None,) if no method uses the teacher."""
    domains: tuple[str, ...]
    """Domains of the suite."""
    items: dict[str, int]
    """Items by domain."""
    core: tuple[str, ...]
    """Domains of the headline score."""
    statistics: IntervalSettings
    """How the intervals were computed."""
    missing: tuple[str, ...]
    """Names of the cells that a full grid would have and this one lacks."""
    multiplicity: Multiplicity
    """How many differences are shown, and how many intervals exclude zero."""
    accuracy: tuple[Accuracy, ...]
    """Accuracy of every method on every domain."""
    differences: tuple[Difference, ...]
    """Paired differences on every domain."""
    costs: tuple[Cost, ...]
    """Costs of every method."""
    curves: tuple[Curve, ...]
    """Learning curves."""
    cells: tuple[Cell, ...]
    """The runs that everything was computed from."""

    @property
    def scopes(self) -> list[str]:
        """The domains and the pooled scores, in the order of a table's columns."""
        return list(dict.fromkeys(row.domain for row in self.accuracy))

    def to_json(self) -> dict[str, Any]:
        """The content of comparison.json. Settings cannot replace a figure."""
        values = self.model_dump(mode="json")
        settings: dict[str, Any] = values.pop("settings")
        return settings | values

    @classmethod
    def settings_of(cls, stored: dict[str, Any]) -> dict[str, Any]:
        """The settings in a comparison.json: everything but the fields of this class."""
        return {key: value for key, value in stored.items() if key not in cls.model_fields}
