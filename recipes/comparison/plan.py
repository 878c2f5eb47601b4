"""The plan of a comparison: methods, bases, seeds, noises. It is checked as a whole before anything runs.

The plan is read from a recipe file. All methods share its student, tasks, adapter, number of updates and rollouts. The
optional `compare` section contains the rest:

    compare:
      methods: {sft: {train: {learning_rate: 1.0e-3}}, mine: {recipe: mentor, reward: {matching: calls}}}
      seeds: 3
      bases: [nano@0, nano-broad@0]
      teacher_noise: [clean, mild]
      evaluation: {suite: gsm8k, data: PATH, limit: 200}
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mentor_edge.chat.setting import TemplateSetting
from mentor_edge.errors import ConfigError
from mentor_edge.tasks.nano.suites import CORE_OOD, evaluation_suite, training_suite
from mentor_edge.tasks.nano.teacher import Noise
from mentor_edge.tasks.registry import SUITES, load_suite
from mentor_edge.tasks.types import Suite, Task

from ..base import Recipe
from ..config import read_yaml, tasks_section
from ..registry import RECIPES
from .cell import BASE

METHODS: Mapping[str, Mapping[str, Any]] = {
    "sft": {"recipe": "sft"},
    "sparse": {"recipe": "sparse"},
    "strict": {"recipe": "strict"},
    "mentor": {"recipe": "mentor"},
    **{
        f"mentor-{matching}": {"recipe": "mentor", "reward": {"matching": matching}}
        for matching in ("f1", "overlap", "none", "calls")
    },
    "mentor-refs": {"recipe": "mentor", "tasks": {"references": 4}},
    "mentor-minimal": {"recipe": "mentor", "tasks": {"references": 4, "keep_references": "shortest"}},
    "calls-minimal": {
        "recipe": "mentor", "reward": {"matching": "calls"}, "tasks": {"references": 4, "keep_references": "shortest"},
    },
    "sft-minimal": {"recipe": "sft", "tasks": {"references": 4, "keep_references": "shortest"}},
}  # a table  # fmt: skip
"""Methods by name. "a+b" trains with a, then continues with b, with half of the updates each."""

MAX_SEEDS = 10
_SECTION = ("methods", "seeds", "bases", "teacher_noise", "evaluation")
_COUNTS = {"id": 160, "para": 160, "comb": 160, "distract": 160, "names": 80, "long": 80, "irrel": 80, "lookup": 80}
_CURVE_COUNTS = {"id": 40, "para": 20, "comb": 20, "distract": 20}
_TEST, _VALIDATION, _CURVE = 0, 1001, 1002
"""Seeds of the nano draws: for reported figures, for choosing settings, and for learning curves. The draws have no
questions in common."""


@dataclass(frozen=True)
class CellPlan:
    """One cell: one or more recipes that run in sequence, the first on a base."""

    key: str
    """Name of the cell's directory."""
    base: str
    """The student to start from."""
    method: str
    """Name of the method."""
    seed: int | None
    """Seed of the training; None for an untrained base."""
    teacher_noise: str | None
    """Noise of the teacher; None if the method does not use the teacher."""
    stages: tuple[Mapping[str, Any], ...]
    """Settings of each recipe; empty for an untrained base."""


@dataclass(frozen=True)
class ComparisonPlan:
    """A checked comparison: everything that its result depends on."""

    shared: Mapping[str, Any]
    """The recipe settings that all methods share."""
    methods: Mapping[str, tuple[Mapping[str, Any], ...]]
    """The settings of each method's stages."""
    bases: tuple[str, ...]
    """The students to start from."""
    seeds: int
    """Seeds per method."""
    teacher_noise: tuple[str | None, ...]
    """Noises of the teacher; (None,) for tasks whose teacher is not a program."""
    updates: int
    """Optimizer updates of every cell."""
    evaluation: Mapping[str, Any]
    """What to measure on: `suite`, `data`, `limit`."""
    validation: bool
    """Whether to measure on the validation draw."""

    @property
    def template_setting(self) -> TemplateSetting:
        """The chat template of all students, and its arguments."""
        return TemplateSetting(self.shared.get("template"), self.shared.get("template_arguments") or {})

    @classmethod
    def read(
        cls,
        path: Path,
        *,
        methods: Sequence[str] | None = None,
        seeds: int | None = None,
        bases: Sequence[str] | None = None,
        teacher_noise: Sequence[str] | None = None,
        validation: bool = False,
        overrides: Sequence[str] = (),
    ) -> ComparisonPlan:
        """Read a recipe file. Arguments replace the values of its `compare` section.

        Raises: ConfigError with every mistake, including those in each method's own configuration.
        """
        shared = read_yaml(path, overrides)
        section = shared.pop("compare", {})
        if not isinstance(section, dict):
            raise ConfigError([f"compare: expected a mapping, got {section!r}"])
        problems = [
            f"compare.{key}: unknown key (known: {', '.join(_SECTION)})" for key in section if key not in _SECTION
        ]
        problems += _shared_mistakes(shared)
        tasks = tasks_section(shared.get("tasks", {}))
        methods_section = section.get("methods", {})
        own = methods_section if isinstance(methods_section, dict) else {name: {} for name in methods_section}
        names = list(methods or own or ("sft", "sparse", "strict", "mentor"))
        stages_of = {name: _stages(name, own, problems) for name in names}
        seeds = section.get("seeds", 3) if seeds is None else seeds
        if not isinstance(seeds, int) or not 1 <= seeds <= MAX_SEEDS:
            problems.append(f"seeds: expected a number from 1 to {MAX_SEEDS}, got {seeds!r}")
            seeds = 1
        nano = tasks.get("suite", "nano") == "nano"
        default_noise = [tasks.get("teacher_noise", Noise.MILD)] if nano else [None]
        noises = list(teacher_noise or section.get("teacher_noise") or default_noise)
        if not nano and noises != default_noise:
            problems.append("teacher noise is a setting of the nano tasks, whose teacher is a program")
        problems += [
            f"teacher noise {noise!r} is unknown (known: {', '.join(Noise)})"
            for noise in noises
            if noise is not None and noise not in list(Noise)
        ]
        train = shared.get("train", {})
        plan = cls(
            shared=shared,
            methods=stages_of,
            seeds=seeds,
            validation=validation,
            bases=tuple(bases or section.get("bases") or [str(shared.get("student", "nano"))]),
            teacher_noise=tuple(None if noise is None else str(noise) for noise in noises),
            updates=train.get("steps", 60) if isinstance(train, dict) else 60,
            evaluation=section.get("evaluation") or {"suite": "nano"},
        )
        if not nano and "evaluation" not in section:
            problems.append(f"compare.evaluation: name what to measure on (suite: {', '.join(SUITES)}; data: PATH)")
        problems += plan._evaluation_mistakes()
        if not problems:
            for cell in plan.cells():
                problems += [
                    f"{cell.method}: {problem}"
                    for problem in plan.mistakes(cell)
                    if f"{cell.method}: {problem}" not in problems
                ]
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))
        return plan

    def cells(self) -> Iterator[CellPlan]:
        """Every cell, the untrained bases first. A method that does not use the teacher has one cell for all noises."""
        for base in self.bases:
            yield CellPlan(f"{_file_name(base)}-base", base, BASE, None, None, ())
        for seed, noise, base in itertools.product(range(self.seeds), self.teacher_noise, self.bases):
            for method, stages in self.methods.items():
                uses_teacher = any(RECIPES[stage["recipe"]].needs_reference for stage in stages)
                if not uses_teacher and noise != self.teacher_noise[0]:
                    continue
                own_noise = noise if uses_teacher else None
                parts = (_file_name(base), method, own_noise, f"seed{seed}")
                key = "-".join(part for part in parts if part)
                yield CellPlan(key, base, method, seed, own_noise, stages)

    def recipe(self, cell: CellPlan, stage: int, *, start: Mapping[str, Any], output_dir: Path) -> Recipe:
        """The recipe of one stage of a cell. `start` is either `student` or `from_run`.

        Raises: ConfigError.
        """
        values = dict(cell.stages[stage])
        kind = RECIPES[values.pop("recipe")]
        same_training = _training(kind) == _training(RECIPES.get(str(self.shared.get("recipe")), kind))
        settings: dict[str, Any] = {}
        for name in kind.config_type.model_fields:
            value = self.shared.get(name)
            # Batch sizes and rates of one kind of training do not transfer to the other.
            if value is None or name in ("recipe", "student", "from_run", "output_dir", "seed"):
                continue
            if name == "reward" and self.shared.get("recipe") != kind.name:
                value = {"extra": value.get("extra", ())}  # extra rewards apply to every method; weights do not
            settings[name] = value if name != "train" or same_training else {}
        if "tasks" in settings:
            settings["tasks"] = tasks_section(settings["tasks"])
        settings = _merged(settings, values)
        per_stage = self.updates // len(cell.stages)
        steps = per_stage if stage else self.updates - per_stage * (len(cell.stages) - 1)
        forced: dict[str, Any] = {
            **start,
            "output_dir": output_dir,
            "seed": cell.seed,
            "train": {"steps": steps, "save_every": max(1, -(-steps // 4))},
        }
        if cell.teacher_noise is not None:
            forced["tasks"] = {"teacher_noise": cell.teacher_noise}
        if "rollout" in kind.config_type.model_fields:
            forced["train"]["stop_after_dead_steps"] = steps + 1  # learning nothing is a result, too
        return kind(**_merged(settings, forced))

    def mistakes(self, cell: CellPlan) -> list[str]:
        """The mistakes in the configuration of a cell's stages."""
        mistakes: list[str] = []
        for stage in range(len(cell.stages)):
            try:
                self.recipe(cell, stage, start={"student": "nano"}, output_dir=Path("unused"))
            except ConfigError as error:
                mistakes += error.problems
        return mistakes

    def suite(self) -> Suite:
        """The items that every cell answers. No nano item repeats a question of the training tasks of any seed.

        Raises: TaskError.
        """
        if self.evaluation["suite"] != "nano":
            return load_suite(self.evaluation["suite"], self.evaluation.get("data"), self.evaluation.get("limit"))
        return _nano_draw(_VALIDATION if self.validation else _TEST, self._training_limit, self.evaluation.get("limit"))

    def curve_suite(self) -> Suite | None:
        """The items of the learning curves; None for suites other than nano."""
        limit = self.evaluation.get("limit")
        return _nano_draw(_CURVE, self._training_limit, limit) if self.evaluation["suite"] == "nano" else None

    @property
    def core(self) -> tuple[str, ...]:
        """The domains of the headline score."""
        if self.evaluation["suite"] == "nano":
            return CORE_OOD
        suite = self.suite()
        domains = dict.fromkeys(task.domain for task in suite.tasks if task.split == "ood")
        return tuple(domains or dict.fromkeys(task.domain for task in suite.tasks))

    @property
    def _training_limit(self) -> int:
        """The number of training tasks."""
        tasks = self.shared.get("tasks", {})
        return (tasks.get("limit") if isinstance(tasks, dict) else None) or 1000

    def _evaluation_mistakes(self) -> list[str]:
        evaluation = self.evaluation
        if not isinstance(evaluation, Mapping) or evaluation.get("suite") not in SUITES:
            return [f"compare.evaluation: expected a suite ({', '.join(SUITES)}), got {evaluation!r}"]
        if unknown := [key for key in evaluation if key not in ("suite", "data", "limit")]:
            return [f"compare.evaluation.{key}: unknown key (known: suite, data, limit)" for key in unknown]
        limit = evaluation.get("limit")
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            return [f"compare.evaluation.limit: expected a whole number from 1, got {limit!r}"]
        if evaluation["suite"] != "nano" and self.validation:
            return ["validation draws exist for the nano suite only"]
        return []

    def fingerprint(self, cell: CellPlan) -> dict[str, Any]:
        """Everything that a finished cell's result depends on, as JSON. Resuming compares it."""
        stages = [
            self.recipe(cell, stage, start={"student": "nano"}, output_dir=Path("cell")).config.model_dump(mode="json")
            for stage in range(len(cell.stages))
        ]
        return {"base": cell.base, "stages": stages, "evaluation": dict(self.evaluation), "validation": self.validation}

    def to_json(self) -> dict[str, Any]:
        """The settings that comparison.json stores."""
        return {
            "shared": {
                key: value for key, value in self.shared.items() if key not in ("output_dir", "seed", "student")
            },
            "methods": {name: list(stages) for name, stages in self.methods.items()},
            "updates": self.updates,
            "evaluation": dict(self.evaluation),
            "draw": "validation" if self.validation else "test",
        }


def _shared_mistakes(shared: Mapping[str, Any]) -> list[str]:
    """The mistakes in the shared settings, checked as settings of the recipe that they name."""
    name = shared.get("recipe", "mentor")
    if not isinstance(name, str) or name not in RECIPES:
        return [f"recipe: {name!r} is unknown (known: {', '.join(RECIPES)})"]
    try:
        RECIPES[name](**{key: value for key, value in shared.items() if key != "recipe"})
    except ConfigError as error:
        return error.problems
    return []


def _stages(name: str, own: Mapping[str, Any], problems: list[str]) -> tuple[Mapping[str, Any], ...]:
    stages = []
    for part in name.split("+"):
        values = own.get(part, {}) or {}
        if not isinstance(values, Mapping):
            problems.append(f"compare.methods.{part}: expected a mapping, got {values!r}")
            continue
        stage = _merged(METHODS.get(part, {}), values)
        if stage.get("recipe") not in RECIPES:
            known = ", ".join(dict.fromkeys((*METHODS, *own)))
            problems.append(f"method {part!r} is unknown (known: {known}; a+b trains with a, then with b)")
            continue
        stages.append(stage)
    return tuple(stages)


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """`first` with the values of `second` on top, section by section."""
    result = dict(first)
    for key, value in second.items():
        existing = result.get(key)
        both_sections = isinstance(existing, Mapping) and isinstance(value, Mapping)
        result[key] = _merged(existing, value) if both_sections else value  # type: ignore[arg-type]
    return result


def _training(recipe: type[Recipe]) -> Any:
    """The class of a recipe's `train` section."""
    return recipe.config_type.model_fields["train"].annotation


@functools.cache
def _nano_draw(draw: int, training_tasks: int, limit: int | None) -> Suite:
    """One draw of the nano domains, with at most `limit` items of each. It repeats no question of the first
    `training_tasks` training tasks of any seed, and none of the draw for reported figures.
    """
    excluded: list[Task] = [
        task for seed in range(MAX_SEEDS) for task in training_suite(training_tasks, seed=seed).tasks
    ]
    if draw != _TEST:
        excluded += _nano_draw(_TEST, training_tasks, None).tasks
    counts = _CURVE_COUNTS if draw == _CURVE else _COUNTS
    suite = evaluation_suite(counts, seed=draw, exclude=Suite("", "", tuple(excluded)))
    return suite if limit is None else suite.at_most(limit)


def _file_name(base: str) -> str:
    return "".join(character if character.isalnum() or character in "@.-_" else "_" for character in Path(base).name)
