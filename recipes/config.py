"""What the configs of all methods share: the tasks, the adapter, and how YAML becomes a config.

A config is frozen and typed. `build_config` checks it as a whole and reports every mistake at once. The settings that
belong to one method are in its own file: `mentor.py` (and its two baselines), `sft.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import pydantic
from pydantic import Field

from mentor_edge.chat.setting import TemplateSetting, argument_mistakes, template_mistakes
from mentor_edge.errors import ConfigError, RunError, did_you_mean
from mentor_edge.path_kind import kind_of
from mentor_edge.rewards import CombinedReward, Reward, reward_function
from mentor_edge.tasks.nano.teacher import Noise
from mentor_edge.template_record import Scalar
from mentor_edge.tools.catalog import spec_mistakes
from mentor_edge.yaml_text import parse_yaml

DEFAULTS: Mapping[str, Any] = MappingProxyType({})
"""A section without settings: every field has its default."""

Positive = pydantic.PositiveInt


class Section(pydantic.BaseModel):
    """A group of settings: frozen; unknown keys are errors."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TasksConfig(Section):
    """Where training tasks come from."""

    suite: Literal["nano", "calculator", "gsm8k", "jsonl"] = "nano"
    """The kind of tasks: nano and calculator tasks are generated; the others are read from `path`."""
    path: Path | None = None
    """The tasks file. gsm8k: JSON lines of tool trajectories; jsonl: see docs/tasks.md."""
    tools: tuple[Any, ...] = ()
    """jsonl: tools with an implementation, as `mentor_edge.tools.catalog` names them: [calculator, {mcp: "..."}]."""
    limit: Positive | None = 1000
    """Use at most this many tasks, from the start. None: all tasks of a file, 1000 generated ones."""
    teacher_noise: Noise = Noise.MILD
    """How imperfect the programmatic teacher of the nano suite is."""
    references: Positive = 1
    """How many references the nano suite's teacher makes for each task. MENTOR counts the best match; SFT imitates all
    of them."""
    keep_references: Literal["all", "shortest"] = "all"
    """"shortest": of a task's references that pass validation, keep the one with the fewest calls."""

    @pydantic.field_validator("references")
    @classmethod
    def _check_references(cls, value: int, info: pydantic.ValidationInfo) -> int:
        suite = info.data.get("suite", "nano")
        if suite != "nano" and value > 1:
            own = "its own references" if suite == "jsonl" else "one reference for each task"
            raise ValueError(f"suite {suite} has {own}")
        return value

    @pydantic.field_validator("tools", mode="before")
    @classmethod
    def _check_tools(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        specs = [value] if isinstance(value, str | Mapping) else value
        if specs and info.data.get("suite") not in ("jsonl", None):
            raise ValueError(f"suite {info.data['suite']} has its own tools")
        if isinstance(specs, Sequence) and (mistakes := spec_mistakes(specs)):
            raise ValueError("; ".join(mistakes))
        return specs

    @pydantic.model_validator(mode="after")
    def _check_path(self) -> Self:
        if self.suite in ("gsm8k", "jsonl") and self.path is None:
            raise ValueError(f"suite {self.suite} needs a path (--set tasks.path=PATH)")
        return self


def tasks_section(value: Any) -> Any:
    """Expand the shorthand of a `tasks` section: a suite's name, or the path of a JSONL file."""
    if not isinstance(value, str):
        return value
    return {"suite": "jsonl", "path": value} if value.endswith(".jsonl") else {"suite": value}


class LoraConfig(Section):
    """The LoRA adapter that is trained. It covers every linear layer except the output head."""

    rank: Positive = 8
    """The rank of the update matrices."""
    alpha: Positive = 16
    """The update is scaled by alpha / rank; alpha is usually twice the rank."""
    base: Literal["full", "nf4"] = "full"
    """"nf4" keeps the frozen base weights in 4 bits (QLoRA), "full" as they are stored."""


Weight = Annotated[float, Field(strict=True, gt=-1e6, lt=1e6, allow_inf_nan=False)]
"""A finite number; a number in quotes is refused."""


class ExtraReward(Section):
    """A user's own reward: a function of (trajectory, task) that returns a number."""

    function: str
    """Its dotted path, such as my_rewards.brevity. The working directory is searched, too."""
    weight: Weight = 1.0
    """Its result is multiplied by this number."""

    @pydantic.field_validator("function")
    @classmethod
    def _check_function(cls, value: str) -> str:
        try:
            reward_function(value)
        except ConfigError as error:
            raise ValueError(error.problems[0]) from None
        return value


class RewardConfig(Section):
    """The part of a `reward` section that all methods with rewards share."""

    extra: tuple[ExtraReward, ...] = ()
    """Your own rewards, each added with its weight."""

    def build(self) -> Reward:
        """The reward as configured.

        Returns:
            A function of (trajectory, task).
        """
        extras = [(reward_function(extra.function), extra.weight) for extra in self.extra]
        return CombinedReward(self._base(), extras) if extras else self._base()

    def _base(self) -> Reward:
        """The method's reward without the extras."""
        raise NotImplementedError


class RecipeConfig(Section):
    """What every method needs."""

    student: str = "nano"
    """The model to train: "nano" or "nano-broad" (made on the spot), a local Hugging Face directory, a
    GGUF file, or a hub id if a hub can be reached."""
    from_run: Path | None = None
    """A finished run to continue from: its student, with the adapter merged in, replaces `student`."""
    template: str | None = None
    """The chat template to train and ship: "hermes" (ours, for students with ChatML tokens), "neutral" (ours, for
    others), or the path of a .jinja file. Default: the student's own; docs/templates.md says when to replace it."""
    template_arguments: dict[str, Scalar] = Field(default_factory=dict)
    """Variables to set in the chat template, such as {enable_thinking: false}. They are shipped with it."""
    tasks: TasksConfig = TasksConfig()
    """The tasks to train on."""
    output_dir: Path = Path("runs/fit")
    """The directory of the run. It must not exist yet, unless the run is resumed."""
    seed: pydantic.NonNegativeInt = 0
    """Seeds the generated tasks, the embedded student and the sampling."""
    lora: LoraConfig = LoraConfig()
    """The adapter."""

    @pydantic.field_validator("tasks", mode="before")
    @classmethod
    def _expand_tasks(cls, value: Any) -> Any:
        return tasks_section(value)

    @pydantic.field_validator("template")
    @classmethod
    def _check_template(cls, value: str | None) -> str | None:
        if mistakes := template_mistakes(value):
            raise ValueError("; ".join(mistakes))
        return value

    @pydantic.field_validator("template_arguments")
    @classmethod
    def _check_template_arguments(cls, value: dict[str, Scalar]) -> dict[str, Scalar]:
        if mistakes := argument_mistakes(value):
            raise ValueError("; ".join(mistakes))
        return value

    @pydantic.field_validator("from_run")
    @classmethod
    def _check_start(cls, value: Path | None, info: pydantic.ValidationInfo) -> Path | None:
        if value is not None and info.data.get("student", "nano") != "nano":
            raise ValueError(f"student {info.data['student']!r} is set, too; set only one of student and from_run")
        return value

    @property
    def template_setting(self) -> TemplateSetting:
        """The chat template and its arguments."""
        return TemplateSetting(self.template, self.template_arguments)


class SavedConfig(RecipeConfig):
    """The shared settings in a run's config.yaml. Those of the method are ignored."""

    model_config = pydantic.ConfigDict(extra="ignore")

    tasks: TasksConfig  # required: a run's config.yaml spells out everything
    seed: pydantic.NonNegativeInt
    lora: LoraConfig


_Config = TypeVar("_Config", bound=RecipeConfig)


def build_config(kind: type[_Config], values: Mapping[str, Any]) -> _Config:
    """Check `values` and make the config.

    Raises: ConfigError with every mistake: unknown keys, wrong types, values out of range.
    """
    try:
        return kind.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError([_mistake(kind, problem) for problem in error.errors()]) from None


def _mistake(kind: type[RecipeConfig], problem: Any) -> str:
    location = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        *sections, key = problem["loc"]
        return f"{location}: unknown key{did_you_mean(str(key), _keys(kind, sections))}"
    message = problem["msg"].removeprefix("Value error, ")
    value = problem["input"]
    return f"{location}: {message}" if isinstance(value, Mapping) else f"{location}: {message}, got {value!r}"


def _keys(kind: Any, path: Sequence[str | int]) -> list[str]:
    """The keys of the section at `path`; a number is an index into a list of sections."""
    for part in path:
        kind = get_args(kind)[0] if isinstance(part, int) else kind.model_fields[part].annotation
    return list(kind.model_fields)


def read_yaml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a recipe file and apply `key.sub=value` overrides (values are YAML).

    Raises: ConfigError when the file is missing or not a mapping, or an override cannot be read.
    """
    if path.exists() and (kind := kind_of(path)).name not in ("a recipe file", "a file"):
        raise ConfigError([f"{path} is {kind.name}, not a recipe file"], kind.advice)
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"cannot read {path}: {error.strerror}"]) from error
    except ValueError as error:
        raise ConfigError([f"{path} is not YAML: {error}"]) from error
    if not isinstance(values, dict):
        raise ConfigError([f"{path} contains {type(values).__name__}, not a mapping of settings"])
    problems = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            problems.append(f"override {override!r} is not KEY=VALUE")
            continue
        *sections, name = key.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                problems.append(f"override {override!r}: {section} is not a section")
                break
        else:
            try:
                target[name] = parse_yaml(text)
            except ValueError:
                problems.append(f"override {override!r} is not YAML after the =")
    if problems:
        raise ConfigError(problems)
    return values


def read_saved_config(directory: Path) -> SavedConfig:
    """The shared settings of the run in `directory`.

    Raises: ConfigError when its config.yaml cannot be read, RunError when it is damaged.
    """
    path = directory / "config.yaml"
    try:
        return SavedConfig.model_validate(read_yaml(path))
    except pydantic.ValidationError as error:
        raise RunError(f"{path} is damaged: {error.errors()[0]['msg']}") from error
