"""SFT: imitate the teacher's traces, the baseline that MENTOR is compared with."""

from __future__ import annotations

from typing import Any, ClassVar

from .base import Recipe, TrainingJob, append_metrics, drop_metrics_after
from .config import RecipeConfig, SftConfig
from .examples import supervised_examples


class SFTRecipe(Recipe):
    """Cross-entropy on every assistant token of the references (TRL's SFTTrainer), with the same adapter."""

    config: SftConfig
    config_type: ClassVar[type[RecipeConfig]] = SftConfig
    name: ClassVar[str] = "sft"

    def train(self, job: TrainingJob) -> None:
        import torch
        from datasets import Dataset
        from transformers import PrinterCallback, TrainerCallback
        from trl import SFTConfig, SFTTrainer

        from mentor_edge.engines.transformers import TransformersEngine

        from .student import load_trainable

        config = self.config
        cuda = torch.cuda.is_available()
        model, tokenizer, adapter = load_trainable(job.student, config.lora)
        # Tokenized here, piece by piece as rollouts are; TRL folds `assistant_masks` into the labels.
        examples = supervised_examples(TransformersEngine(model, tokenizer), job.tasks)
        metrics = job.directory / "metrics.jsonl"
        step = 0 if job.checkpoint is None else int(job.checkpoint.name.rpartition("-")[2])
        drop_metrics_after(metrics, step)

        class Metrics(TrainerCallback):  # type: ignore[misc]
            def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
                if "loss" in logs:
                    append_metrics(metrics, {"step": state.global_step, "loss": logs["loss"]})
                    job.progress("SFT", state.global_step, state.max_steps)

            def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                (job.directory / "checkpoints" / f"checkpoint-{state.global_step}" / "complete").touch()

        trainer = SFTTrainer(
            model=model,
            processing_class=tokenizer,
            peft_config=adapter,
            train_dataset=Dataset.from_list(examples),
            callbacks=[Metrics()],
            args=SFTConfig(
                output_dir=str(job.directory / "checkpoints"),
                max_steps=config.train.steps,
                per_device_train_batch_size=config.train.batch_size,
                learning_rate=config.train.learning_rate,
                warmup_steps=5,
                seed=config.seed,
                save_steps=config.train.save_every,
                save_total_limit=2,
                logging_steps=1,
                max_length=None,
                use_cpu=not cuda,
                bf16=cuda,
                gradient_checkpointing=cuda,
                report_to="none",
                disable_tqdm=True,
                log_level="error",
            ),
        )
        trainer.remove_callback(PrinterCallback)
        job.progress("SFT", step, config.train.steps)
        trainer.train(resume_from_checkpoint=None if job.checkpoint is None else str(job.checkpoint))
        trainer.model.save_pretrained(job.directory / "adapter")
