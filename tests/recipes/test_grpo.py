"""Our GRPOTrainer: what it relies on in TRL 1.16, its loss and masks, both rollout engines, and misbehaving tools."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import trl
from datasets import Dataset
from trl import GRPOTrainer
from trl.chat_template_utils import parse_response

from helpers.taught_students import teach
from mentor_edge.agent import AgentLimits, run_conversations
from mentor_edge.engines.torch.engine import TransformersEngine
from mentor_edge.engines.torch.loading import load_student
from mentor_edge.messages import Ending, Message, ToolCall, Trajectory
from mentor_edge.recipes import MentorRecipe, base, config
from mentor_edge.recipes.grpo import EdgeGRPOTrainer, RewardLog, grpo_arguments
from mentor_edge.recipes.stock import _trajectory, stock_trainer
from mentor_edge.recipes.student import load_trainable
from mentor_edge.rewards import MentorReward, RewardBreakdown
from mentor_edge.tasks.nano.suites import training_suite
from mentor_edge.tasks.nano.teacher import trajectory_of
from mentor_edge.tasks.types import Suite, Task
from mentor_edge.tool_calls import parse_turn
from mentor_edge.tools.execution.executor import ToolExecutor
from mentor_edge.tools.types import Tool

GROUPS, ROLLOUTS = 3, 4
TASKS = training_suite(12, seed=0).tasks
LIMITS = AgentLimits(tool_rounds=4, tokens_per_turn=28, completion_tokens=160)


class Recorder:
    """A reward that keeps what TRL hands over; the first group is scored alike, the others by place."""

    __name__ = "recorder"

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, **received: Any) -> list[float]:
        self.calls.append(received)
        count = len(received["completion_ids"])
        return [0.5 if i < ROLLOUTS else float(i % ROLLOUTS == i // ROLLOUTS) for i in range(count)]


@pytest.fixture
def executor() -> Iterator[ToolExecutor]:
    with ToolExecutor() as executor:
        yield executor


@pytest.fixture
def make_trainer(nano_student: Path, tmp_path: Path, executor: ToolExecutor) -> Callable[..., EdgeGRPOTrainer]:
    def make(reward: Any, **train: Any) -> EdgeGRPOTrainer:
        recipe = MentorRecipe(
            student=str(nano_student),
            output_dir=tmp_path / "run",
            train={"prompts_per_step": GROUPS, "rollouts_per_prompt": ROLLOUTS, "steps": 1, **train},
        )
        model, tokenizer, adapter = load_trainable(str(nano_student), recipe.config.lora)
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
            args=grpo_arguments(recipe.config, tmp_path / "run"),
            train_dataset=Dataset.from_list(rows),
            reward_funcs=reward,
        )
        torch.manual_seed(0)
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:  # a fresh adapter changes nothing; this one does, a little
                torch.nn.init.normal_(parameter, std=0.01)
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
        return trainer

    return make


def inputs_of(task_count: int = GROUPS) -> list[dict[str, Any]]:
    """Rows as TRL's sampler gives them: each prompt ROLLOUTS times in a row."""
    tasks = [task for task in TASKS[:task_count] for _ in range(ROLLOUTS)]
    return [{"prompt": [m.to_openai() for m in task.prompt], "task_id": task.id} for task in tasks]


def gradients(trainer: GRPOTrainer, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    trainer.model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


def assert_close(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    assert max(value.abs().max().item() for value in expected.values()) > 100 * tolerance
    for name, value in expected.items():
        assert torch.allclose(actual[name], value, rtol=0, atol=tolerance), name


def test_the_parts_of_trl_that_we_use_are_as_we_know_them() -> None:
    assert trl.__version__.startswith("1.16.")
    assert list(inspect.signature(GRPOTrainer._generate_and_score_completions).parameters) == ["self", "inputs"]
    assert list(inspect.signature(GRPOTrainer._compute_loss).parameters) == ["self", "model", "inputs"]
    accepted = inspect.signature(GRPOTrainer.__init__).parameters
    assert {"rollout_func", "environment_factory", "peft_config", "processing_class"} <= accepted.keys()


def test_trl_gives_one_row_per_rollout_and_passes_trajectories_to_the_reward(make_trainer: Any) -> None:
    """TRL's documentation says that rollout functions get each prompt once; in 1.16 they get it per rollout."""
    seen: list[list[Any]] = []

    class Spy(EdgeGRPOTrainer):
        def _roll_out(self, prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
            seen.append(prompts)
            return super()._roll_out(prompts, trainer)

    recorder = Recorder()
    trainer = make_trainer(recorder)
    trainer.__class__ = Spy
    trainer.rollout_func = trainer._roll_out
    trainer.train()
    (received,), (prompts,) = recorder.calls, seen
    ids = received["task_id"]
    assert len(prompts) == len(ids) == GROUPS * ROLLOUTS
    assert ids == [identity for identity in ids[::ROLLOUTS] for _ in range(ROLLOUTS)]
    assert len(set(ids)) == GROUPS
    assert [trajectory.completion_ids for trajectory in received["trajectory"]] == received["completion_ids"]
    questions = {task.id: task.prompt[-1].content for task in TASKS}
    assert [prompt[-1]["content"] for prompt in prompts] == [questions[identity] for identity in ids]
    assert callable(received["log_metric"])


def test_the_batch_holds_exactly_what_was_sampled(make_trainer: Any) -> None:
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
    """Against the policy gradient written out: mean over sampled tokens of the batch of advantage times log-prob."""
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
    """The loss of a batch with one group of zero advantage, with that group's passes skipped and without."""
    trainer = make_trainer(Recorder(), micro_batch=micro_batch)
    batch = trainer._generate_and_score_completions(inputs_of())
    assert int((batch["advantages"] == 0).sum()) == ROLLOUTS
    half = slice(0, micro_batch)
    part = {key: value[half] if value.dim() else value for key, value in batch.items()}
    seen = []
    scoring = trainer._get_per_token_logps_and_entropies

    def count_rows(model: Any, input_ids: torch.Tensor, *rest: Any, **options: Any) -> Any:
        seen.append(len(input_ids))
        return scoring(model, input_ids, *rest, **options)

    trainer._get_per_token_logps_and_entropies = count_rows
    ours = trainer._compute_loss(trainer.model, part)
    actual = gradients(trainer, ours)
    whole = GRPOTrainer._compute_loss(trainer, trainer.model, part)
    assert_close(actual, gradients(trainer, whole), 1e-6)
    assert ours.item() == pytest.approx(whole.item(), abs=1e-6)
    rows = len(part["advantages"])
    assert seen == [rows - ROLLOUTS, rows]


def test_a_batch_without_any_advantage_still_trains(make_trainer: Any) -> None:
    class Flat(Recorder):
        def __call__(self, **received: Any) -> list[float]:
            return [0.1 for _ in super().__call__(**received)]

    trainer = make_trainer(Flat(), steps=2)
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.state.global_step == 2
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())


class RecordingReward(MentorReward):
    """The recipe's reward; keeps what it scored."""

    scored: ClassVar[list[tuple[Trajectory, Task, float]]] = []

    def __call__(self, trajectory: Trajectory, task: Task) -> RewardBreakdown:
        breakdown = super().__call__(trajectory, task)
        self.scored.append((trajectory, task, breakdown.total))
        return breakdown


def what_happened(trajectory: Trajectory) -> tuple[Any, ...]:
    results = [message.content for message in trajectory.messages if message.role == "tool"]
    return trajectory.calls, results, trajectory.answer, trajectory.ending


def test_both_rollout_engines_train_and_score_the_same_rollouts_alike(
    nano_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As good as greedy, so that both engines see the same rollouts until the first update."""
    monkeypatch.setattr(config, "MentorReward", RecordingReward)
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
        assert [row["step"] for row in log] == [1, 2]
        first_step[engine] = RecordingReward.scored[:24]
        assert log[0]["reward"] == pytest.approx(sum(total for *_, total in first_step[engine]) / 24)
    seen = []
    for (ours, task, reward), (stock, same_task, stock_reward) in zip(*first_step.values(), strict=True):
        assert task == same_task
        if not ours.unknown_tools:  # TRL has other words for that, which a student may answer differently
            assert what_happened(ours) == what_happened(stock)
            assert reward == stock_reward
            seen.append(reward)
    assert len(seen) >= 12 and min(seen) < max(seen) == pytest.approx(1.1)


def test_stock_rollouts_are_scored_as_ours(nano_student: Path, executor: ToolExecutor) -> None:
    """TRL's structured completions, read back, give the reward of the very trajectory they were made of."""
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
        stock = _trajectory(messages, ours.completion_ids, eos)
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
    trajectory = _trajectory([message], [5, last_id], eos=2)
    assert trajectory.ending is ending
    assert trajectory.answer == ("3" if ending is Ending.ANSWERED else None)


def misbehave(mode: str) -> str:
    if mode == "raise":
        raise RuntimeError("the tool broke")
    if mode == "hang":
        time.sleep(60)
    if mode == "print":
        print("x" * 5_000_000)
    if mode == "return":
        return "x" * 5_000_000
    if mode == "exit":
        os._exit(3)
    if mode == "quit":
        raise SystemExit(1)
    return "7"


UNRELIABLE = Tool(
    "fetch", "fetches a number",
    {"type": "object", "properties": {"mode": {"type": "string"}}, "required": ["mode"], "additionalProperties": False},
    misbehave,
)  # a table  # fmt: skip
MODES = ("raise", "hang", "print", "return", "exit", "quit")


def fetching(mode: str, question: str, identity: str) -> Task:
    """A task whose trace calls the tool once, in some mode, and answers 7 all the same."""
    call = Message("assistant", "", (ToolCall("fetch", {"mode": mode}),))
    turns = (call, Message("tool", "7", name="fetch"), Message("assistant", "\\boxed{7}"))
    reference = Trajectory(turns, "7", Ending.ANSWERED)
    return Task(identity, (Message("user", question),), (UNRELIABLE,), "id", "fetch", answer="7", reference=reference)


@pytest.fixture(scope="module")
def provocative_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that calls the tool in each of the ways that break it, depending on the question."""
    tasks = [fetching(mode, f"{mode}, {mode}, {mode}!", mode) for mode in MODES]
    return teach(tmp_path_factory.mktemp("students") / "provocative", tasks, steps=80)


@pytest.mark.parametrize("engine", ["edge", "trl"])
def test_training_goes_on_when_tools_misbehave(
    provocative_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    tasks = tuple(fetching("work", f"{mode}, {mode}, {mode}!", mode) for mode in MODES)  # the teacher's calls do work
    monkeypatch.setattr(base, "load_training_suite", lambda *_: Suite("fetch", "1", tasks))
    recipe = MentorRecipe(
        student=str(provocative_student),
        output_dir=tmp_path / "run",
        train={"steps": 2, "prompts_per_step": len(MODES), "rollouts_per_prompt": 2, "save_every": 1},
        rollout={"engine": engine, "tool_timeout": 0.3, "temperature": 0.3},
    )
    run = recipe.fit()
    log = run.training_log()
    assert [row["step"] for row in log] == [1, 2]
    assert run.tasks["used"] == len(MODES)
    assert all(row["calls"] > 0.8 for row in log)
    if engine == "edge":
        assert all(row["tool_errors"] > 0.8 for row in log)  # every rollout but the odd one that called otherwise


def test_every_way_to_misbehave_is_an_error_the_model_reads(provocative_student: Path) -> None:
    """What the training above ran into: each mode called, each answered with its own error."""
    engine = TransformersEngine.load(provocative_student)
    tasks = [fetching("work", f"{mode}, {mode}, {mode}!", mode) for mode in MODES]
    with ToolExecutor(timeout=0.3) as executor:
        trajectories = run_conversations(engine, tasks, executor, LIMITS)
    errors = {t.calls[0].arguments["mode"]: t.messages[1].content for t in trajectories}
    assert errors.keys() == set(MODES)
    assert all(trajectory.tool_errors >= 1 for trajectory in trajectories)
    assert "the tool broke" in errors["raise"]
    assert "within 0.3 s" in errors["hang"]
    assert "printed more than" in errors["print"]
    assert "returned 5000000 characters" in errors["return"]
    assert "exit code 3" in errors["exit"]
    assert "exit the interpreter" in errors["quit"]


def test_a_prompt_without_room_in_the_context_is_a_rollout_without_reward(
    nano_student: Path, tmp_path: Path, executor: ToolExecutor
) -> None:
    """Nothing can be generated there; TRL still needs a token, and the token must not be learned."""
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

    def reward(trajectory: Trajectory, task: Task) -> RewardBreakdown:
        breakdown = MentorReward()(trajectory, task)
        scored.append((task.id, breakdown.total))
        return breakdown

    trainer = EdgeGRPOTrainer(
        tasks=tasks,
        limits=LIMITS,
        executor=executor,
        model=model,
        processing_class=tokenizer,
        peft_config=adapter,
        args=grpo_arguments(recipe.config, tmp_path),
        train_dataset=Dataset.from_list(rows),
        reward_funcs=RewardLog(reward, tasks, 2),
    )
    trainer.train()
    assert sorted(total for identity, total in scored if identity == "long") == [0.0, 0.0]
    assert trainer.state.global_step == 1


def test_stock_prompts_are_those_of_our_own_rollouts(
    nano_student: Path, tmp_path: Path, executor: ToolExecutor
) -> None:
    """TRL renders each row with the schemas of its own tools, not with those it derives from our environments."""
    config = MentorRecipe(student=str(nano_student), train={"prompts_per_step": 2, "rollouts_per_prompt": 2}).config
    model, tokenizer, adapter = load_trainable(str(nano_student), config.lora)
    rows = [{"prompt": [m.to_openai() for m in task.prompt], "task_id": task.id} for task in TASKS]
    tasks = {task.id: task for task in TASKS}
    trainer = stock_trainer(
        tasks=tasks,
        executor=executor,
        train_dataset=Dataset.from_list(rows),
        reward_funcs=RewardLog(MentorReward(), tasks, 2),
        model=model,
        processing_class=tokenizer,
        peft_config=adapter,
        args=grpo_arguments(config, tmp_path),
    )
    trainer._batch_environments = trainer.train_dataset["environment"]
    assert len(set(trainer._batch_environments)) > 3
    theirs, _, _ = trainer._tokenize_prompts(list(trainer.train_dataset["prompt"]))
    engine = TransformersEngine(model, tokenizer)
    texts = [engine.template.render(t.prompt, t.tool_schemas, add_generation_prompt=True) for t in TASKS]
    assert theirs == engine.encode(texts)


def test_tokenizers_of_students_come_with_a_parser_for_stock_rollouts(nano_student: Path) -> None:
    _, tokenizer = load_student(nano_student)
    prefix = tokenizer("<|im_start|>user\n1 and 2.5?<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    text = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2.5}}\n</tool_call>'
    parsed = parse_response(tokenizer, tokenizer(text + "<|im_end|>")["input_ids"], prefix=prefix)
    assert Message.from_openai(parsed) == parse_turn(text).message
    assert parsed["tool_calls"] == [ToolCall("add", {"a": 1, "b": 2.5}).to_openai()]
