"""SFT: imitate the teacher. Cross-entropy on every token that the teacher wrote; the baseline that MENTOR must beat.

1. the examples   `examples.py`: each reference as token ids, with a mask over the assistant's turns
2. the update     `SupervisedTraining`: TRL's SFTTrainer on the same LoRA adapter
3. the recipe     `SFTRecipe`
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pydantic

from mentor_edge.arguments import checked_settings
from mentor_edge.progress import announced
from mentor_edge.template_record import Scalar

from .base import Recipe
from .config import DEFAULTS, LoraConfig, Positive, RecipeConfig, Section, TasksConfig
from .job import TrainingJob
from .run_record import Training
from .schedule import Coverage
from .steps import SupervisedStep


class SupervisedTraining(Section):
    """How much is trained."""

    steps: Positive = 60
    """Updates of the adapter."""
    batch_size: Positive = 64
    """References per update."""
    learning_rate: pydantic.PositiveFloat = 2e-3
    """The learning rate after the warm-up; it then falls linearly to 0."""
    warmup_steps: pydantic.NonNegativeInt = 5
    """Steps over which the learning rate rises from 0."""
    save_every: Positive = 20
    """Steps between checkpoints."""


class SFTConfig(RecipeConfig):
    """The settings of `SFTRecipe`."""

    recipe: Literal["sft"] = "sft"
    """The name of the method in recipe files."""
    train: SupervisedTraining = SupervisedTraining()
    """The update."""


class SFTRecipe(Recipe):
    """SFT: imitate every reference of every task, with the same adapter as MENTOR. Tasks need a reference."""

    config: SFTConfig
    config_type: ClassVar[type[RecipeConfig]] = SFTConfig
    name: ClassVar[str] = "sft"
    needs_answer: ClassVar[bool] = False
    imitates: ClassVar[bool] = True

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
        train: SupervisedTraining | Mapping[str, Any] = DEFAULTS,
    ) -> None:
        """Check the settings. Nothing is loaded or written before `fit`.

        Args:
            student: The model to train: "nano" or "nano-broad" (made on the spot), a local Hugging Face directory, a
                GGUF file, or a hub id if a hub can be reached.
            from_run: A finished run to continue from: its student, with the adapter merged in, replaces `student`.
            template: The chat template to train and ship: "hermes", "neutral", or the path of a .jinja file. Default:
                the student's own.
            template_arguments: Variables to set in the chat template, such as {"enable_thinking": False}.
            tasks: The tasks to train on: a section, a suite's name, or the path of a JSONL file.
            output_dir: The directory of the run. It must not exist yet, unless the run is resumed.
            seed: Seeds the generated tasks, the embedded student and the order of the examples.
            lora: The adapter that is trained.
            train: The update: steps, batch size, learning rate, checkpoints.

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
        )

    def train(self, job: TrainingJob) -> Training:
        with announced(job.progress, "load the trainer"):
            from datasets import Dataset
            from trl import SFTConfig as TrainerArguments
            from trl import SFTTrainer

            from mentor_edge.engines.torch.loading import end_ids_of, template_of

            from .examples import supervised_examples
            from .student import load_trainable
            from .trainer import common_arguments, run_training

        train = self.config.train
        model, tokenizer, adapter = load_trainable(job.student, self.config.lora, job.progress)
        template = template_of(tokenizer, end_ids_of(model, tokenizer))
        examples = supervised_examples(tokenizer, job.tasks, template)
        coverage = Coverage(unit="references", available=len(examples), per_step=train.batch_size, steps=train.steps)
        trainer = SFTTrainer(
            model=model,
            processing_class=tokenizer,
            peft_config=adapter,
            # Tokenized by us, piece by piece as in a rollout. TRL folds `assistant_masks` into the labels.
            train_dataset=Dataset.from_list(examples),
            args=TrainerArguments(
                **common_arguments(
                    job.directory, seed=self.config.seed, steps=train.steps, save_every=train.save_every
                ),
                per_device_train_batch_size=train.batch_size,
                learning_rate=train.learning_rate,
                warmup_steps=train.warmup_steps,
                max_length=None,
            ),
        )
        return run_training(trainer, "SFT", job, coverage, _row)


def _row(step: int, logs: Mapping[str, float]) -> SupervisedStep | None:
    if "loss" not in logs:
        return None
    return SupervisedStep(step=step, loss=logs["loss"], tokens=round(logs["num_tokens"]))
