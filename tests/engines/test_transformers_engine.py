"""Our decode loop against transformers' `generate`, on models with random weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

from helpers.tiny_models import EMBEDDING_ROWS, make_student
from mentor_edge.engines.base import Sampling
from mentor_edge.engines.torch import engine as transformers_engine
from mentor_edge.engines.torch.adapter import merged_adapter
from mentor_edge.engines.torch.engine import TransformersEngine
from mentor_edge.engines.torch.loading import load_student

PROMPT = [11, 45, 300, 7, 7, 201]
STUDENTS = [(family, tied) for family in ("qwen3", "qwen2", "llama") for tied in (True, False)]
QUICK = (("qwen3", True),)
TOKENS = st.integers(0, EMBEDDING_ROWS - 1)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            (family, tied),
            marks=() if (family, tied) in QUICK else pytest.mark.slow,
            id=f"{family}-{'tied' if tied else 'untied'}",
        )
        for family, tied in STUDENTS
    ],
)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TransformersEngine:
    family, tied = request.param
    return TransformersEngine.load(make_student(tmp_path_factory.mktemp("student"), family, tied=tied))


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


@contextmanager
def ending_at(engine: TransformersEngine, ids: set[int]) -> Iterator[None]:
    """The engine with other end-of-turn tokens: random models never write their own."""
    before, engine.end_ids = engine.end_ids, ids
    try:
        yield
    finally:
        engine.end_ids = before


def generated(model: Any, ids: list[int], new_tokens: int, ends: set[int]) -> list[int]:
    """The same turn by transformers' generate, for one row and without our cache."""
    config = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, eos_token_id=sorted(ends), pad_token_id=0)
    inputs = torch.tensor([ids])
    # Without a mask, generate treats tokens that look like padding as padding.
    output = model.generate(inputs, attention_mask=torch.ones_like(inputs), generation_config=config)
    return output[0, len(ids) :].tolist()


def argmax_after_each(model: Any, history: list[int]) -> list[int]:
    with torch.inference_mode():
        return model(torch.tensor([history])).logits[0].argmax(-1).tolist()


def converse(
    engine: TransformersEngine,
    prompts: Sequence[list[int]],
    first: Sequence[int],
    turns: Sequence[tuple[Sequence[int], Sequence[list[int]]]],
    new_tokens: int,
) -> list[tuple[list[int], list[int], bool]]:
    """Play turns on one batch; (history before the turn, what was generated, finished) of every row and turn."""
    played = []
    with engine.open(len(prompts)) as batch:
        histories: list[list[int]] = [[] for _ in prompts]
        for rows, inputs in [(first, [prompts[row] for row in first]), *turns]:
            generations = batch.extend(rows, inputs, Sampling(new_tokens))
            for row, ids, generation in zip(rows, inputs, generations, strict=True):
                histories[row] += ids
                played.append((list(histories[row]), generation.token_ids, generation.finished))
                histories[row] += generation.token_ids
    return played


@pytest.mark.parametrize("seed", [0, 1])
def test_every_turn_equals_generate_token_by_token(engine: TransformersEngine, seed: int) -> None:
    torch.manual_seed(seed)
    prompts = [torch.randint(EMBEDDING_ROWS, (length,)).tolist() for length in (9, 1, 30, 4)]
    prompts += [prompts[0], prompts[2]]  # rollouts of one group share a prompt
    # Two tokens that two of the rows will write are made end tokens, so that rows end at different times.
    ends = {generated(engine.model, prompts[row], 18, {-1})[index] for row, index in ((2, 4), (1, 9))}
    ends |= set(torch.randint(EMBEDDING_ROWS, (20,)).tolist())
    turns = [([1, 3, 4], [[5], [6, 7, 8], [9] * 12]), ([3, 0, 2, 5, 1, 4], [[2] * (i + 1) for i in range(6)])]
    with ending_at(engine, ends):
        played = converse(engine, prompts, [2, 0, 1, 3, 5, 4], turns, 18)
    for history, tokens, finished in played:
        assert tokens == generated(engine.model, history, 18, ends)
        assert finished == (tokens[-1] in ends)
    assert len({len(tokens) for _, tokens, _ in played}) > 2


@st.composite
def conversations(draw: st.DrawFn) -> dict[str, Any]:
    """A batch of one to seven prompts, some alike, and up to three further turns of any of its rows in any order."""
    pool = draw(st.lists(st.lists(TOKENS, min_size=1, max_size=20), min_size=1, max_size=4))
    prompts = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=7))
    rows = list(range(len(prompts)))
    turns = []
    for _ in range(draw(st.integers(0, 3))):
        chosen = draw(st.lists(st.sampled_from(rows), min_size=1, unique=True))
        turns.append((chosen, [draw(st.lists(TOKENS, min_size=1, max_size=15)) for _ in chosen]))
    return {
        "prompts": prompts,
        "first": draw(st.permutations(rows)),
        "turns": turns,
        "new_tokens": draw(st.integers(1, 24)),
    }


@pytest.mark.slow
@settings(max_examples=20)
@given(conversations(), st.sets(TOKENS, max_size=60))
def test_every_token_is_the_likeliest_after_its_history(
    engine: TransformersEngine, conversation: dict[str, Any], ends: set[int]
) -> None:
    with ending_at(engine, ends):
        played = converse(engine, **conversation)
    for history, tokens, finished in played:
        assert argmax_after_each(engine.model, history + tokens)[len(history) - 1 : -1] == tokens
        assert not ends.intersection(tokens[:-1])
        assert finished == (tokens[-1] in ends)
        assert finished or len(tokens) == conversation["new_tokens"]


def test_rows_continue_correctly_after_others_were_dropped(qwen3: Path) -> None:
    """Eight rows end one after the other: the cache is compacted on the way, and complete again for the next turn."""
    engine = TransformersEngine.load(qwen3)
    prompts = [[i + 1, 2 * i, 5] for i in range(8)]
    alone = [generated(engine.model, prompt, 20, {-1}) for prompt in prompts]
    ends = {tokens[2 * i] for i, tokens in enumerate(alone[:6])}
    with ending_at(engine, ends):
        played = converse(engine, prompts, range(8), [(range(7, -1, -1), [[3, 1]] * 8)], 20)
    for history, tokens, _ in played:
        assert tokens == generated(engine.model, history, 20, ends)
    assert sum(finished for *_, finished in played[:8]) >= 6


def test_prompts_prefilled_in_parts_end_in_the_right_rows(qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine.load(qwen3)
    monkeypatch.setattr(transformers_engine, "_PREFILL_TOKENS", 25)
    prompts = [[i, 3, 5] * (1 + 5 * i % 4) for i in (4, 1, 3, 2, 1, 5, 3)]
    with ending_at(engine, {-1}):
        played = converse(engine, prompts, [6, 0, 5, 1, 4, 2, 3], [([2, 6], [[8], [9, 9]])], 6)
    for history, tokens, _ in played:
        assert tokens == generated(engine.model, history, 6, {-1})


def test_a_batch_needs_all_prompts_at_once(qwen3: Path) -> None:
    engine = TransformersEngine.load(qwen3)
    with engine.open(3) as batch, pytest.raises(ValueError, match="must contain the prompt of every conversation"):
        batch.extend([0, 2], [PROMPT, PROMPT], Sampling(2))


def test_the_context_is_filled_to_its_last_token_and_no_further(qwen3: Path) -> None:
    model, tokenizer = load_student(qwen3)
    limited = TransformersEngine(model.eval(), tokenizer, context_length=len(PROMPT) + 10)
    with limited.open(2) as batch:
        short, long = batch.extend([0, 1], [PROMPT, [*PROMPT, 9, 9, 9]], Sampling(100))
    assert (len(short.token_ids), len(long.token_ids)) == (10, 7)
    assert not short.finished and not long.finished
    assert short.token_ids == generated(model, PROMPT, 10, {-1})


def test_the_context_is_never_wider_than_the_models(qwen3: Path) -> None:
    model, tokenizer = load_student(qwen3)
    assert TransformersEngine(model, tokenizer, context_length=10**6).context_length == 512


def test_training_mode_is_what_it_was_after_decoding(qwen3: Path) -> None:
    model, tokenizer = load_student(qwen3)
    engine = TransformersEngine(model.train(), tokenizer)
    with engine.open(1) as batch:
        assert not model.training
        batch.extend([0], [PROMPT], Sampling(1))
    assert model.training


def chi_square(observed: torch.Tensor, probabilities: torch.Tensor) -> tuple[float, int]:
    """Pearson's statistic and its degrees of freedom; cells expected fewer than ten times are pooled."""
    expected = probabilities * observed.sum()
    common = expected >= 10
    cells = [*zip(observed[common].tolist(), expected[common].tolist(), strict=True)]
    cells.append((observed[~common].sum().item(), expected[~common].sum().item()))
    return sum((seen - wanted) ** 2 / wanted for seen, wanted in cells if wanted > 0), len(cells) - 1


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampled_tokens_follow_the_models_distribution(qwen3: Path, temperature: float) -> None:
    """Two tokens per turn, so that one comes from the prefill and one from the cache; exact probabilities for both."""
    engine = TransformersEngine.load(qwen3)
    with torch.inference_mode():
        first = (engine.model(torch.tensor([PROMPT])).logits[0, -1].double() / temperature).softmax(-1)
        continued = torch.tensor([[*PROMPT, token] for token in range(EMBEDDING_ROWS)])
        second = first @ (engine.model(continued).logits[:, -1].double() / temperature).softmax(-1)
    torch.manual_seed(1)
    counts = torch.zeros(2, EMBEDDING_ROWS)
    with ending_at(engine, set()):
        for _ in range(40):
            with engine.open(100) as batch:
                for generation in batch.extend(range(100), [PROMPT] * 100, Sampling(2, temperature)):
                    for position, token in enumerate(generation.token_ids):
                        counts[position, token] += 1
    for observed, probabilities in zip(counts, (first, second), strict=True):
        statistic, freedom = chi_square(observed, probabilities)
        assert freedom > 10  # otherwise the test would show nothing
        assert statistic < freedom + 4 * math.sqrt(2 * freedom)


def test_a_wrong_temperature_would_be_detected(qwen3: Path) -> None:
    """The test above can fail: samples drawn at temperature 1 do not pass as samples at 0.8."""
    engine = TransformersEngine.load(qwen3)
    with torch.inference_mode():
        logits = engine.model(torch.tensor([PROMPT])).logits[0, -1].double()
    torch.manual_seed(1)
    drawn = torch.multinomial(logits.softmax(-1), 4000, replacement=True)
    statistic, freedom = chi_square(torch.bincount(drawn, minlength=EMBEDDING_ROWS), (logits / 0.8).softmax(-1))
    assert statistic > freedom + 4 * math.sqrt(2 * freedom)


def adapted(student: Path, *, four_bit: bool = False) -> tuple[Any, Any]:
    """(model, tokenizer) with an adapter that changes a lot."""
    model, tokenizer = load_student(student, four_bit=four_bit)
    torch.manual_seed(3)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval(), tokenizer


def base_weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if "lora_" not in name}


def logits_of(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([PROMPT])).logits


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama"])
def test_a_merged_adapter_computes_what_the_live_one_does(tmp_path: Path, family: str) -> None:
    model, _ = adapted(make_student(tmp_path, family))
    before, live = base_weights(model), logits_of(model)
    with merged_adapter(model):
        merged = logits_of(model)
        assert any(not torch.equal(value, before[name]) for name, value in base_weights(model).items())
    with model.disable_adapter():
        assert (logits_of(model) - live).abs().max() > 0.5  # the adapter matters
    assert torch.allclose(merged, live, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in base_weights(model).items())
    assert torch.equal(logits_of(model), live)


def test_base_weights_come_back_after_a_failure_while_merged(qwen3: Path) -> None:
    model, _ = adapted(qwen3)
    before, live = base_weights(model), logits_of(model)
    with pytest.raises(RuntimeError, match="no more memory"), merged_adapter(model):
        raise RuntimeError("no more memory")
    assert all(torch.equal(value, before[name]) for name, value in base_weights(model).items())
    assert torch.equal(logits_of(model), live)


@pytest.mark.parametrize("four_bit", [False, True], ids=["full", "nf4"])
def test_rollouts_are_those_of_the_live_adapter(qwen3: Path, four_bit: bool) -> None:
    """QLoRA too: 4-bit layers keep their adapter live, so that the model decoded is the model trained."""
    model, tokenizer = adapted(qwen3, four_bit=four_bit)
    engine = TransformersEngine(model.get_base_model(), tokenizer)
    before = base_weights(model)
    with merged_adapter(model), ending_at(engine, {-1}), engine.open(2) as batch:
        merged_weights = base_weights(model)
        generations = batch.extend([0, 1], [PROMPT, PROMPT[:3]], Sampling(8))
    changed = any(not torch.equal(value, before[name]) for name, value in merged_weights.items())
    assert changed != four_bit
    for prompt, generation in zip((PROMPT, PROMPT[:3]), generations, strict=True):
        assert generation.token_ids == generated(model, prompt, 8, {-1})


def test_markers_encode_to_single_tokens_and_texts_come_back(qwen3: Path) -> None:
    engine = TransformersEngine.load(qwen3)
    texts = ["<tool_call>", "</tool_call>", "<|im_end|>", 'a <tool_call>\n{"x": 1}\n</tool_call> ü']
    encoded = engine.encode(texts)
    assert [len(ids) for ids in encoded[:3]] == [1, 1, 1]
    assert engine.decode(encoded) == texts
    assert engine.encode([]) == []
    assert all(token in engine.end_ids for token in itertools.chain(encoded[2]))
