"""`EdgeGRPOTrainer`: TRL's GRPOTrainer with our rollouts. The method itself, with its settings, is in `mentor.py`.

TRL computes loss, masks and log-probabilities, draws the prompts and saves checkpoints. We override two methods and use
its `rollout_func` hook. tests/contracts/test_trl.py checks what we rely on in TRL 1.16:
- `_generate_and_score_completions(inputs)` gets one row per rollout, group after group, and calls `rollout_func`;
- extra lists in the hook's result reach the reward functions as keyword arguments; `env_mask` marks sampled tokens;
- `_compute_loss(model, inputs)` normalises "dapo" losses by `num_items_in_batch`, not by the rows it is given.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from datasets import Dataset
from trl import GRPOTrainer

from mentor_edge.agent import AgentLimits, run_conversations
from mentor_edge.engines.torch.adapter import merged_adapter
from mentor_edge.engines.torch.engine import TransformersEngine
from mentor_edge.messages import Ending, Limit, Trajectory
from mentor_edge.rewards import Reward, RewardBreakdown
from mentor_edge.tasks.types import Task
from mentor_edge.tools.execution.executor import ToolExecutor

from .schedule import Coverage, prompt_order
from .steps import FlatGroups, PolicyStep

logger = logging.getLogger(__name__)

_LOGGED = (
    "reward",
    "accuracy",
    "malformed",
    "truncated",
    "prompts_too_long",
    "tool_errors",
    "calls",
    "loss",
    "entropy",
)
_FLAT = 1e-6
"""Rewards that differ by less than this count as equal."""


class StepReward:
    """The reward as TRL calls it. It keeps the flat groups of the last batch for the metrics of the step."""

    __name__ = "reward"

    def __init__(self, reward: Reward, tasks: Mapping[str, Task], group_size: int) -> None:
        self._reward = reward
        self._tasks = tasks
        self._group_size = group_size
        self.flat_groups: list[FlatGroups] = []
        """The groups of the last step whose rollouts all earned the same, so that nothing was learned from them."""
        self.dead_steps = 0
        """Steps in a row in which the rollouts of every group earned the same reward."""
        self.solved = False
        """Whether every rollout of the last step earned the maximum."""

    def __call__(
        self, *, task_id: Sequence[str], trajectory: Sequence[Trajectory], log_metric: Callable[..., None], **_: Any
    ) -> list[float]:
        scored = [self._reward(t, self._tasks[key]) for t, key in zip(trajectory, task_id, strict=True)]
        count = len(scored)
        log_metric("accuracy", sum(breakdown.correct for breakdown in scored) / count)
        log_metric("malformed", sum(t.ending is Ending.MALFORMED for t in trajectory) / count)
        log_metric("truncated", sum(not t.terminated for t in trajectory) / count)
        log_metric("prompts_too_long", sum(t.cut_by is Limit.PROMPT for t in trajectory) / count)
        log_metric("tool_errors", sum(t.tool_errors for t in trajectory) / count)
        log_metric("calls", sum(len(t.calls) for t in trajectory) / count)
        log_metric("sampled_tokens", sum(sum(t.sampled) for t in trajectory))
        self._diagnose(task_id, scored)
        return [breakdown.total for breakdown in scored]

    def _diagnose(self, task_ids: Sequence[str], scored: Sequence[RewardBreakdown]) -> None:
        flat: dict[tuple[float, str], list[str]] = {}
        starts = range(0, len(scored), self._group_size)
        for start in starts:
            group = scored[start : start + self._group_size]
            totals = [breakdown.total for breakdown in group]
            if max(totals) - min(totals) < _FLAT:
                reasons = ", ".join(sorted({breakdown.reason for breakdown in group}))
                flat.setdefault((round(totals[0], 6), reasons), []).append(task_ids[start])
        self.flat_groups = [
            FlatGroups(reward=reward, reason=reason, tasks=tuple(tasks))
            for (reward, reason), tasks in sorted(flat.items())
        ]
        dead = sum(map(len, flat.values())) == len(starts)
        self.dead_steps = self.dead_steps + 1 if dead else 0
        self.solved = dead and all(reward >= self._reward.maximum - _FLAT for reward, _ in flat)


class EdgeGRPOTrainer(GRPOTrainer):
    """GRPOTrainer whose rollouts run in our agent loop, over our decode loop, with the adapter merged."""

    def __init__(
        self,
        *,
        tasks: Mapping[str, Task],
        limits: AgentLimits,
        decode_batch: int = 96,
        strict_calls: bool = False,
        executor: ToolExecutor,
        note: Callable[[str], None] = logger.warning,
        **trainer_arguments: Any,
    ) -> None:
        self._task_of = tasks
        self._limits = limits
        self._decode_batch = decode_batch
        self._strict_calls = strict_calls
        self._executor = executor
        self._note = note
        self._too_long: set[str] = set()  # tasks whose prompt does not fit the context
        self._batch: list[Task] = []
        self._engine: TransformersEngine | None = None
        super().__init__(rollout_func=self._roll_out, **trainer_arguments)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        # The hook receives only prompts, but each task has its own tools and references.
        self._batch = [self._task_of[row["task_id"]] for row in inputs]
        return super()._generate_and_score_completions(inputs)

    def _roll_out(self, prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        model = self.accelerator.unwrap_model(self.model)
        if self._engine is None:
            base = model.get_base_model() if hasattr(model, "get_base_model") else model
            self._engine = TransformersEngine(base, self.processing_class, batch_size=self._decode_batch)
        with merged_adapter(model):
            trajectories = run_conversations(
                self._engine,
                self._batch,
                self._executor,
                self._limits,
                temperature=self.temperature,
                strict_calls=self._strict_calls,
            )
        self._note_long_prompts(trajectories)
        # Nothing is generated if the prompt fills the context. TRL needs at least one token, so a masked one is added.
        placeholder = [self.processing_class.eos_token_id]
        return {
            "prompt_ids": [list(t.prompt_ids) or placeholder for t in trajectories],
            "completion_ids": [list(t.completion_ids) or placeholder for t in trajectories],
            "env_mask": [list(t.sampled) or [0] for t in trajectories],
            "logprobs": None,
            "trajectory": trajectories,
        }

    def _note_long_prompts(self, trajectories: Sequence[Trajectory]) -> None:
        assert self._engine is not None
        for task, trajectory in zip(self._batch, trajectories, strict=True):
            if trajectory.cut_by is Limit.PROMPT and task.id not in self._too_long:
                self._too_long.add(task.id)
                self._note(
                    f"task {task.id}: its prompt of {len(trajectory.prompt_ids):,} tokens does not fit the context of "
                    f"{self._engine.context_length:,}, so its rollouts earn nothing"
                )

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        # Skip rows without advantage: they add nothing to the loss, and its normaliser does not depend on them.
        useful = inputs["advantages"].abs() > 1e-6
        if self.loss_type == "dapo" and self.beta == 0.0 and 0 < int(useful.sum()) < len(useful):
            inputs = {
                key: value[useful] if torch.is_tensor(value) and value.shape[:1] == useful.shape else value
                for key, value in inputs.items()
            }
        return super()._compute_loss(model, inputs)


def scheduled_prompts(tasks: Sequence[Task], per_step: int, steps: int, seed: int) -> tuple[Dataset, Coverage]:
    """The prompts of all steps in order, and how they use the tasks. TRL's own sampler leaves some tasks out."""
    coverage = Coverage(unit="tasks", available=len(tasks), per_step=per_step, steps=steps)
    rows = [{"prompt": [message.to_openai() for message in task.prompt], "task_id": task.id} for task in tasks]
    return Dataset.from_list(rows, on_mixed_types="use_json").select(prompt_order(coverage, seed)), coverage


def step_row(reward: StepReward) -> Callable[[int, Mapping[str, float]], PolicyStep | None]:
    """A function from TRL's logs of a step to its row of metrics.jsonl; `reward` scored the step."""

    def row(step: int, logs: Mapping[str, float]) -> PolicyStep | None:
        if "reward" not in logs:
            return None
        return PolicyStep(
            step=step,
            tokens=round(logs["num_tokens"]),
            zero_variance_groups=sum(len(flat.tasks) for flat in reward.flat_groups),
            completion_tokens=logs["completions/mean_length"],
            sampled_tokens=round(logs["sampled_tokens"]),
            flat_groups=tuple(reward.flat_groups),
            **{name: logs[name] for name in _LOGGED},
        )

    return row
