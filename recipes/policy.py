"""What MENTOR, its ablations and the sparse baseline share: GRPO on the student's own rollouts. Only rewards differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mentor_edge.agent import AgentLimits
from mentor_edge.tasks.types import Task
from mentor_edge.tools.execution.executor import ToolExecutor

from .base import Recipe, TrainingJob
from .config import PolicyConfig, RecipeConfig


class PolicyRecipe(Recipe):
    """Roll out each prompt several times with the current student, execute its tools for real, score every rollout with
    the configured reward, and update the adapter by GRPO. No trace is imitated.
    """

    config: PolicyConfig
    config_type: ClassVar[type[RecipeConfig]] = PolicyConfig

    def train(self, job: TrainingJob) -> None:
        from datasets import Dataset

        from .grpo import EdgeGRPOTrainer, RewardLog, grpo_arguments, step_row
        from .stock import stock_trainer
        from .student import load_trainable
        from .trainer import StallGuard, run_training

        config = self.config
        tasks: Mapping[str, Task] = {task.id: task for task in job.tasks}
        rows = [{"prompt": [message.to_openai() for message in task.prompt], "task_id": task.id} for task in job.tasks]
        model, tokenizer, adapter = load_trainable(job.student, config.lora)
        rollout = config.rollout
        limits = AgentLimits(rollout.tool_rounds, rollout.tokens_per_turn, rollout.completion_tokens)
        log = RewardLog(config.reward.build(), tasks, config.train.rollouts_per_prompt)
        with ToolExecutor(timeout=rollout.tool_timeout) as executor:
            arguments: dict[str, Any] = {
                "model": model,
                "processing_class": tokenizer,
                "peft_config": adapter,
                "args": grpo_arguments(config, job.directory),
                "train_dataset": Dataset.from_list(rows, on_mixed_types="use_json"),
                "reward_funcs": log,
            }
            if rollout.engine == "edge":
                trainer = EdgeGRPOTrainer(
                    tasks=tasks, limits=limits, decode_batch=rollout.decode_batch, executor=executor, **arguments
                )
            else:
                trainer = stock_trainer(tasks=tasks, executor=executor, **arguments)
            trainer.add_callback(StallGuard(log, config.train.stop_after_dead_steps))
            run_training(trainer, self.name.upper(), job, step_row(log))
