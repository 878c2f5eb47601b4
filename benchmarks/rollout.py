"""Time of a GRPO step with our rollouts and with stock TRL's, for the same student, tasks, reward and rollout count.

    python benchmarks/rollout.py [--student DIR] [--steps 6] [--rounds 3]

Rounds alternate between the two, so that a busy machine slows both down. The first step of each run is a warm-up and is
not counted. Prints the median wall and CPU seconds of a step, the wall seconds of its rollouts, and the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback

from mentor_edge.recipes import MentorConfig, PolicyTraining, RolloutConfig
from mentor_edge.recipes.grpo import EdgeGRPOTrainer, StepReward
from mentor_edge.recipes.mentor import grpo_arguments, rollout_limits
from mentor_edge.recipes.stock import stock_trainer
from mentor_edge.recipes.student import load_trainable, resolve_student
from mentor_edge.rewards import MentorReward
from mentor_edge.tasks.nano.suites import training_suite
from mentor_edge.tools.execution.executor import ToolExecutor


class Clock(TrainerCallback):
    """Wall and CPU seconds of every step, and of its generation."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float]] = []
        self.rewards: list[float] = []
        self.generation: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._start = time.perf_counter(), time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.steps.append((time.perf_counter() - self._start[0], time.process_time() - self._start[1]))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "reward" in logs:
            self.rewards.append(logs["reward"])


def timed_run(engine: str, student: str, steps: int, directory: Path) -> Clock:
    """Train for `steps` steps with `engine`. The learning rate is tiny, so both engines keep the same policy."""
    config = MentorConfig(
        student=student,
        output_dir=directory,
        train=PolicyTraining(steps=steps, learning_rate=1e-7, save_every=1000),
        rollout=RolloutConfig(engine=engine),
    )
    tasks = {task.id: task for task in training_suite(200, seed=config.seed).tasks}
    rows = [{"prompt": [m.to_openai() for m in task.prompt], "task_id": task.id} for task in tasks.values()]
    model, tokenizer, adapter = load_trainable(student, config.lora)
    clock = Clock()
    rollout = config.rollout
    limits = rollout_limits(rollout, sum(parameter.numel() for parameter in model.parameters()))
    with ToolExecutor() as executor:
        arguments: dict[str, Any] = {
            "model": model,
            "processing_class": tokenizer,
            "peft_config": adapter,
            "args": grpo_arguments(config, directory, limits),
            "train_dataset": Dataset.from_list(rows, on_mixed_types="use_json"),
            "reward_funcs": StepReward(MentorReward(), tasks, config.train.rollouts_per_prompt),
            "callbacks": [clock],
        }
        if engine == "edge":
            trainer = EdgeGRPOTrainer(
                tasks=tasks, limits=limits, decode_batch=rollout.decode_batch, executor=executor, **arguments
            )
        else:
            trainer = stock_trainer(tasks=tasks, executor=executor, **arguments)
        trainer.remove_callback(PrinterCallback)
        generate = trainer._generate

        def timed_generate(prompts: Any) -> Any:
            start = time.perf_counter()
            result = generate(prompts)
            clock.generation.append(time.perf_counter() - start)
            return result

        trainer._generate = timed_generate
        trainer.train()
    return clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="nano")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    student = resolve_student(arguments.student, 0, lambda stage, done, total: None)
    clocks: dict[str, list[Clock]] = {"edge": [], "trl": []}
    for _ in range(arguments.rounds):
        for engine, runs in clocks.items():
            with tempfile.TemporaryDirectory() as directory:
                runs.append(timed_run(engine, student, arguments.steps, Path(directory)))
    result: dict[str, Any] = {}
    for engine, runs in clocks.items():
        result[engine] = {
            "step_wall_s": statistics.median(step[0] for run in runs for step in run.steps[1:]),
            "step_cpu_s": statistics.median(step[1] for run in runs for step in run.steps[1:]),
            "rollout_wall_s": statistics.median(seconds for run in runs for seconds in run.generation[1:]),
            "mean_reward": statistics.mean(reward for run in runs for reward in run.rewards),
        }
    result["ratio"] = {
        key: result["trl"][key] / result["edge"][key] for key in ("step_wall_s", "step_cpu_s", "rollout_wall_s")
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
