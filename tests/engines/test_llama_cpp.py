"""The llama.cpp engine: generation against transformers, and what happens when the child process fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.tiny_models import make_student
from mentor_edge.engines.base import Engine, Sampling
from mentor_edge.engines.llama_cpp import engine as llama_cpp
from mentor_edge.engines.llama_cpp.doctor import check_llama_cpp
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine, LlamaWorker
from mentor_edge.engines.process import worker
from mentor_edge.engines.process.worker import RuntimeDied
from mentor_edge.errors import EngineError
from mentor_edge.export.gguf.convert import convert
from mentor_edge.messages import Message

PROMPTS = [f"<|im_start|>user\nWhat is {i} times {i * 7}?<|im_end|>\n<|im_start|>assistant\n" * 3 for i in range(10)]
SUFFIX = "\n<|im_start|>user\n<tool_response>42</tool_response><|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def model_file(student: Path) -> Path:
    convert(student, student / "f32.gguf")
    return student / "f32.gguf"


@pytest.fixture(scope="module")
def engine(model_file: Path) -> Any:
    with LlamaCppEngine(model_file, kv="f32", batch_size=12) as engine:
        yield engine


@pytest.fixture(scope="module")
def reference(student: Path, engine: LlamaCppEngine) -> Any:
    """Greedy generation by transformers, from scratch every time."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32, attn_implementation="eager")

    def generate(ids: list[int], count: int) -> list[int]:
        output = model.generate(
            torch.tensor([ids]), max_new_tokens=count, do_sample=False, eos_token_id=sorted(engine.end_ids)
        )
        return output[0, len(ids) :].tolist()

    return generate


def misbehave(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """Start workers that run `code` first; `worker` is the worker's module."""
    script = tmp_path / "worker.py"
    begin = "import os, signal, sys, time\nfrom mentor_edge.engines.llama_cpp import llama_worker as worker\n"
    script.write_text(f"{begin}{code}\nworker.main()\n")
    monkeypatch.setattr(llama_cpp, "COMMAND", [sys.executable, str(script)])


def test_greedy_batch_equals_transformers_over_two_turns(engine: LlamaCppEngine, reference: Any) -> None:
    prompts = engine.encode(PROMPTS)
    assert sum(map(len, prompts)) > 512  # more than one llama_decode
    suffix = engine.encode([SUFFIX])[0]
    with engine.open(10) as conversations:
        first = conversations.extend(range(10), prompts, Sampling(12))
        # Only some rows continue, and not in order.
        rows = [7, 2, 3, 9]
        second = conversations.extend(rows, [suffix] * 4, Sampling(12))
    for prompt, generation in zip(prompts, first, strict=True):
        assert generation.token_ids == reference(prompt, 12)
        assert generation.finished == (generation.token_ids[-1] in engine.end_ids)
    for row, generation in zip(rows, second, strict=True):
        assert generation.token_ids == reference(prompts[row] + first[row].token_ids + suffix, 12)
    assert len({tuple(generation.token_ids) for generation in first}) > 1


def test_a_turn_ends_with_the_end_token(engine: LlamaCppEngine, reference: Any) -> None:
    # A seeded search for a prompt that the random model answers with an end token.
    random = np.random.default_rng(1)
    prompts = random.integers(3, 390, (60, 4)).tolist()
    generations = []
    for start in range(0, 60, 12):
        with engine.open(12) as conversations:
            generations += conversations.extend(range(12), prompts[start : start + 12], Sampling(40))
    ended = [(p, g) for p, g in zip(prompts, generations, strict=True) if g.finished]
    assert ended
    for prompt, generation in ended[:3]:
        assert generation.token_ids == reference(prompt, 40)
        assert [token in engine.end_ids for token in generation.token_ids].index(True) == len(generation.token_ids) - 1
    # What follows is the same for all, end token included, but what came before is not: nothing may be shared.
    assert len({generation.token_ids[-1] for _, generation in ended[:3]}) < 3
    with engine.open(3) as conversations:
        conversations.extend(range(3), [prompt for prompt, _ in ended[:3]], Sampling(40))
        following = conversations.extend(range(3), [engine.encode([SUFFIX])[0]] * 3, Sampling(8))
    for (prompt, generation), second in zip(ended, following, strict=False):
        assert second.token_ids == reference(prompt + generation.token_ids + engine.encode([SUFFIX])[0], 8)


def test_identical_prompts_share_their_prefill_and_part_afterwards(engine: LlamaCppEngine, reference: Any) -> None:
    prompt, other = engine.encode(PROMPTS[:2])
    suffixes = engine.encode([SUFFIX, "\nno", SUFFIX])
    with engine.open(4) as conversations:
        first = conversations.extend([1, 0, 3, 2], [prompt, other, prompt, prompt], Sampling(8))
        second = conversations.extend([1, 2, 3], suffixes, Sampling(8))
    assert first[0].token_ids == first[2].token_ids == first[3].token_ids == reference(prompt, 8)
    for suffix, generation in zip(suffixes, second, strict=True):
        assert generation.token_ids == reference(prompt + first[0].token_ids + suffix, 8)


def test_a_full_context_ends_a_row_unfinished(model_file: Path, reference: Any) -> None:
    with LlamaCppEngine(model_file, kv="f32", context_length=50) as engine:
        ids = engine.encode([PROMPTS[3]])[0]
        with engine.open(3) as conversations:
            short, exact, long = conversations.extend([0, 1, 2], [ids[:47], ids[:50], ids[:60]], Sampling(10))
            again = conversations.extend([0], [ids[:5]], Sampling(10))
        assert short.token_ids == reference(ids[:47], 3) and not short.finished
        assert exact.token_ids == long.token_ids == again[0].token_ids == []


def test_batches_are_independent_and_may_shrink_and_grow(model_file: Path) -> None:
    with LlamaCppEngine(model_file) as engine:
        ids = engine.encode(PROMPTS[:2])
        outputs = []
        for size in (1, 5, 2):
            with engine.open(size) as conversations:
                outputs.append(conversations.extend([size - 1], [ids[0]], Sampling(6))[0])
        assert outputs[0] == outputs[1] == outputs[2]
        before = engine.logits(ids[1])
        assert np.array_equal(before, engine.logits(ids[1])) and before.shape == (len(ids[1]), 448)


def test_sampling_follows_the_temperature_and_is_reproducible(model_file: Path) -> None:
    def sample(temperature: float) -> list[list[int]]:
        with LlamaCppEngine(model_file) as engine:
            ids = engine.encode(PROMPTS[:1])[0]
            with engine.open(64) as conversations:
                generations = conversations.extend(range(64), [ids] * 64, Sampling(1, temperature))
            return [[g.token_ids[0] for g in generations], [int(engine.logits(ids)[-1].argmax())]]

    (cold, [best]), (warm, _), (again, _) = sample(0.01), sample(1.0), sample(1.0)
    assert set(cold) == {best}
    assert len(set(warm)) > 8 and warm == again


def test_text_round_trips_with_specials_and_odd_bytes(engine: LlamaCppEngine) -> None:
    texts = ["<|im_start|>user\nhi<|im_end|>", "a , b . it 's\n\n  x", "😀é你", "", "<tool_call>\n{}\n</tool_call>"]
    assert engine.decode(engine.encode(texts)) == texts
    assert [len(ids) for ids in engine.encode(["<tool_call>", "<|im_end|>"])] == [1, 1]
    emoji = engine.encode(["😀"])[0]
    assert engine.decode([emoji[:1]]) == ["\ufffd"]
    assert engine.encode(["\ud800"])  # a lone surrogate has no bytes; it must not end the engine


def test_engine_offers_what_the_agent_needs(engine: LlamaCppEngine) -> None:
    protocol: Engine = engine
    assert protocol.context_length == 512 and protocol.batch_size == 12
    assert protocol.template.eos_token == "<|im_end|>" and protocol.template.bos_token == ""
    text = protocol.template.render([Message("user", "hi")], add_generation_prompt=True)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_wrong_requests_are_refused_and_survived(engine: LlamaCppEngine) -> None:
    with engine.open(2) as conversations:
        for rows, ids in (([2], [[1]]), ([0, 0], [[1], [1]]), ([0], [[448]]), ([0], [[]]), ([0], [[-1]])):
            with pytest.raises(EngineError):
                conversations.extend(rows, ids, Sampling(1))
        with pytest.raises(EngineError, match="open"), engine.open(1):
            pass
        assert conversations.extend([0], [[5]], Sampling(1))[0].token_ids
    with pytest.raises(EngineError, match="takes 1 to 12"), engine.open(13):
        pass


@pytest.mark.parametrize(
    ("context_length", "limit"), [(0, 131072), (513, 512), (200_000, 131072), (2_000_000_000, 131072)]
)
def test_contexts_that_cannot_be_are_refused_before_allocation(
    model_file: Path, context_length: int, limit: int
) -> None:
    with pytest.raises(EngineError, match=f"a context of {context_length} tokens.*\n.*{limit}"):
        LlamaCppEngine(model_file, context_length=context_length)


def test_batch_size_is_lowered_to_what_fits_in_memory(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # 2 layers x 2 heads x (128 + 128) x 2 bytes = 2 KiB per token, 1 MiB per sequence of 512.
    misbehave(monkeypatch, tmp_path, "worker.kv_budget = lambda: 5 << 20")
    with LlamaCppEngine(model_file) as engine:
        assert engine.batch_size == 5
    misbehave(monkeypatch, tmp_path, "worker.kv_budget = lambda: 1_000_000")
    with pytest.raises(EngineError, match="one cache of 512 tokens takes 1 MiB"):
        LlamaCppEngine(model_file)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"not a model" * 100,
        lambda data: data[: len(data) // 2],
        lambda data: data[:3000],
        lambda data: data[:8] + b"\xff" * 16 + data[24:],
        lambda data: data[:-4096] + b"\xff" * 4096,
        lambda data: data.replace(b"blk.1.attn_k.weight", b"blk.1.attn_x.weight"),
    ],
    ids=["empty", "garbage", "half", "header only", "absurd counts", "weights not finite", "missing tensor"],
)
def test_damaged_files_are_refused(model_file: Path, tmp_path: Path, damage: Any) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(damage(model_file.read_bytes()))
    with pytest.raises(
        EngineError, match=f"while loading {broken}: \\S+ .*\n.*export it again; `mentor-edge doctor`"
    ) as caught:
        LlamaCppEngine(broken)
    assert not isinstance(caught.value, RuntimeDied) and "no reason" not in caught.value.problem


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no such file"):
        LlamaCppEngine(tmp_path / "none.gguf")


def test_a_killed_worker_is_an_error_on_every_later_call(model_file: Path) -> None:
    with LlamaCppEngine(model_file) as engine:
        os.kill(engine._worker._process.pid, signal.SIGKILL)
        with pytest.raises(RuntimeDied, match="died with SIGKILL"):
            engine.encode(["x"])
        with pytest.raises(EngineError, match="closed"):
            engine.encode(["x"])


def test_an_interrupt_ends_the_worker_from_the_parent_only(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with LlamaCppEngine(model_file) as engine:
        os.kill(engine._worker._process.pid, signal.SIGINT)
        assert engine.encode([""]) == [[]]
        # A reply that was not read must never answer the next request.
        monkeypatch.setattr(worker, "read_frame", interrupt)
        with pytest.raises(KeyboardInterrupt):
            engine.encode(["x"])
        with pytest.raises(EngineError, match="closed"):
            engine.encode(["y"])


def test_a_crash_while_decoding_names_the_file_and_the_signal(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    crash = "print('GGML_ASSERT(x) failed', file=sys.stderr); os.kill(os.getpid(), signal.SIGABRT)"
    misbehave(monkeypatch, tmp_path, f"def die(*_, **__):\n    {crash}\nworker.LlamaServer.advance = die")
    message = f"llama.cpp died with SIGABRT while decoding {model_file}: .*x.* failed"
    with (
        LlamaCppEngine(model_file) as engine,
        engine.open(1) as conversations,
        pytest.raises(RuntimeDied, match=message) as caught,
    ):
        conversations.extend([0], [[5]], Sampling(1))
    assert caught.value.signal == "SIGABRT" and caught.value.hint == llama_cpp.DOCTOR


def test_a_hang_is_ended_but_slow_work_is_not(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slow = "for _ in range(9):\n        self._alive(); time.sleep(.3)\n    return [[1]]"
    misbehave(monkeypatch, tmp_path, f"def work(self, texts):\n    {slow}\nworker.LlamaServer.tokenize = work")
    with LlamaCppEngine(model_file, timeout=2.0) as engine:
        assert engine.encode(["x"]) == [[1]]
        os.kill(engine._worker._process.pid, signal.SIGSTOP)
        with pytest.raises(RuntimeDied, match="no sign of life for 2 s"):
            engine.decode([[1]])


def test_prints_of_c_code_do_not_reach_the_protocol(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    noise = "tokenize = worker.LlamaServer.tokenize\ndef loud(self, texts):\n    os.write(1, b'noise' * 99)\n"
    misbehave(monkeypatch, tmp_path, f"{noise}    return tokenize(self, texts)\nworker.LlamaServer.tokenize = loud")
    with LlamaCppEngine(model_file) as engine:
        assert engine.decode(engine.encode(["hello"])) == ["hello"]


def test_a_worker_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    misbehave(monkeypatch, tmp_path, "sys.modules['llama_cpp'] = None")
    with LlamaWorker() as child, pytest.raises(RuntimeDied, match=r"exit code 1 while starting: .*llama_cpp"):
        child.system_info()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_the_child_does_not_outlive_its_parent(model_file: Path, end: signal.Signals) -> None:
    script = """
import sys
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
with LlamaCppEngine(sys.argv[1]) as engine:
    print(engine._worker._process.pid, flush=True)
    while True:
        engine.encode(["x" * 10_000])
"""
    command = [sys.executable, "-c", script, str(model_file)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    assert parent.stdout is not None
    try:
        with parent.stdout:
            child = int(parent.stdout.readline())
            # A Ctrl-C reaches the whole process group, as in a terminal.
            os.killpg(parent.pid, end) if end == signal.SIGINT else parent.send_signal(end)
            parent.wait(timeout=10)
    finally:
        parent.kill()
    for _ in range(100):
        if not _runs(child):
            return
        time.sleep(0.05)
    pytest.fail("the child still runs")


def _runs(pid: int) -> bool:
    # An orphan that ended may stay a zombie where nothing reaps it.
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_parent_never_imports_llama_cpp(model_file: Path) -> None:
    script = (
        "import sys\nfrom mentor_edge.engines.llama_cpp.engine import LlamaCppEngine\n"
        "with LlamaCppEngine(sys.argv[1]) as engine: engine.encode(['x'])\n"
        "print(sorted({'llama_cpp', 'torch', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script, str(model_file)], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_doctor_passes_a_working_build() -> None:
    check = check_llama_cpp()
    assert check.ok, check.message


@pytest.mark.parametrize("fallback", [True, False])
def test_doctor_names_the_crash_and_the_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fallback: bool) -> None:
    # As the wheel built by gcc 12 behaves: dead in the first batch of a quantized model, unless buffers are plain.
    code = f"""
load = worker.LlamaServer.load
def broken(self, *args, use_extra_buffers, **kwargs):
    if use_extra_buffers or not {fallback}:
        worker.LlamaServer.logits = lambda *_, **__: os.kill(os.getpid(), signal.SIGSEGV)
    return load(self, *args, use_extra_buffers=use_extra_buffers, **kwargs)
worker.LlamaServer.load = broken
worker.LlamaServer.system_info = lambda self: "AMX_INT8 = 1"
"""
    misbehave(monkeypatch, tmp_path, code)
    check = check_llama_cpp()
    assert not check.ok and check.fallback_works is fallback
    assert "SIGSEGV in a 3-token decode" in check.message and 'CFLAGS="-mno-amx-tile' in check.message
    assert ("use_extra_buffers=False" in check.message) is fallback


def test_doctor_reports_a_build_that_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    misbehave(monkeypatch, tmp_path, "raise OSError('libllama.so: cannot open shared object file')")
    check = check_llama_cpp()
    assert not check.ok and "cannot open shared object file" in check.message
    assert "pip install --force-reinstall" in check.message
