"""What we rely on in TRL 1.16. If a test fails after an upgrade, recipes/grpo.py or recipes/stock.py must change."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trl
from trl import GRPOTrainer, SFTConfig
from trl.chat_template_utils import parse_response
from trl.trainer.utils import RepeatSampler

from helpers.grpo_trainers import GROUPS, LIMITS, ROLLOUTS, TASKS, Recorder, edge_trainer
from mentor_edge.engines.torch.loading import load_student
from mentor_edge.messages import Message, ToolCall
from mentor_edge.recipes import MentorRecipe
from mentor_edge.recipes.grpo import EdgeGRPOTrainer
from mentor_edge.recipes.mentor import grpo_arguments
from mentor_edge.tool_calls import parse_turn
from mentor_edge.tools.execution.executor import ToolExecutor


@pytest.fixture
def make_trainer(nano_student: Path, tmp_path: Path) -> Iterator[Callable[..., EdgeGRPOTrainer]]:
    with ToolExecutor() as executor:
        yield partial(edge_trainer, nano_student, tmp_path / "run", executor)


def test_the_parts_of_trl_that_we_use_are_unchanged() -> None:
    assert trl.__version__.startswith("1.16.")
    assert list(inspect.signature(GRPOTrainer._generate_and_score_completions).parameters) == ["self", "inputs"]
    assert list(inspect.signature(GRPOTrainer._compute_loss).parameters) == ["self", "model", "inputs"]
    accepted = inspect.signature(GRPOTrainer.__init__).parameters
    assert {"rollout_func", "environment_factory", "peft_config", "processing_class"} <= accepted.keys()


def test_the_update_is_what_its_docstring_says(tmp_path: Path) -> None:
    """Defaults of TRL that `grpo_arguments` and SFT leave alone."""
    update = grpo_arguments(MentorRecipe(train={"micro_batch": 24}).config, tmp_path, LIMITS)
    assert update.num_iterations == 1  # one update per batch of rollouts
    assert not update.shuffle_dataset  # `prompt_order` has shuffled it
    assert list(RepeatSampler([3, 1, 2, 0], 2, batch_size=2, shuffle=False)) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert update.steps_per_generation == update.gradient_accumulation_steps == 4
    assert (update.scale_rewards, update.importance_sampling_level) == ("group", "token")
    assert (update.loss_type, update.beta) == ("dapo", 0.0)
    assert SFTConfig(str(tmp_path), use_cpu=True, bf16=False).lr_scheduler_type == "linear"


def test_trl_gives_one_row_per_rollout_and_passes_trajectories_to_the_reward(make_trainer: Any) -> None:
    """TRL's documentation says that a rollout function gets each prompt once. In 1.16 it gets it once per rollout."""
    batches: list[list[Any]] = []

    class Spy(EdgeGRPOTrainer):
        def _roll_out(self, prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
            batches.append(prompts)
            return super()._roll_out(prompts, trainer)

    recorder = Recorder()
    trainer = make_trainer(recorder)
    trainer.__class__ = Spy
    trainer.rollout_func = trainer._roll_out
    trainer.train()
    (received,), (prompts,) = recorder.calls, batches
    ids = received["task_id"]
    assert len(prompts) == len(ids) == GROUPS * ROLLOUTS
    assert ids == [identity for identity in ids[::ROLLOUTS] for _ in range(ROLLOUTS)]
    assert len(set(ids)) == GROUPS
    assert [trajectory.completion_ids for trajectory in received["trajectory"]] == received["completion_ids"]
    questions = {task.id: task.prompt[-1].content for task in TASKS}
    assert [prompt[-1]["content"] for prompt in prompts] == [questions[identity] for identity in ids]
    assert callable(received["log_metric"])


def test_tokenizers_of_students_come_with_a_parser_for_stock_rollouts(nano_student: Path) -> None:
    _, tokenizer = load_student(nano_student)
    prefix = tokenizer("<|im_start|>user\n1 and 2.5?<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    text = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2.5}}\n</tool_call>'
    parsed = parse_response(tokenizer, tokenizer(text + "<|im_end|>")["input_ids"], prefix=prefix)
    assert Message.from_openai(parsed) == parse_turn(text).message
    assert parsed["tool_calls"] == [ToolCall("add", {"a": 1, "b": 2.5}).to_openai()]
