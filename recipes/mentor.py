"""MENTOR (arXiv 2510.18383): GRPO with LoRA, rewarded for the right answer and for using the teacher's tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mentor_edge.agent import AgentLimits
from mentor_edge.rewards.mentor import MentorReward
from mentor_edge.tasks.types import Task
from mentor_edge.tools.executor import ToolExecutor

from .base import Recipe, TrainingJob
from .config import MentorConfig, RecipeConfig


class MentorRecipe(Recipe):
    """Roll out each prompt several times with the current student, execute its tools for real, score with
    `MentorReward`, and update the adapter by GRPO. The trace itself is never imitated; only which tools it used counts.
    """

    config: MentorConfig
    config_type: ClassVar[type[RecipeConfig]] = MentorConfig
    name: ClassVar[str] = "mentor"

    def train(self, job: TrainingJob) -> None:
        from datasets import Dataset

        from .grpo import EdgeGRPOTrainer, RewardLog, grpo_arguments, step_row
        from .stock import stock_trainer
        from .student import load_trainable
        from .trainer import run_training

        config = self.config
        tasks: Mapping[str, Task] = {task.id: task for task in job.tasks}
        rows = [{"prompt": [message.to_openai() for message in task.prompt], "task_id": task.id} for task in job.tasks]
        model, tokenizer, adapter = load_trainable(job.student, config.lora)
        rollout = config.rollout
        limits = AgentLimits(rollout.tool_rounds, rollout.tokens_per_turn, rollout.completion_tokens)
        with ToolExecutor(timeout=rollout.tool_timeout) as executor:
            arguments: dict[str, Any] = {
                "model": model,
                "processing_class": tokenizer,
                "peft_config": adapter,
                "args": grpo_arguments(config, job.directory),
                "train_dataset": Dataset.from_list(rows, on_mixed_types="use_json"),
                "reward_funcs": RewardLog(MentorReward(), tasks),
            }
            if rollout.engine == "edge":
                trainer = EdgeGRPOTrainer(
                    tasks=tasks, limits=limits, decode_batch=rollout.decode_batch, executor=executor, **arguments
                )
            else:
                trainer = stock_trainer(tasks=tasks, executor=executor, **arguments)
            run_training(trainer, "MENTOR", job, step_row(config.train.prompts_per_step))
