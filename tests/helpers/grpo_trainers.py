"""A GRPO trainer on the nano student, for tests of single calls: one batch, one loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from mentor_edge.agent import AgentLimits
from mentor_edge.recipes import MentorRecipe
from mentor_edge.recipes.grpo import EdgeGRPOTrainer
from mentor_edge.recipes.mentor import grpo_arguments
from mentor_edge.recipes.student import load_trainable
from mentor_edge.tasks.nano.suites import training_suite
from mentor_edge.tools.execution.executor import ToolExecutor

GROUPS, ROLLOUTS = 3, 4
TASKS = training_suite(12, seed=0).tasks
LIMITS = AgentLimits(tool_rounds=4, tokens_per_turn=28, completion_tokens=160)


class Recorder:
    """A reward that keeps what TRL passes to it. The rollouts of the first group all get the same score; in each other
    group, one of them wins.
    """

    __name__ = "recorder"

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, **received: Any) -> list[float]:
        self.calls.append(received)
        count = len(received["completion_ids"])
        return [0.5 if i < ROLLOUTS else float(i % ROLLOUTS == i // ROLLOUTS) for i in range(count)]


def edge_trainer(student: Path, directory: Path, executor: ToolExecutor, reward: Any, **train: Any) -> EdgeGRPOTrainer:
    """A trainer whose adapter has small random weights, ready to generate a batch and to compute its loss."""
    recipe = MentorRecipe(
        student=str(student),
        output_dir=directory,
        train={"prompts_per_step": GROUPS, "rollouts_per_prompt": ROLLOUTS, "steps": 1, **train},
    )
    model, tokenizer, adapter = load_trainable(str(student), recipe.config.lora)
    tasks = {task.id: task for task in TASKS}
    rows = [{"prompt": [m.to_openai() for m in task.prompt], "task_id": task.id} for task in TASKS]
    trainer = EdgeGRPOTrainer(
        tasks=tasks,
        limits=LIMITS,
        decode_batch=5,
        executor=executor,
        model=model,
        processing_class=tokenizer,
        peft_config=adapter,
        args=grpo_arguments(recipe.config, directory, LIMITS),
        train_dataset=Dataset.from_list(rows),
        reward_funcs=reward,
    )
    torch.manual_seed(0)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:  # a new adapter changes nothing; make it change a little
            torch.nn.init.normal_(parameter, std=0.01)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    return trainer


def inputs_of(task_count: int = GROUPS) -> list[dict[str, Any]]:
    """Rows as TRL's sampler yields them: each prompt ROLLOUTS times in a row."""
    tasks = [task for task in TASKS[:task_count] for _ in range(ROLLOUTS)]
    return [{"prompt": [m.to_openai() for m in task.prompt], "task_id": task.id} for task in tasks]
