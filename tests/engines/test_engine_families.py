"""Every engine on every family against transformers' `generate`, run on each row's whole history alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, GenerationConfig

from helpers.tiny_models import EMBEDDING_ROWS, families, make_student, make_tokenizer
from mentor_edge.engines.base import Engine, Sampling
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.engines.onnx.engine import OnnxEngine
from mentor_edge.engines.torch.engine import TransformersEngine
from mentor_edge.errors import StudentError
from mentor_edge.export.gguf.convert import convert

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the packages load

WINDOW = 64  # of five in six of Gemma 3's layers
LENGTHS = (150, 1, 70, 9)
NEW_TOKENS = 24


def start_adding_tokenizer() -> Any:
    """A tokenizer that puts a start token before every text, as Llama's and Gemma's do; templates write their own."""
    tokenizer = make_tokenizer()
    tokenizer.bos_token = "<|endoftext|>"
    start = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer._tokenizer.post_processor = TemplateProcessing(single=f"{start[0]} $A", special_tokens=[start])
    return tokenizer


@pytest.fixture(scope="module", params=families("gemma3"))
def student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights that sometimes produce an end token; generation_config.json names two of them."""
    tokenizer = start_adding_tokenizer() if request.param in ("llama", "gemma3") else make_tokenizer()
    directory = make_student(tmp_path_factory.mktemp(request.param), request.param, tied=False, tokenizer=tokenizer)
    weights = load_file(directory / "model.safetensors")
    weights["lm_head.weight"][tokenizer.eos_token_id] *= 1.7
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((directory / "generation_config.json").read_text())
    settings["eos_token_id"] = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    (directory / "generation_config.json").write_text(json.dumps(settings))
    return directory


def reference_of(model: Any, ends: Sequence[int]) -> Callable[[list[int], int], list[int]]:
    settings: dict[str, Any] = {"do_sample": False, "eos_token_id": list(ends), "pad_token_id": 0}
    known: dict[tuple[int, ...], list[int]] = {}  # equal engines ask for the same turns

    def generate(history: list[int], new_tokens: int) -> list[int]:
        key = (new_tokens, *history)
        if key in known:
            return known[key]
        inputs = torch.tensor([history])
        config = GenerationConfig(max_new_tokens=new_tokens, **settings)
        # Without a mask, generate takes tokens that look like padding for padding.
        output = model.generate(inputs, attention_mask=torch.ones_like(inputs), generation_config=config)
        known[key] = output[0, len(history) :].tolist()
        return known[key]

    return generate


@pytest.fixture(scope="module")
def generate(student: Path) -> Callable[[list[int], int], list[int]]:
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32, attn_implementation="eager")
    return reference_of(model.eval(), model.generation_config.eos_token_id)


def converse(engine: Engine, size: int, turns: Any) -> list[tuple[list[int], list[int], bool]]:
    """(history before the turn, what was generated, finished) of every row and turn."""
    histories: list[list[int]] = [[] for _ in range(size)]
    played = []
    with engine.open(size) as batch:
        for rows, inputs in turns:
            generations = batch.extend(rows, inputs, Sampling(NEW_TOKENS))
            for row, ids, generation in zip(rows, inputs, generations, strict=True):
                histories[row] += ids
                played.append((list(histories[row]), generation.token_ids, generation.finished))
                histories[row] += generation.token_ids
    return played


def conversations(seed: int) -> tuple[int, Any]:
    """Six rows, two of which share their prompts with others, over three turns of ragged inputs: some of the rows, in
    any order, further than a window reaches."""
    random = torch.Generator().manual_seed(seed)

    def ids(count: int) -> list[int]:
        return torch.randint(EMBEDDING_ROWS, (count,), generator=random).tolist()

    prompts = [ids(length) for length in LENGTHS]
    prompts += [prompts[0], prompts[2]]
    first = ([2, 0, 1, 3, 5, 4], [prompts[row] for row in (2, 0, 1, 3, 5, 4)])
    return 6, [first, ([1, 4, 3], [ids(90), ids(7), ids(1)]), ([3, 0, 5, 1, 4], [ids(12 * (i + 1)) for i in range(5)])]


def assert_equal_to(generate: Callable[[list[int], int], list[int]], engine: Engine, ends: set[int]) -> None:
    played = converse(engine, *conversations(seed=0))
    for history, tokens, finished in played:
        assert tokens == generate(history, NEW_TOKENS)
        assert finished == (tokens[-1] in ends)
    # Otherwise the test would not cover dropped rows and windows.
    assert len({len(tokens) for _, tokens, _ in played}) > 1
    assert max(len(history) for history, *_ in played) > 3 * WINDOW


def assert_same_text(engine: Engine, student: Path) -> None:
    """Nothing is added to a text: the template writes the start token."""
    other = TransformersEngine.load(student)
    texts = ["<|im_start|>user\nhi, it 's  12<|im_end|>\n", "<tool_call>\n{}\n</tool_call>"]
    assert engine.encode(texts) == other.encode(texts)
    assert engine.decode(engine.encode(texts)) == texts
    assert engine.template == other.template


@pytest.mark.slow
def test_transformers_engine_equals_generate(student: Path, generate: Any) -> None:
    engine = TransformersEngine.load(student)
    assert engine.end_ids == {0, 2}
    assert_equal_to(generate, engine, engine.end_ids)
    assert_same_text(engine, student)


def test_llama_cpp_equals_generate(student: Path, generate: Any, tmp_path: Path) -> None:
    convert(student, tmp_path / "f32.gguf")
    with LlamaCppEngine(tmp_path / "f32.gguf", kv="f32") as engine:
        assert engine.end_ids == {0, 2}
        assert_equal_to(generate, engine, set(engine.end_ids))
        assert_same_text(engine, student)


@pytest.mark.slow
def test_onnx_equals_generate(student: Path, generate: Any, tmp_path: Path, onnx_builder: Any) -> None:
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    from mentor_edge.export.onnx.export import export_onnx

    export_onnx(student, tmp_path / "onnx", "fp32", builder=onnx_builder)
    with OnnxEngine(tmp_path / "onnx") as engine:
        assert engine.end_ids == {0, 2}
        assert_equal_to(generate, engine, set(engine.end_ids))
        assert_same_text(engine, student)


SIZES: dict[str, Any] = {
    "vocab_size": EMBEDDING_ROWS, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512,
}  # a table  # fmt: skip


def random_model(name: str, **config: Any) -> Any:
    torch.manual_seed(0)
    settings = getattr(transformers, f"{name}Config")(**SIZES | config)
    model = AutoModelForCausalLM.from_config(settings)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("Mistral", {"sliding_window": 16}),
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}),
        ("Qwen3Moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}),
        ("Gemma2", {"sliding_window": 16, "head_dim": 32}),
        ("GPT2", {}),
    ],
    ids=["one window for all", "two kinds of layers", "windows only", "experts", "soft caps", "learned positions"],
)
def test_other_families_equal_generate(name: str, config: dict[str, Any]) -> None:
    model = random_model(name, **config)
    engine = TransformersEngine(model, make_tokenizer())
    # Random models never write their own end token: a token that one row does write ends turns.
    prompts = conversations(seed=0)[1][0][1]
    engine.end_ids = {reference_of(model, [-1])(prompts[0], NEW_TOKENS)[5]}
    assert_equal_to(reference_of(model, list(engine.end_ids)), engine, engine.end_ids)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("Mamba", {}, "no cache for layers of linear_attention"),
        ("Bloom", {"max_position_embeddings": None}, "its config has no maximum context length"),
        ("Bloom", {}, "cannot drive BloomForCausalLM"),
        ("Falcon", {"alibi": True}, "cannot drive FalconForCausalLM"),
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "type dynamic"),
        ("Llama", {"attn_implementation": "flex_attention"}, "needs attention that takes masks.* flex_attention"),
    ],
)
def test_what_the_decode_loop_cannot_drive_is_refused(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(StudentError, match=message) as refused:
        TransformersEngine(random_model(name, **config), make_tokenizer())
    assert refused.value.hint is not None
