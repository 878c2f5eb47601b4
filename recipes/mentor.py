"""MENTOR (arXiv 2510.18383, as in its released code): reinforcement learning that rewards use of the teacher's tools.

The teacher's reference is never imitated. The student answers every prompt several times, its tool calls are executed
for real, each rollout is scored, and GRPO makes rollouts that score above their group's mean more likely:

1. the reward     `MentorRewardConfig`: right answer, same tools as the teacher, no made-up tool
2. the rollout    `RolloutConfig`: sampled answers with real tools, in `mentor_edge.agent.run_conversations`
3. the update     `PolicyTraining` and `grpo_arguments`: GRPO on a LoRA adapter
4. the recipe     `MentorRecipe`: `PolicyRecipe.train` combines the three
5. the baselines  `SparseRecipe` and `StrictRecipe`: the same with other rewards

`Recipe.fit` calls `train` after it has executed and validated the references. The default rates fit the embedded nano
student. The third baseline, imitation, is in `sft.py`, the plumbing between our rollouts and TRL in `grpo.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar

import pydantic
from pydantic import Field

from mentor_edge.agent import AgentLimits
from mentor_edge.arguments import checked_settings
from mentor_edge.progress import announced
from mentor_edge.rewards import Matching, MentorReward, Reward, SparseReward
from mentor_edge.template_record import Scalar
from mentor_edge.tools.execution.executor import ToolExecutor

from .base import Recipe
from .config import DEFAULTS, LoraConfig, Positive, RecipeConfig, RewardConfig, Section, TasksConfig, Weight
from .job import TrainingJob
from .run_record import Training

if TYPE_CHECKING:
    from trl import GRPOConfig

# 1. The reward


class MentorWeights(Section):
    """The numbers in the formula of `MentorRewardConfig`. The defaults are the paper's."""

    correct: Weight = 0.7
    """Paid for a right answer."""
    tool_match: Weight = 0.3
    """Paid for a full match with the teacher's tools."""
    no_unknown_tool: Weight = 0.1
    """Paid when every tool called was offered with the task."""
    wrong_scale: Weight = 0.2
    """The part of `tool_match` that a wrong answer keeps."""
    unanswered: Weight = 0.1
    """Paid for a finished turn without a final answer."""


class MentorRewardConfig(RewardConfig):
    """The reward of one rollout, as `mentor_edge.rewards.MentorReward` computes it:

        0.0 if not terminated
        else unanswered if not answered
        else correct * right
             + tool_match * match * (1 if right else wrong_scale)
             + no_unknown_tool * known

    `right` is 1 when the answer is an accepted one. `match`, from 0 to 1, is how well the calls match the teacher's; of
    several references the best counts. `known` is 1 when every tool called was offered with the task. The other
    names are the `weights`. With the paper's weights, a rollout earns at most 1.1. docs/rewards.md lists every case.
    """

    matching: Matching = "set"
    """What `match` compares. "set": the same tools, in any order and number (MENTOR); "overlap": at least one tool in
    common, and no term for unknown tools (the paper's ablation 2); "f1": F1 of the two sets (ablation 4); "none":
    nothing (ablation 3); "strict": the same calls in the same order; "calls": F1 of the calls (ours)."""
    weights: MentorWeights = MentorWeights()
    """The numbers in the formula."""
    bonus_needs_call: bool = False
    """Pay the term for unknown tools only to rollouts that called a tool, or if the teacher called none."""

    def _base(self) -> Reward:
        return MentorReward(self.matching, bonus_needs_call=self.bonus_needs_call, **self.weights.model_dump())


# 2. The rollout

_SMALL_STUDENT = 16_000_000


class RolloutConfig(Section):
    """How rollouts are generated. Lengths are in tokens. Their defaults depend on the student: the embedded ones answer
    in a few words, pretrained ones do not."""

    engine: Literal["edge", "trl"] = "edge"
    """"edge": our decode loop and the agent that also runs on the device; "trl": stock TRL with transformers'
    generate, for comparison."""
    temperature: pydantic.PositiveFloat = 1.0
    """The sampling temperature."""
    tool_rounds: Positive = 4
    """Most turns with tool calls in a rollout; the next turn must be the answer."""
    tokens_per_turn: Positive | None = None
    """The most tokens in one turn of the model. Default: 28 for students below 16 million parameters, as the embedded
    ones are, else 512."""
    completion_tokens: Positive | None = None
    """The budget of one rollout, tool results included. Default: 160 for students below 16 million parameters, else
    2,048."""
    decode_batch: Positive = 96
    """Rollouts decoded at once by the edge engine. Their KV caches must fit in memory."""
    tool_timeout: pydantic.PositiveFloat = 5.0
    """Seconds per tool call."""
    strict_calls: bool = False
    """Accept calls only in the spelling of the student's own chat template. A turn with a call in another one, such as
    JSON in a Markdown fence, counts as malformed and its calls are not executed. False: every spelling in
    docs/tool_calls.md is accepted."""

    @pydantic.model_validator(mode="after")
    def _check_strict_calls(self) -> Self:
        if self.strict_calls and self.engine == "trl":
            raise ValueError("strict_calls needs the engine edge: TRL's own rollouts read only one spelling")
        return self


def rollout_limits(rollout: RolloutConfig, parameters: int) -> AgentLimits:
    """The limits of a rollout of a student with so many parameters."""
    per_turn, in_all = (28, 160) if parameters < _SMALL_STUDENT else (512, 2048)
    per_turn = rollout.tokens_per_turn or per_turn
    return AgentLimits(rollout.tool_rounds, per_turn, rollout.completion_tokens or max(in_all, per_turn))


# 3. The update


class PolicyTraining(Section):
    """How much is trained. One step samples `prompts_per_step` groups of `rollouts_per_prompt` rollouts. The default
    learning rate and sizes fit the nano student; a pretrained student needs a rate near 1e-5 and a `micro_batch`."""

    steps: Positive = 140
    """Updates of the adapter."""
    prompts_per_step: Positive = 12
    """Prompts per step, one for each group."""
    rollouts_per_prompt: int = Field(default=8, ge=2)
    """The size of a group. GRPO learns from differences within a group, so one rollout is too few."""
    micro_batch: Positive | None = None
    """Rollouts per backward pass; a divisor of prompts_per_step x rollouts_per_prompt. Default: a whole step's."""
    learning_rate: pydantic.PositiveFloat = 2e-3
    """The learning rate after the warm-up; it stays constant."""
    warmup_steps: pydantic.NonNegativeInt = 5
    """Steps over which the learning rate rises from 0."""
    save_every: Positive = 10
    """Steps between checkpoints."""
    stop_after_dead_steps: Positive = 20
    """Stop when, for this many steps in a row, no group had rollouts that differ in reward: nothing can be learned."""

    @pydantic.model_validator(mode="after")
    def _check_micro_batch(self) -> Self:
        rollouts = self.prompts_per_step * self.rollouts_per_prompt
        if self.micro_batch is not None and rollouts % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide the {rollouts} rollouts of a step")
        return self


class PolicyConfig(RecipeConfig):
    """The config of a method that learns from its own rollouts."""

    train: PolicyTraining = PolicyTraining()
    """The update."""
    rollout: RolloutConfig = RolloutConfig()
    """The rollout."""
    reward: RewardConfig
    """The reward."""


def grpo_arguments(config: PolicyConfig, directory: Path, limits: AgentLimits) -> GRPOConfig:
    """TRL's `GRPOConfig`: the update of one step.

        advantage = (reward - mean of the group) / (standard deviation of the group + 1e-4)
        loss      = - sum over sampled tokens of advantage * log-probability, / number of sampled tokens in the step

    Prompts and tool results are masked out. There is one update for each batch of rollouts, so the policy that sampled
    is the policy that learns: the importance ratio is 1 and is never clipped. There is no KL term (beta 0). In TRL,
    `_generate_and_score_completions` computes the advantages, `_compute_loss` the loss ("dapo").
    """
    from trl import GRPOConfig

    from .trainer import common_arguments

    train, rollout = config.train, config.rollout
    rollouts = train.prompts_per_step * train.rollouts_per_prompt
    micro_batch = train.micro_batch or rollouts
    return GRPOConfig(
        **common_arguments(directory, seed=config.seed, steps=train.steps, save_every=train.save_every),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=rollouts // micro_batch,
        num_generations=train.rollouts_per_prompt,
        shuffle_dataset=False,  # `prompt_order` has shuffled it
        learning_rate=train.learning_rate,
        warmup_steps=train.warmup_steps,
        lr_scheduler_type="constant_with_warmup",
        temperature=rollout.temperature,
        max_completion_length=limits.completion_tokens,
        generation_kwargs={"max_new_tokens": limits.tokens_per_turn},
        max_tool_calling_iterations=limits.tool_rounds,
        loss_type="dapo",
        beta=0.0,
    )


# 4. The recipe

RewardSection = TypeVar("RewardSection", bound=RewardConfig)


class PolicyRecipe(Recipe, Generic[RewardSection]):
    """Sample, execute, score, update: what MENTOR and its baselines share. Only their rewards differ."""

    config: PolicyConfig

    @checked_settings
    def __init__(
        self,
        *,
        student: str = "nano",
        from_run: str | Path | None = None,
        template: str | Path | None = None,
        template_arguments: Mapping[str, Scalar] = DEFAULTS,
        tasks: str | TasksConfig | Mapping[str, Any] = DEFAULTS,
        output_dir: str | Path = "runs/fit",
        seed: int = 0,
        lora: LoraConfig | Mapping[str, Any] = DEFAULTS,
        train: PolicyTraining | Mapping[str, Any] = DEFAULTS,
        rollout: RolloutConfig | Mapping[str, Any] = DEFAULTS,
        reward: RewardSection | Mapping[str, Any] = DEFAULTS,
    ) -> None:
        """Check the settings. Nothing is loaded or written before `fit`.

        Args:
            student: "nano" or "nano-broad" (made on the spot), a Hugging Face directory, a GGUF file, or a hub id.
            from_run: A finished run to continue from: its student, with the adapter merged in, replaces `student`.
            template: The chat template to train and ship: "hermes", "neutral", or the path of a .jinja file. Default:
                the student's own.
            template_arguments: Variables to set in the chat template, such as {"enable_thinking": False}.
            tasks: The tasks to train on: a section, a suite's name, or the path of a JSONL file.
            output_dir: The directory of the run. It must not exist yet, unless the run is resumed.
            seed: Seeds the generated tasks, the embedded student and the sampling.
            lora: The adapter that is trained.
            train: The update: steps, group sizes, learning rate, checkpoints.
            rollout: The rollout: engine, temperature, limits in tokens and seconds.
            reward: The reward: weights, and your own functions in `extra`.

        Raises:
            ConfigError: With every mistake: unknown names, wrong types, values out of range.
        """
        super().__init__(
            student=student,
            from_run=from_run,
            template=None if template is None else str(template),
            template_arguments=dict(template_arguments),
            tasks=tasks,
            output_dir=output_dir,
            seed=seed,
            lora=lora,
            train=train,
            rollout=rollout,
            reward=reward,
        )

    def train(self, job: TrainingJob) -> Training:
        with announced(job.progress, "load the trainer"):
            from mentor_edge.engines.torch.limited_rendering import limited_rendering

            from .grpo import EdgeGRPOTrainer, StepReward, scheduled_prompts, step_row
            from .stock import stock_trainer
            from .student import load_trainable
            from .trainer import StallGuard, run_training

        config, train, rollout = self.config, self.config.train, self.config.rollout
        tasks = {task.id: task for task in job.tasks}
        prompts, coverage = scheduled_prompts(job.tasks, train.prompts_per_step, train.steps, config.seed)
        model, tokenizer, adapter = load_trainable(job.student, config.lora, job.progress)
        limits = rollout_limits(rollout, sum(parameter.numel() for parameter in model.parameters()))
        rewards = StepReward(config.reward.build(), tasks, train.rollouts_per_prompt)
        with ToolExecutor(timeout=rollout.tool_timeout) as executor, limited_rendering():
            shared: dict[str, Any] = {
                "tasks": tasks,
                "executor": executor,
                "model": model,
                "processing_class": tokenizer,
                "peft_config": adapter,
                "args": grpo_arguments(config, job.directory, limits),
                "train_dataset": prompts,
                "reward_funcs": rewards,
            }
            if rollout.engine == "edge":
                trainer: Any = EdgeGRPOTrainer(
                    limits=limits,
                    decode_batch=rollout.decode_batch,
                    strict_calls=rollout.strict_calls,
                    note=job.note,
                    **shared,
                )
            else:
                trainer = stock_trainer(**shared)
            trainer.add_callback(StallGuard(rewards, train.stop_after_dead_steps))
            training = run_training(trainer, self.name.upper(), job, coverage, step_row(rewards))
        return training.model_copy(update={"solved": rewards.solved})


class MentorConfig(PolicyConfig):
    """The settings of `MentorRecipe`."""

    recipe: Literal["mentor"] = "mentor"
    """The name of the method in recipe files."""
    reward: MentorRewardConfig = MentorRewardConfig()
    """The reward."""


class MentorRecipe(PolicyRecipe[MentorRewardConfig]):
    """MENTOR: GRPO, rewarded for the right answer and for using the teacher's tools.

    Tasks need an accepted answer and a reference. The fields of the sections are documented where they are defined:
    `TasksConfig`, `LoraConfig`, `PolicyTraining`, `RolloutConfig`, `MentorRewardConfig`.
    """

    config: MentorConfig
    config_type: ClassVar[type[RecipeConfig]] = MentorConfig
    name: ClassVar[str] = "mentor"


# 5. The paper's baselines: the same rollouts and the same update with another reward


class SparseWeights(Section):
    """The numbers of `SparseReward`. The defaults are those of the released code."""

    correct: Weight = 1.0
    """Paid for the right answer."""
    wrong: Weight = 0.1
    """Paid for a finished turn with a wrong answer or no answer."""


class SparseRewardConfig(RewardConfig):
    """Only the final answer is rewarded: `correct` if it is right, `wrong` if not, 0 if the turn was not finished."""

    weights: SparseWeights = SparseWeights()
    """The two numbers."""

    def _base(self) -> Reward:
        return SparseReward(**self.weights.model_dump())


class SparseConfig(PolicyConfig):
    """The settings of `SparseRecipe`."""

    recipe: Literal["sparse"] = "sparse"
    """The name of the method in recipe files."""
    reward: SparseRewardConfig = SparseRewardConfig()
    """The reward."""


class SparseRecipe(PolicyRecipe[SparseRewardConfig]):
    """Sparse-reward RL, the baseline without a teacher. Tasks need an accepted answer and no reference.

    The sections are those of `MentorRecipe`, except that `reward` is a `SparseRewardConfig`.
    """

    config: SparseConfig
    config_type: ClassVar[type[RecipeConfig]] = SparseConfig
    name: ClassVar[str] = "sparse"
    needs_reference: ClassVar[bool] = False


class StrictRewardConfig(RewardConfig):
    """MENTOR's formula, in which only the teacher's exact calls match: same order, same arguments."""

    weights: MentorWeights = MentorWeights()
    """The numbers in the formula of `MentorRewardConfig`."""

    def _base(self) -> Reward:
        return MentorReward("strict", **self.weights.model_dump())


class StrictConfig(PolicyConfig):
    """The settings of `StrictRecipe`."""

    recipe: Literal["strict"] = "strict"
    """The name of the method in recipe files."""
    reward: StrictRewardConfig = StrictRewardConfig()
    """The reward."""


class StrictRecipe(PolicyRecipe[StrictRewardConfig]):
    """Strict-trajectory RL, a baseline of the paper that its released code lacks. Tasks need an accepted answer and a
    reference.

    The sections are those of `MentorRecipe`, except that `reward` is a `StrictRewardConfig`.
    """

    config: StrictConfig
    config_type: ClassVar[type[RecipeConfig]] = StrictConfig
    name: ClassVar[str] = "strict"
