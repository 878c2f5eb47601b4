"""The ONNX engine: generation against torch, its tokenizer, and what happens when the directory or the child fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.paths import SHARED
from helpers.tiny_models import EMBEDDING_ROWS, TEMPLATE, make_student
from mentor_edge.agent import ToolAgent, run_conversations
from mentor_edge.engines.base import Engine, Generation, Sampling
from mentor_edge.engines.onnx import engine as onnx
from mentor_edge.engines.onnx.engine import OnnxEngine
from mentor_edge.engines.process.worker import RuntimeDied
from mentor_edge.engines.torch.engine import TransformersEngine
from mentor_edge.errors import EngineError
from mentor_edge.tasks.nano.suites import LIMITS, training_suite
from mentor_edge.tools.execution.executor import ToolExecutor

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the packages load, here for their model builder
genai = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
pytest.importorskip("onnx_ir", reason="onnxruntime-genai's model builder needs onnx_ir")

PAD = 0
PROMPT = list(range(20, 60))
PROMPTS = [[(31 * length + 7 * i) % EMBEDDING_ROWS for i in range(length)] for length in (9, 1, 60, 4, 23)]


def build(student: Path, directory: Path) -> Path:
    """Export a Hugging Face directory as float32 with onnxruntime-genai's model builder."""
    sys.path.insert(0, str(Path(genai.__file__).parent / "models"))  # its modules import each other by bare names
    try:
        from onnxruntime_genai.models import builder

        where = (str(student), str(directory), "fp32", "cpu", str(directory / "cache"))
        builder.create_model("", *where, **builder.parse_extra_options("", *where, []))
    finally:
        sys.path.pop(0)
    return directory


def edit_json(path: Path, edit: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module", params=["qwen3", "llama", "qwen2"])
def engines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """(ONNX, torch): the same model with the same end tokens."""
    student = make_student(tmp_path_factory.mktemp("student"), request.param)
    directory = build(student, tmp_path_factory.mktemp("onnx"))
    reference = TransformersEngine.load(student)
    # Random models never write their own end token: tokens that they do write are added to the end tokens.
    (said,) = converse(reference, [(range(5), PROMPTS)], 5, 12)
    ends = [said[row].token_ids[place] for row, place in ((2, 4), (1, 9), (4, 11))]
    edit_json(directory / "genai_config.json", lambda config: config["model"].update(eos_token_id=ends))
    reference.end_ids |= set(ends)
    with OnnxEngine(directory) as engine:
        yield engine, reference


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(make_student(tmp_path_factory.mktemp("student")), tmp_path_factory.mktemp("onnx"))


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """A model directory to break."""
    return Path(shutil.copytree(model, tmp_path / "onnx"))


def misbehave(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """Start workers that run `code` first; `worker` is the worker's module."""
    script = tmp_path / "worker.py"
    begin = "import os, signal, sys\nfrom mentor_edge.engines.onnx import genai_worker as worker\n"
    script.write_text(f"{begin}{code}\nworker.main()\n")
    monkeypatch.setattr(onnx, "COMMAND", [sys.executable, str(script)])


def converse(
    engine: Engine, turns: Sequence[tuple[Sequence[int], Sequence[list[int]]]], size: int, new_tokens: int
) -> list[list[Generation]]:
    with engine.open(size) as batch:
        return [batch.extend(rows, inputs, Sampling(new_tokens)) for rows, inputs in turns]


def test_greedy_turns_equal_torch(engines: tuple[OnnxEngine, TransformersEngine]) -> None:
    prompts = [*PROMPTS, PROMPTS[2], [5, PAD, 7, PAD]]  # what looks like padding is not padding
    first = ([2, 0, 1, 3, 6, 5, 4], [prompts[row] for row in (2, 0, 1, 3, 6, 5, 4)])
    turns = [first, ([1, 3, 6], [[5], [6, 7, 8], [8] * 12]), ([3, 0, 2, 5, 1], [[3] * (i + 1) for i in range(5)])]
    ours, theirs = (converse(engine, turns, 7, 18) for engine in engines)
    assert ours == theirs
    played = [generation for turn in ours for generation in turn]
    assert len({len(generation.token_ids) for generation in played}) > 3
    assert {generation.finished for generation in played} == {True, False}


def test_a_batch_equals_one_by_one(engines: tuple[OnnxEngine, TransformersEngine]) -> None:
    engine, prompts = engines[0], PROMPTS[:3]
    together = converse(engine, [([2, 0, 1], [prompts[2], prompts[0], prompts[1]]), ([1, 0], [[5], [6, 7]])], 3, 12)
    alone = [converse(engine, [([0], [prompt]), ([0], [[6, 7]])], 1, 12) for prompt in prompts]
    assert [together[0][place] for place in (1, 2, 0)] == [turns[0][0] for turns in alone]
    assert together[1][1] == alone[0][1][0]


def test_long_prompts_are_fed_in_pieces(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    turns = [([0, 1], [PROMPTS[2], PROMPTS[4]]), ([1, 0], [[5] * 15, [6] * 7])]
    with OnnxEngine(model) as engine:
        batched = converse(engine, turns, 2, 12)
    misbehave(monkeypatch, tmp_path, "worker.CHUNK = 7")
    with OnnxEngine(model) as engine:
        assert converse(engine, turns, 2, 12) == batched


def test_logits_are_those_of_torch_whatever_the_graph_returns(
    engines: tuple[OnnxEngine, TransformersEngine], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine, reference = engines
    with torch.inference_mode():
        expected = reference.model(torch.tensor([PROMPTS[2]])).logits[0].numpy()
    assert np.abs(engine.logits(PROMPTS[2]) - expected).max() < 1e-4
    assert np.abs(engine.logits(PROMPTS[2], last=5) - expected[-5:]).max() < 1e-4
    # Some exporters' graphs return the logits after the last token of an append alone.
    last_only = "get = og.Generator.get_output\nog.Generator.get_output = lambda self, name: get(self, name)[:, -1:]"
    misbehave(monkeypatch, tmp_path, f"import onnxruntime_genai as og\n{last_only}")
    with OnnxEngine(engine.path) as other:
        assert np.abs(other.logits(PROMPTS[2]) - expected).max() < 1e-4


def test_logits_are_refused_in_an_open_batch_and_beyond_the_context(model: Path) -> None:
    with OnnxEngine(model, context_length=30) as engine:
        with pytest.raises(EngineError, match="40 tokens do not fit a context of 30"):
            engine.logits(PROMPT)
        with engine.open(1), pytest.raises(EngineError, match="has a batch open"):
            engine.logits(PROMPT[:3])


def test_a_full_context_ends_a_row_unfinished(model: Path) -> None:
    with OnnxEngine(model) as engine:
        expected = converse(engine, [([0], [PROMPT])], 1, 10)[0][0].token_ids
    with OnnxEngine(model, context_length=43) as engine, engine.open(3) as batch:
        inputs = [PROMPT, [*PROMPT, 1, 2, 3], [*PROMPT, *PROMPT]]
        short, exact, long = batch.extend([0, 1, 2], inputs, Sampling(10))
        again = batch.extend([0], [[5]], Sampling(10))
    assert short == Generation(expected[:3], finished=False)
    assert exact.token_ids == long.token_ids == again[0].token_ids == []


def test_what_does_not_fit_is_not_taken(model: Path) -> None:
    first, long, short = ([0], [PROMPT]), ([0], [[5, 6, 7, 8]]), ([0], [[5]])
    with OnnxEngine(model, context_length=43) as engine:
        expected = converse(engine, [first, short], 1, 1)
        assert converse(engine, [first, long, short], 1, 1) == [expected[0], [Generation([], False)], expected[1]]


def test_sampling_follows_the_temperature_and_is_reproducible(model: Path) -> None:
    def sample(temperature: float) -> list[int]:
        with OnnxEngine(model, batch_size=40) as engine, engine.open(40) as batch:
            generations = batch.extend(range(40), [PROMPTS[2]] * 40, Sampling(1, temperature))
            return [generation.token_ids[0] for generation in generations]

    cold, warm, again, greedy = sample(0.001), sample(1.0), sample(1.0), sample(0.0)
    assert cold == greedy and len(set(greedy)) == 1
    assert warm == again and len(set(warm)) > 8


def test_text_becomes_the_tokens_of_training(engines: tuple[OnnxEngine, TransformersEngine]) -> None:
    ours, theirs = engines
    texts = ["<|im_start|>user\nhi<|im_end|>", "a , b . it 's\n\n  x", "😀é你", "", "<tool_call>\n{}\n</tool_call>"]
    ids = ours.encode(texts)
    assert ids == theirs.encode(texts) and ours.decode(ids) == theirs.decode(ids) == texts
    emoji = ours.encode(["😀"])[0]
    assert ours.decode([emoji[:1]]) == ["\ufffd"]
    assert ours.encode(["\ud800"])  # a lone surrogate has no bytes; it must not end the engine
    assert ours.template == theirs.template
    assert ours.end_ids == theirs.end_ids
    assert ours.context_length == theirs.context_length and ours.vocabulary_size == EMBEDDING_ROWS


@pytest.mark.slow
def test_a_real_tokenizer_gives_the_known_tokens(copy: Path) -> None:
    shared = SHARED
    data = Path(os.environ.get("MENTOR_EDGE_DATA", shared)) / "tokenizers" / "qwen2"
    if not data.is_dir():
        pytest.skip("the Qwen2 tokenizer is not here: set MENTOR_EDGE_DATA to a folder that holds tokenizers/qwen2")
    from transformers import AutoTokenizer

    name = "ggml-vocab-qwen2.gguf"
    AutoTokenizer.from_pretrained(data, gguf_file=name).save_pretrained(copy)
    (copy / "chat_template.jinja").write_text(TEMPLATE)
    texts = (data / f"{name}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    expected = [[int(i) for i in line.split()] for line in (data / f"{name}.out").read_text().splitlines()]
    with OnnxEngine(copy) as engine:
        assert engine.encode(texts[: len(expected)]) == expected and len(expected) == 46


def test_the_template_may_be_in_the_tokenizer_config(copy: Path) -> None:
    template = copy / "chat_template.jinja"

    def move(config: dict[str, Any]) -> None:
        config.update(chat_template=template.read_text(), eos_token={"content": "<|im_end|>", "lstrip": False})

    edit_json(copy / "tokenizer_config.json", move)
    template.unlink()
    with OnnxEngine(copy) as engine:
        assert engine.template.source == TEMPLATE and engine.template.eos_token == "<|im_end|>"


def test_settings_of_training_do_not_truncate_texts(copy: Path, model: Path) -> None:
    cutting = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    edit_json(copy / "tokenizer.json", lambda tokenizer: tokenizer.update(truncation=cutting))
    with OnnxEngine(copy) as engine, OnnxEngine(model) as other:
        assert engine.encode([TEMPLATE]) == other.encode([TEMPLATE])


def test_wrong_requests_are_refused_and_survived(model: Path) -> None:
    with OnnxEngine(model) as engine:
        with engine.open(2) as batch:
            for rows, ids in (([2], [[1]]), ([0, 0], [[1], [1]]), ([0, 1], [[1], [448]]), ([0], [[]]), ([0], [[-3]])):
                with pytest.raises(EngineError, match="numbers below"):
                    batch.extend(rows, ids, Sampling(1))
            with pytest.raises(EngineError, match="open"), engine.open(1):
                pass
            after = batch.extend([0], [PROMPT], Sampling(3))
        assert [after] == converse(engine, [([0], [PROMPT])], 1, 3)
        with pytest.raises(EngineError, match="takes 1 to 8"), engine.open(9):
            pass


@pytest.mark.parametrize("context_length", [0, -1, 513, 2_000_000_000])
def test_contexts_that_cannot_be_are_refused(model: Path, context_length: int) -> None:
    with pytest.raises(EngineError, match=f"a context of {context_length} tokens.*\n.*1 to 512"):
        OnnxEngine(model, context_length=context_length)


def test_batch_size_is_lowered_to_what_fits_in_memory(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 2 layers x 2 heads x (128 + 128) x 4 bytes = 4 KiB per token, 2 MiB per conversation of 512.
    monkeypatch.setattr(onnx, "kv_budget", lambda: 11 << 20)
    with OnnxEngine(model) as engine:
        assert engine.batch_size == 5
    monkeypatch.setattr(onnx, "kv_budget", lambda: 1 << 20)
    with pytest.raises(EngineError, match=r"one cache of 512 tokens .* takes 2 MiB; the limit is 1 MiB"):
        OnnxEngine(model)


def cut(name: str, length: int) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_bytes((directory / name).read_bytes()[:length])


def without(name: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).unlink()


def change(name: str, edit: Callable[[Any], object]) -> Callable[[Path], object]:
    return lambda directory: edit_json(directory / name, edit)


def fill_with_nan(directory: Path) -> None:
    weights = directory / "model.onnx.data"
    weights.write_bytes(b"\xff" * weights.stat().st_size)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("genai_config.json"), r"has no genai_config.json\n.*builder"),
        (without("model.onnx"), r"has no model.onnx, which its genai_config.json names\n.*export"),
        (without("model.onnx.data"), r"while loading .*model.onnx.data.*\n.*export"),
        (without("tokenizer.json"), r"has no tokenizer.json\n.*export"),
        (without("tokenizer_config.json"), r"has no tokenizer_config.json\n.*export"),
        (without("chat_template.jinja"), r"has no chat template\n.*add the chat_template"),
        (cut("genai_config.json", 100), r"genai_config.json cannot be used.*JSON"),
        (change("genai_config.json", lambda c: c["model"]["decoder"].pop("head_size")), r"model.decoder.head_size"),
        (change("genai_config.json", lambda c: c["model"]["decoder"].update(head_size=64)), r"while loading.*past_key"),
        (change("genai_config.json", lambda c: c["model"].update(vocab_size=440)), r"while loading .* Got: 440 .*448"),
        (change("genai_config.json", lambda c: c["model"].update(type="other")), r"while loading .*other"),
        (change("tokenizer_config.json", lambda c: c.update(eos_token=None)), r"names no end-of-turn token"),
        (cut("tokenizer.json", 5000), r"tokenizer.json is not a tokenizer"),
        (cut("model.onnx", 0), r"while loading .*No graph"),
        (cut("model.onnx", 5000), r"while loading .*Protobuf parsing failed.*\n.*export it again"),
        (cut("model.onnx.data", 500_000), r"while loading [^:]*: 1 : FAIL : .*\d+ are out of bounds"),
    ],
)  # a table  # fmt: skip
def test_damaged_directories_are_refused(copy: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(copy)
    with pytest.raises(EngineError, match=message) as caught:
        OnnxEngine(copy)
    assert str(copy) in caught.value.problem and caught.value.hint is not None
    assert not isinstance(caught.value, RuntimeDied) and len(str(caught.value).splitlines()) == 2


def test_weights_that_are_not_numbers_are_refused(copy: Path) -> None:
    fill_with_nan(copy)
    with pytest.raises(EngineError, match="the logits are not finite"):
        OnnxEngine(copy)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"has no genai_config.json"):
        OnnxEngine(tmp_path / "none")


def test_without_the_runtime_the_error_says_how_to_install_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    misbehave(monkeypatch, tmp_path, "sys.modules['onnxruntime_genai'] = None")
    with pytest.raises(EngineError, match=r"cannot be imported.*\npip install 'mentor-edge\[onnx\]'"):
        OnnxEngine(model)


def test_a_killed_worker_is_an_error_on_every_later_call(model: Path) -> None:
    with OnnxEngine(model) as engine, engine.open(1) as batch:
        os.kill(engine._worker._process.pid, signal.SIGKILL)
        with pytest.raises(RuntimeDied, match=f"onnxruntime-genai died with SIGKILL .* while decoding {model}"):
            batch.extend([0], [PROMPT], Sampling(1))
        with pytest.raises(EngineError, match="closed"):
            batch.extend([0], [PROMPT], Sampling(1))
    with OnnxEngine(model) as engine:
        assert converse(engine, [([0], [PROMPT])], 1, 1)


def test_a_crash_while_decoding_names_the_directory_and_the_signal(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    crash = "print('terminate called', file=sys.stderr); os.kill(os.getpid(), signal.SIGABRT)"
    misbehave(monkeypatch, tmp_path, f"def die(*_, **__):\n    {crash}\nworker.OnnxServer.advance = die")
    message = f"onnxruntime-genai died with SIGABRT while decoding {model}: terminate called\n.*reinstall"
    with OnnxEngine(model) as engine, engine.open(1) as batch, pytest.raises(RuntimeDied, match=message) as caught:
        batch.extend([0], [PROMPT], Sampling(1))
    assert caught.value.signal == "SIGABRT"


def test_a_hang_is_ended_but_slow_work_is_not(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = "choose = worker.choose_token\nworker.choose_token = lambda *a: (time.sleep(0.3), choose(*a))[1]"
    misbehave(monkeypatch, tmp_path, f"import time\n{slow}")
    with OnnxEngine(model) as engine:
        engine._worker._timeout = 2.0
        assert len(converse(engine, [([0], [PROMPT])], 1, 9)[0][0].token_ids) == 9
        os.kill(engine._worker._process.pid, signal.SIGSTOP)
        with pytest.raises(RuntimeDied, match="no sign of life for 2 s"), engine.open(1):
            pass


def test_usage_is_not_recorded(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    with OnnxEngine(model) as engine:
        converse(engine, [([0], [PROMPT])], 1, 2)
    assert list(tmp_path.iterdir()) == []


def test_the_parent_never_imports_the_runtime_or_torch(model: Path) -> None:
    script = (
        "import sys\nfrom mentor_edge.engines.onnx.engine import OnnxEngine\n"
        "with OnnxEngine(sys.argv[1]) as engine: engine.encode(['x'])\n"
        "print(sorted({'onnxruntime', 'onnxruntime_genai', 'torch', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script, str(model)], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.fixture(scope="module")
def nano_model(nano_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(nano_student, tmp_path_factory.mktemp("onnx"))


def test_conversations_with_tools_equal_torch(nano_student: Path, nano_model: Path) -> None:
    tasks, limits = training_suite(12, seed=0).tasks, LIMITS
    with ToolExecutor() as executor, OnnxEngine(nano_model, batch_size=5) as engine:
        ours = run_conversations(engine, tasks, executor, limits)
        theirs = run_conversations(TransformersEngine.load(nano_student), tasks, executor, limits)
    assert ours == theirs
    assert sum(len(trajectory.calls) for trajectory in ours) > 6


def test_the_agent_and_the_command_line_take_a_directory(nano_model: Path) -> None:
    task = training_suite(1, seed=0).tasks[0]
    with ToolAgent.load(nano_model, list(task.tools)) as agent:
        assert agent.run(task.prompt).messages
    command = [sys.executable, "-m", "mentor_edge", "evaluate", str(nano_model), "--limit", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["target"] == str(nano_model)
