"""Both rollout engines, ours and stock TRL's, train on the same prompts and score the same rollouts alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from datasets import Dataset

from helpers.grpo_trainers import LIMITS, TASKS
from mentor_edge.agent import AgentLimits, run_conversations
from mentor_edge.engines.torch.engine import TransformersEngine
from mentor_edge.messages import Ending, ToolCall, Trajectory
from mentor_edge.recipes import MentorRecipe, mentor
from mentor_edge.recipes.grpo import StepReward
from mentor_edge.recipes.mentor import grpo_arguments
from mentor_edge.recipes.stock import stock_trainer, trajectory_of_completion
from mentor_edge.recipes.student import load_trainable
from mentor_edge.rewards import MentorReward, RewardBreakdown
from mentor_edge.tasks.types import Task
from mentor_edge.tools.execution.executor import ToolExecutor


@pytest.fixture
def executor() -> Iterator[ToolExecutor]:
    with ToolExecutor() as executor:
        yield executor


class RecordingReward(MentorReward):
    """The recipe's reward. It records what it scores."""

    scored: ClassVar[list[tuple[Trajectory, Task, float]]] = []

    def __call__(self, trajectory: Trajectory, task: Task) -> RewardBreakdown:
        breakdown = super().__call__(trajectory, task)
        self.scored.append((trajectory, task, breakdown.total))
        return breakdown


def what_happened(trajectory: Trajectory) -> tuple[Any, ...]:
    results = [message.content for message in trajectory.messages if message.role == "tool"]
    return trajectory.calls, results, trajectory.answer, trajectory.ending


@pytest.mark.slow
def test_both_rollout_engines_train_and_score_the_same_rollouts_alike(
    nano_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampling is nearly greedy, so that both engines see the same rollouts until the first update."""
    monkeypatch.setattr(mentor, "MentorReward", RecordingReward)
    first_step = {}
    for engine in ("edge", "trl"):
        RecordingReward.scored.clear()
        run = MentorRecipe(
            student=str(nano_student),
            output_dir=tmp_path / engine,
            tasks={"limit": 24},
            train={"steps": 2, "prompts_per_step": 12, "rollouts_per_prompt": 2, "save_every": 2},
            rollout={"engine": engine, "temperature": 1e-4},
        ).fit()
        assert (run.adapter / "adapter_model.safetensors").is_file()
        log = run.training_log()
        assert [row.step for row in log] == [1, 2]
        first_step[engine] = RecordingReward.scored[:24]
        assert log[0].reward == pytest.approx(sum(total for *_, total in first_step[engine]) / 24)
    rewards = []
    for (ours, task, reward), (stock, same_task, stock_reward) in zip(*first_step.values(), strict=True):
        assert task == same_task
        if not ours.unknown_tools:  # TRL's error text differs, and so may the student's reply
            assert what_happened(ours) == what_happened(stock)
            assert reward == stock_reward
            rewards.append(reward)
    assert len(rewards) >= 12 and min(rewards) < max(rewards) == pytest.approx(1.1)


def test_stock_rollouts_are_scored_as_ours(nano_student: Path, executor: ToolExecutor) -> None:
    """A trajectory converted to TRL's structured completions and back earns the same reward."""
    engine = TransformersEngine.load(nano_student)
    torch.manual_seed(0)
    tasks = list(TASKS) * 4
    pairs = list(zip(tasks, run_conversations(engine, tasks, executor, LIMITS, temperature=1.0), strict=True))
    cut = AgentLimits(tool_rounds=0, tokens_per_turn=28, completion_tokens=160)
    pairs += zip(tasks, run_conversations(engine, tasks, executor, cut, temperature=1.0), strict=True)
    reward, eos = MentorReward(), engine.tokenizer.eos_token_id
    endings = set()
    for task, ours in pairs:
        messages = [message.to_openai() for message in ours.messages]
        stock = trajectory_of_completion(messages, ours.completion_ids, eos)
        assert reward(stock, task).total == reward(ours, task).total
        assert stock.terminated == ours.terminated and stock.calls == ours.calls
        endings.add(ours.ending)
    assert {Ending.ANSWERED, Ending.TRUNCATED, Ending.OUT_OF_TURNS} <= endings


@pytest.mark.parametrize(
    ("message", "last_id", "ending"),
    [
        ({"role": "assistant", "content": "\\boxed{3}"}, 2, Ending.ANSWERED),
        ({"role": "assistant", "content": "\\boxed{3}"}, 7, Ending.TRUNCATED),
        ({"role": "assistant", "content": "<tool_call>{oops</tool_call>"}, 2, Ending.MALFORMED),
        ({"role": "assistant", "content": "}\n</tool_call>\\boxed{3}"}, 2, Ending.MALFORMED),
        ({"role": "assistant", "content": "", "tool_calls": [ToolCall("add", {}).to_openai()]}, 2, Ending.OUT_OF_TURNS),
        ({"role": "tool", "name": "add", "content": "3"}, 2, Ending.TRUNCATED),
    ],
)
def test_endings_of_stock_rollouts(message: dict[str, Any], last_id: int, ending: Ending) -> None:
    trajectory = trajectory_of_completion([message], [5, last_id], eos=2)
    assert trajectory.ending is ending
    assert trajectory.answer == ("3" if ending is Ending.ANSWERED else None)


def test_stock_prompts_are_those_of_our_own_rollouts(
    nano_student: Path, tmp_path: Path, executor: ToolExecutor
) -> None:
    """TRL renders each row with its tools' own schemas, not with schemas that it derives from our environments."""
    config = MentorRecipe(student=str(nano_student), train={"prompts_per_step": 2, "rollouts_per_prompt": 2}).config
    model, tokenizer, adapter = load_trainable(str(nano_student), config.lora)
    rows = [{"prompt": [m.to_openai() for m in task.prompt], "task_id": task.id} for task in TASKS]
    tasks = {task.id: task for task in TASKS}
    trainer = stock_trainer(
        tasks=tasks,
        executor=executor,
        train_dataset=Dataset.from_list(rows),
        reward_funcs=StepReward(MentorReward(), tasks, 2),
        model=model,
        processing_class=tokenizer,
        peft_config=adapter,
        args=grpo_arguments(config, tmp_path, LIMITS),
    )
    trainer._batch_environments = trainer.train_dataset["environment"]
    assert len(set(trainer._batch_environments)) > 3
    theirs, _, _ = trainer._tokenize_prompts(list(trainer.train_dataset["prompt"]))
    engine = TransformersEngine(model, tokenizer)
    texts = [engine.template.render(t.prompt, t.tool_schemas, add_generation_prompt=True) for t in TASKS]
    assert theirs == engine.encode(texts)
