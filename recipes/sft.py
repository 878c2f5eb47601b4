"""SFT: imitate the teacher's traces, the baseline that MENTOR is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .base import Recipe, TrainingJob
from .config import RecipeConfig, SftConfig


class SFTRecipe(Recipe):
    """Cross-entropy on every assistant token of the references (TRL's SFTTrainer), with the same adapter."""

    config: SftConfig
    config_type: ClassVar[type[RecipeConfig]] = SftConfig
    name: ClassVar[str] = "sft"
    needs_answer: ClassVar[bool] = False

    def train(self, job: TrainingJob) -> None:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        from .examples import one_reference_each, supervised_examples
        from .student import load_trainable
        from .trainer import common_arguments, run_training

        train = self.config.train
        model, tokenizer, adapter = load_trainable(job.student, self.config.lora)
        trainer = SFTTrainer(
            model=model,
            processing_class=tokenizer,
            peft_config=adapter,
            # Tokenized by us, piece by piece as rollouts are; TRL folds `assistant_masks` into the labels.
            train_dataset=Dataset.from_list(supervised_examples(tokenizer, one_reference_each(job.tasks))),
            args=SFTConfig(
                **common_arguments(
                    job.directory, seed=self.config.seed, steps=train.steps, save_every=train.save_every
                ),
                per_device_train_batch_size=train.batch_size,
                learning_rate=train.learning_rate,
                warmup_steps=train.warmup_steps,
                max_length=None,
            ),
        )
        run_training(trainer, "SFT", job, _row)


def _row(logs: Mapping[str, float]) -> dict[str, Any] | None:
    return {"loss": logs["loss"], "tokens": round(logs["num_tokens"])} if "loss" in logs else None
