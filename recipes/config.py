"""Recipe configurations: frozen, typed, and checked as a whole, so that all mistakes are reported at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

import pydantic
import yaml
from pydantic import Field

from mentor_edge.errors import ConfigError
from mentor_edge.rewards import CombinedReward, Matching, MentorReward, Reward, SparseReward, reward_function
from mentor_edge.tasks.nano.teacher import Noise
from mentor_edge.tools.catalog import spec_mistakes

Positive = pydantic.PositiveInt


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TasksConfig(_Section):
    """Where training tasks come from."""

    suite: Literal["nano", "calculator", "gsm8k", "jsonl"] = "nano"
    path: Path | None = None
    """The tasks file (gsm8k: JSON lines of tool trajectories; jsonl: docs/tasks.md); the others are generated."""
    tools: tuple[Any, ...] = ()
    """jsonl: tools with an implementation, as `mentor_edge.tools.catalog` names them: [calculator, {mcp: "..."}]."""
    limit: Positive | None = 1000
    """At most this many tasks, from the start."""
    teacher_noise: Noise = Noise.MILD
    """How imperfect the nano suite's programmatic teacher is."""
    references: Positive = 1
    """Traces that the nano suite's teacher gives for each task. Of several, the one that matches best counts for
    MENTOR, and SFT imitates all of them."""
    keep_references: Literal["all", "shortest"] = "all"
    """"shortest": of a task's references that passed validation, keep the one with the fewest calls."""

    @pydantic.field_validator("references")
    @classmethod
    def _references_there(cls, value: int, others: pydantic.ValidationInfo) -> int:
        suite = others.data.get("suite", "nano")
        if suite != "nano" and value > 1:
            own = "its own references" if suite == "jsonl" else "one reference for each task"
            raise ValueError(f"suite {suite} has {own}")
        return value

    @pydantic.field_validator("tools", mode="before")
    @classmethod
    def _tools_known(cls, value: Any, others: pydantic.ValidationInfo) -> Any:
        specs = [value] if isinstance(value, str | Mapping) else value
        if specs and others.data.get("suite") not in ("jsonl", None):
            raise ValueError(f"suite {others.data['suite']} has its own tools")
        if isinstance(specs, Sequence) and (mistakes := spec_mistakes(specs)):
            raise ValueError("; ".join(mistakes))
        return specs

    @pydantic.model_validator(mode="after")
    def _path_where_needed(self) -> Self:
        if self.suite in ("gsm8k", "jsonl") and self.path is None:
            raise ValueError(f"suite {self.suite} needs a path (--set tasks.path=PATH)")
        return self


def tasks_section(value: Any) -> Any:
    """The `tasks` section that a bare name, or the path of a JSONL file, stands for; a section as it is."""
    if not isinstance(value, str):
        return value
    return {"suite": "jsonl", "path": value} if value.endswith(".jsonl") else {"suite": value}


class LoraConfig(_Section):
    """The adapter. It sits on every linear layer but the head."""

    rank: Positive = 8
    alpha: Positive = 16
    base: Literal["full", "nf4"] = "full"
    """"nf4" keeps the frozen base weights in 4 bits (QLoRA); "full" as they are stored."""


class SupervisedTraining(_Section):
    steps: Positive = 60
    batch_size: Positive = 64
    learning_rate: pydantic.PositiveFloat = 2e-3
    warmup_steps: pydantic.NonNegativeInt = 5
    save_every: Positive = 20


class PolicyTraining(_Section):
    steps: Positive = 140
    prompts_per_step: Positive = 12
    rollouts_per_prompt: int = Field(default=8, ge=2)
    micro_batch: Positive | None = None
    """Rollouts per backward pass; a divisor of prompts_per_step x rollouts_per_prompt. Default: all of a step."""
    learning_rate: pydantic.PositiveFloat = 2e-3
    warmup_steps: pydantic.NonNegativeInt = 5
    save_every: Positive = 10
    stop_after_dead_steps: Positive = 20
    """Stop when this many steps in a row had no group of rollouts that differ in reward: nothing can be learned."""

    @pydantic.model_validator(mode="after")
    def _micro_batch_divides(self) -> Self:
        rollouts = self.prompts_per_step * self.rollouts_per_prompt
        if self.micro_batch is not None and rollouts % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide the {rollouts} rollouts of a step")
        return self


class RolloutConfig(_Section):
    """How rollouts are generated. Lengths are in tokens."""

    engine: Literal["edge", "trl"] = "edge"
    """"edge": our decode loop and agent; "trl": stock TRL with transformers' generate, for comparison."""
    temperature: pydantic.PositiveFloat = 1.0
    tool_rounds: Positive = 4
    tokens_per_turn: Positive = 28
    completion_tokens: Positive = 160
    """Budget of one rollout, tool results included."""
    decode_batch: Positive = 96
    """Rollouts decoded at once by the edge engine: the KV caches of this many conversations must fit in memory."""
    tool_timeout: pydantic.PositiveFloat = 5.0
    """Seconds per tool call."""


_NO_WEIGHTS = ("matching", "bonus_needs_call")


class ExtraReward(_Section):
    """A user's own reward: a function of (trajectory, task) that returns a number."""

    function: str
    """Dotted path, such as my_rewards.brevity; the working directory is searched too."""
    weight: pydantic.FiniteFloat = 1.0

    @pydantic.field_validator("function")
    @classmethod
    def _can_be_imported(cls, value: str) -> str:
        try:
            reward_function(value)
        except ConfigError as error:
            raise ValueError(error.problems[0]) from None
        return value


class SparseRewardConfig(_Section):
    """`SparseReward`'s weights, and further rewards."""

    kind: ClassVar[Callable[..., Reward]] = SparseReward

    weights: Mapping[str, Any] = Field(default_factory=dict)
    """Weights that differ from the released code's: those of the reward's class."""
    extra: tuple[ExtraReward, ...] = ()
    """Further rewards, each added with its weight."""

    @pydantic.field_validator("weights")
    @classmethod
    def _weights_fit(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        known = [name for name in inspect.signature(cls.kind).parameters if name not in _NO_WEIGHTS]
        problems = [f"unknown weight {name} (known: {', '.join(known)})" for name in value if name not in known]
        try:
            cls.kind(**{name: weight for name, weight in value.items() if name in known})
        except ConfigError as error:
            problems += error.problems
        if problems:
            raise ValueError("; ".join(problems))
        return value

    def base(self) -> Reward:
        """The reward without the extras."""
        return self.kind(**self.weights)

    def build(self) -> Reward:
        """The reward as configured."""
        extras = [(reward_function(extra.function), extra.weight) for extra in self.extra]
        return CombinedReward(self.base(), extras) if extras else self.base()


class StrictRewardConfig(SparseRewardConfig):
    """`MentorReward`'s weights with the matching that the strict method stands for."""

    kind: ClassVar[Callable[..., Reward]] = MentorReward

    def base(self) -> Reward:
        return MentorReward("strict", **self.weights)


class MentorRewardConfig(SparseRewardConfig):
    """`MentorReward`'s arguments, and further rewards."""

    kind: ClassVar[Callable[..., Reward]] = MentorReward
    matching: Matching = "set"
    bonus_needs_call: bool = False

    def base(self) -> Reward:
        return MentorReward(self.matching, bonus_needs_call=self.bonus_needs_call, **self.weights)


class RecipeConfig(_Section):
    """What every recipe needs."""

    student: str = "nano"
    """"nano" or "nano-broad" (made on the spot), a local Hugging Face directory, or a hub id if a hub is in reach."""
    from_run: Path | None = None
    """A finished run whose student, with its adapter merged in, is trained further; it stands in for `student`."""
    tasks: TasksConfig = TasksConfig()
    output_dir: Path = Path("runs/fit")
    seed: pydantic.NonNegativeInt = 0
    lora: LoraConfig = LoraConfig()

    @pydantic.field_validator("tasks", mode="before")
    @classmethod
    def _suite_shorthand(cls, value: Any) -> Any:
        return tasks_section(value)

    @pydantic.field_validator("from_run")
    @classmethod
    def _one_start(cls, value: Path | None, others: pydantic.ValidationInfo) -> Path | None:
        if value is not None and others.data.get("student", "nano") != "nano":
            raise ValueError(f"student {others.data['student']!r} says where to start, too; give one of the two")
        return value


class SftConfig(RecipeConfig):
    recipe: Literal["sft"] = "sft"
    train: SupervisedTraining = SupervisedTraining()


class PolicyConfig(RecipeConfig):
    """What every method needs that learns from its own rollouts."""

    train: PolicyTraining = PolicyTraining()
    rollout: RolloutConfig = RolloutConfig()
    reward: SparseRewardConfig


class SparseConfig(PolicyConfig):
    recipe: Literal["sparse"] = "sparse"
    reward: SparseRewardConfig = SparseRewardConfig()


class StrictConfig(PolicyConfig):
    recipe: Literal["strict"] = "strict"
    reward: StrictRewardConfig = StrictRewardConfig()


class MentorConfig(PolicyConfig):
    recipe: Literal["mentor"] = "mentor"
    reward: MentorRewardConfig = MentorRewardConfig()


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
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        section: Any = kind
        for part in problem["loc"][:-1]:
            section = section.model_fields[part].annotation
        return f"{where}: unknown key (known: {', '.join(section.model_fields)})"
    message = problem["msg"].removeprefix("Value error, ")
    seen = problem["input"]
    return f"{where}: {message}" if isinstance(seen, Mapping) else f"{where}: {message}, got {seen!r}"


def read_yaml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a recipe file and apply `key.sub=value` overrides (values are YAML).

    Raises: ConfigError when the file is missing, is no mapping, or an override cannot be read.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"cannot read {path}: {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path} is not YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(values, dict):
        raise ConfigError([f"{path} holds {type(values).__name__}, not a mapping of settings"])
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
                target[name] = yaml.safe_load(text)
            except yaml.YAMLError:
                problems.append(f"override {override!r} is not YAML after the =")
    if problems:
        raise ConfigError(problems)
    return values
