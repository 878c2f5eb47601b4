"""Our GRPOTrainer: its batches, its loss and its masks. What it relies on in TRL: tests/contracts/test_trl.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import GRPOTrainer

from helpers.grpo_trainers import GROUPS, LIMITS, ROLLOUTS, TASKS, Recorder, edge_trainer, inputs_of
from mentor_edge.messages import Message, Trajectory
from mentor_edge.recipes import MentorRecipe
from mentor_edge.recipes.grpo import EdgeGRPOTrainer, StepReward
from mentor_edge.recipes.mentor import grpo_arguments
from mentor_edge.recipes.student import load_trainable
from mentor_edge.rewards import MentorReward, RewardBreakdown
from mentor_edge.tasks.nano.teacher import trajectory_of
from mentor_edge.tasks.types import Task
from mentor_edge.tools.execution.executor import ToolExecutor


@pytest.fixture
def make_trainer(nano_student: Path, tmp_path: Path) -> Iterator[Callable[..., EdgeGRPOTrainer]]:
    with ToolExecutor() as executor:
        yield partial(edge_trainer, nano_student, tmp_path / "run", executor)


def gradients(trainer: GRPOTrainer, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    trainer.model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


def assert_close(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    assert max(value.abs().max().item() for value in expected.values()) > 100 * tolerance
    for name, value in expected.items():
        assert torch.allclose(actual[name], value, rtol=0, atol=tolerance), name


def test_the_batch_is_exactly_what_was_sampled(make_trainer: Any) -> None:
    """Token for token: prompts, completions, and the mask that keeps tool results out of the loss."""
    recorder = Recorder()
    trainer = make_trainer(recorder)
    batch = trainer._generate_and_score_completions(inputs_of())
    tokenizer = trainer.processing_class
    tool_texts = 0
    for row, trajectory in enumerate(recorder.calls[0]["trajectory"]):
        length = len(trajectory.completion_ids)
        assert batch["completion_ids"][row, :length].tolist() == trajectory.completion_ids
        assert batch["completion_mask"][row].tolist() == [1] * length + [0] * (
            batch["completion_mask"].shape[1] - length
        )
        assert batch["prompt_ids"][row][batch["prompt_mask"][row].bool()].tolist() == trajectory.prompt_ids
        mask = batch["tool_mask"][row, :length]
        assert mask.tolist() == trajectory.sampled
        sampled = tokenizer.decode(batch["completion_ids"][row, :length][mask.bool()])
        given = tokenizer.decode(batch["completion_ids"][row, :length][~mask.bool()])
        results = [message.content for message in trajectory.messages if message.role == "tool"]
        assert given == "".join(
            f"\n<|im_start|>tool\n<tool_response>{result}</tool_response><|im_end|>\n<|im_start|>assistant\n"
            for result in results
        )
        assert "<tool_response>" not in sampled
        tool_texts += len(results)
    assert tool_texts >= GROUPS


def test_gradients_are_those_of_the_sampled_tokens_alone(make_trainer: Any) -> None:
    """Compared with the policy gradient written out: advantage times log-probability, averaged over sampled tokens."""
    recorder = Recorder()
    trainer = make_trainer(recorder)
    batch = trainer._generate_and_score_completions(inputs_of())
    actual = gradients(trainer, trainer._compute_loss(trainer.model, batch))

    trajectories = recorder.calls[0]["trajectory"]
    rewards = torch.tensor(recorder(completion_ids=trajectories)).view(GROUPS, ROLLOUTS)
    spread = rewards.std(dim=1, keepdim=True)
    advantages = ((rewards - rewards.mean(dim=1, keepdim=True)) / (spread + 1e-4)).flatten()
    terms = []
    for trajectory, advantage in zip(trajectories, advantages, strict=True):
        ids = torch.tensor([[*trajectory.prompt_ids, *trajectory.completion_ids]])
        scores = trainer.model(ids).logits[0, len(trajectory.prompt_ids) - 1 : -1].log_softmax(-1)
        chosen = scores.gather(1, torch.tensor(trajectory.completion_ids)[:, None])[:, 0]
        terms.append(-advantage * (chosen * torch.tensor(trajectory.sampled)).sum())
    expected = gradients(trainer, torch.stack(terms).sum() / sum(sum(t.sampled) for t in trajectories))
    assert_close(actual, expected, 2e-6)


@pytest.mark.parametrize("micro_batch", [None, 6])
def test_rows_without_advantage_may_be_left_out(make_trainer: Any, micro_batch: int | None) -> None:
    """A batch with one group of zero advantage has the same loss with and without that group's passes."""
    trainer = make_trainer(Recorder(), micro_batch=micro_batch)
    batch = trainer._generate_and_score_completions(inputs_of())
    assert int((batch["advantages"] == 0).sum()) == ROLLOUTS
    half = slice(0, micro_batch)
    part = {key: value[half] if value.dim() else value for key, value in batch.items()}
    row_counts = []
    scoring = trainer._get_per_token_logps_and_entropies

    def count_rows(model: Any, input_ids: torch.Tensor, *rest: Any, **options: Any) -> Any:
        row_counts.append(len(input_ids))
        return scoring(model, input_ids, *rest, **options)

    trainer._get_per_token_logps_and_entropies = count_rows
    ours = trainer._compute_loss(trainer.model, part)
    actual = gradients(trainer, ours)
    full_loss = GRPOTrainer._compute_loss(trainer, trainer.model, part)
    assert_close(actual, gradients(trainer, full_loss), 1e-6)
    assert ours.item() == pytest.approx(full_loss.item(), abs=1e-6)
    rows = len(part["advantages"])
    assert row_counts == [rows - ROLLOUTS, rows]


def test_a_batch_without_any_advantage_still_trains(make_trainer: Any) -> None:
    class Flat(Recorder):
        def __call__(self, **received: Any) -> list[float]:
            return [0.1 for _ in super().__call__(**received)]

    trainer = make_trainer(Flat(), steps=2)
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.state.global_step == 2
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())


@pytest.mark.slow
def test_a_prompt_without_room_in_the_context_is_a_rollout_without_reward(nano_student: Path, tmp_path: Path) -> None:
    """Nothing can be generated there. TRL still needs a token, which must not be learned."""
    recipe = MentorRecipe(
        student=str(nano_student),
        output_dir=tmp_path,
        train={"steps": 1, "prompts_per_step": 2, "rollouts_per_prompt": 2, "save_every": 1},
    )
    long = Task(
        "long",
        (Message("user", "more " * 3000),),
        TASKS[0].tools,
        "id",
        "id",
        answer="1",
        reference=trajectory_of([], "1"),
    )
    tasks = {"long": long, TASKS[0].id: TASKS[0]}
    model, tokenizer, adapter = load_trainable(str(nano_student), recipe.config.lora)
    model.config.max_position_embeddings = 512
    rows = [{"prompt": [m.to_openai() for m in task.prompt], "task_id": key} for key, task in tasks.items()]
    scored: list[tuple[str, float]] = []
    notes: list[str] = []

    def reward(trajectory: Trajectory, task: Task) -> RewardBreakdown:
        breakdown = MentorReward()(trajectory, task)
        scored.append((task.id, breakdown.total))
        return breakdown

    with ToolExecutor() as executor:
        trainer = EdgeGRPOTrainer(
            tasks=tasks,
            limits=LIMITS,
            executor=executor,
            model=model,
            processing_class=tokenizer,
            peft_config=adapter,
            args=grpo_arguments(recipe.config, tmp_path, LIMITS),
            note=notes.append,
            train_dataset=Dataset.from_list(rows),
            reward_funcs=StepReward(reward, tasks, 2),
        )
        trainer.train()
    assert sorted(total for identity, total in scored if identity == "long") == [0.0, 0.0]
    assert trainer.state.global_step == 1
    (note,) = notes
    assert "task long: its prompt of " in note and "does not fit the context of 512" in note
    (logged,) = [row["prompts_too_long"] for row in trainer.state.log_history if "prompts_too_long" in row]
    assert logged == 0.5
