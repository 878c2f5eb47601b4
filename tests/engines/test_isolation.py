"""Isolation: a child process that crashes, hangs or lies, and hostile GGUF files, become errors and cost no memory."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from helpers.hostile_gguf import BILLIONS, HOSTILE, Edit, edited, entry, value
from helpers.tiny_models import make_student
from mentor_edge.engines.base import Sampling
from mentor_edge.engines.llama_cpp import engine as llama_cpp
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.engines.process import limits, machine
from mentor_edge.engines.process.worker import RuntimeDied, RuntimeWorker
from mentor_edge.errors import EngineError
from mentor_edge.export.gguf.convert import convert

PEAK = 300 << 20  # bytes; a child that holds the tiny model takes about 70 MiB


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    student = make_student(tmp_path_factory.mktemp("student"))
    convert(student, student / "f32.gguf")
    return student / "f32.gguf"


def misbehave(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokenize: str, before: str = "") -> None:
    """Start workers whose `tokenize` is this code; `before` runs before the worker starts."""
    body = "\n".join(f"    {line}" for line in tokenize.splitlines())
    (tmp_path / "child.py").write_text(
        f"""
import ctypes, os, signal, sys, time
from mentor_edge.engines.llama_cpp import llama_worker
from mentor_edge.engines.process import limits
{before}
def send(data, then=lambda: time.sleep(60)):
    # The replies' pipe: the child's last descriptor of a pipe beside its three standard ones.
    pipes = [i for i in range(3, 20) if os.path.exists(f"/proc/self/fd/{{i}}")]
    (replies,) = [i for i in pipes if os.readlink(f"/proc/self/fd/{{i}}").startswith("pipe:")]
    os.write(replies, data)
    then()
def tokenize(self, texts):
{body}
    return [[7]]
llama_worker.LlamaServer.tokenize = tokenize
llama_worker.main()
"""
    )
    monkeypatch.setattr(llama_cpp, "COMMAND", [sys.executable, str(tmp_path / "child.py")])


def frame(text: bytes) -> str:
    return f"send({len(text).to_bytes(8, 'little') + text!r})"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        pytest.param("os.kill(os.getpid(), signal.SIGSEGV)", "died with SIGSEGV while", id="segmentation fault"),
        pytest.param("ctypes.string_at(0)", "died with SIGSEGV while", id="null pointer"),
        pytest.param("os.write(2, b'GGML_ASSERT(x > 0) failed\\n'); os.abort()", "SIGABRT .*ASSERT", id="assertion"),
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL .*too little memory", id="out of memory killer"),
        pytest.param("os._exit(3)", "ended with exit code 3 while", id="exit"),
        pytest.param("sys.exit(0)", "ended with exit code 0 while", id="friendly exit"),
        pytest.param("time.sleep(60)", "no sign of life for 2 s while", id="hang"),
        pytest.param("while True: pass", "no sign of life for 2 s while", id="endless loop"),
        pytest.param("for _ in range(20_000): os.write(2, b'noise ' * 999)\nos._exit(4)", "code 4 while", id="noise"),
        pytest.param("os.write(2, b'\\xff' * 99_999); os._exit(5)", "code 5 while", id="noise that is not text"),
        pytest.param(
            "send((1 << 60).to_bytes(8, 'little'))", "connection .* a frame of 1152921504606846976", id="huge"
        ),
        pytest.param("send(b'\\xff' * 8)", "broke its connection while .* was announced", id="largest length"),
        pytest.param(frame(b"\xff\xfe garbage"), "broke its connection while .* not JSON", id="garbage"),
        pytest.param(frame(b"[1, 2]"), "broke its connection while .* a list instead of", id="no object"),
        pytest.param(frame(b'{"resul": 1}'), "broke its connection while .* contains resul", id="unknown reply"),
        pytest.param(frame(b'{"error": "x"}'), "broke its connection while .* contains error", id="half a reply"),
        pytest.param(frame(b"[" * 100_000), "broke its connection while .* not JSON", id="deep nesting"),
        pytest.param("send(b'abc', lambda: os._exit(0))", "ended with exit code 0 while", id="half a header"),
        pytest.param("send(b'\\x09' + bytes(7) + b'{', lambda: os._exit(6))", "code 6 while", id="half a frame"),
        pytest.param(
            "send(b'\\x09' + bytes(7) + b'{')",
            "no sign of life for 2 s while",
            marks=pytest.mark.slow,
            id="frame that never ends",
        ),
        pytest.param(
            "send(b'', lambda: os.closerange(3, 20)); time.sleep(60)",
            "closed its connection",
            marks=pytest.mark.slow,
            id="closed",
        ),
    ],
)
def test_every_failure_of_a_child_is_an_error_that_names_the_file(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, message: str
) -> None:
    misbehave(monkeypatch, tmp_path, code)
    before = psutil.Process().memory_info().rss
    with LlamaCppEngine(model_file) as engine:
        engine._worker._timeout = 2.0  # not from the start: on a busy machine, loading takes longer
        child = engine._worker._process.pid
        with pytest.raises(RuntimeDied, match=message) as caught:
            engine.encode(["x"])
        assert f"while tokenizing for {model_file}" in caught.value.problem and caught.value.hint == llama_cpp.DOCTOR
        assert len(caught.value.problem) < 20_000
        assert not psutil.pid_exists(child)
        with pytest.raises(EngineError, match="was closed before tokenizing"):
            engine.encode(["x"])
    assert psutil.Process().memory_info().rss - before < PEAK


def test_a_reply_that_does_not_fit_a_frame_is_refused_and_survived(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limit = "from mentor_edge.engines.process import frames\nframes.FRAME_LIMIT = 2_000"
    misbehave(monkeypatch, tmp_path, "if texts == ['long']: return [[1] * 3_000]", limit)
    with LlamaCppEngine(model_file) as engine:
        with pytest.raises(EngineError, match="do not fit a frame of at most 2000"):
            engine.encode(["long"])
        assert engine.encode(["short"]) == [[7]]


def limited(bytes_: int) -> str:
    """Code for a child on a machine with this many bytes of memory."""
    return f"limits.memory_bytes = lambda: {bytes_}"


def peak_of(pid: int) -> int:
    """The peak memory of a live process, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory")
@pytest.mark.parametrize(
    "code",
    ["bytearray(1 << 40)", "kept = [bytearray(b'x' * (8 << 20)) for _ in range(9_999)]"],
    ids=["at once", "little by little"],
)
def test_a_child_cannot_take_the_machines_memory(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str
) -> None:
    misbehave(monkeypatch, tmp_path, f"if texts == ['much']: {code}", limited(96 << 20))
    with LlamaCppEngine(model_file, context_length=256, batch_size=1) as engine:
        with pytest.raises(EngineError, match=f"tokenizing for {model_file}: it takes more memory than") as caught:
            engine.encode(["much"])
        assert caught.value.hint is not None and not isinstance(caught.value, RuntimeDied)
        assert peak_of(engine._worker._process.pid) < PEAK
        assert engine.encode(["little"]) == [[7]]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory")
def test_caches_that_do_not_fit_are_refused_by_llama_cpp_and_survived(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The budget of the caches allows it, the limit of the process does not.
    misbehave(monkeypatch, tmp_path, "", limited(96 << 20) + "\nllama_worker.kv_budget = lambda: 1 << 30")
    with LlamaCppEngine(model_file, kv="f32", batch_size=250) as engine:
        with pytest.raises(EngineError, match=r"preparing 250 conversations of .*: no context for 250 sequences"):
            engine.open(250).__enter__()
        with engine.open(1) as batch:
            assert batch.extend([0], [[5]], Sampling(1))[0].token_ids


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory")
@pytest.mark.parametrize("memory", [1 << 30, 1 << 40])
def test_the_limit_follows_the_machine(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, memory: int
) -> None:
    misbehave(monkeypatch, tmp_path, "", limited(memory))
    with LlamaCppEngine(model_file) as engine:
        shown = Path(f"/proc/{engine._worker._process.pid}/limits").read_text()
    limit = next(int(line.split()[3]) for line in shown.splitlines() if line.startswith("Max address space"))
    size = model_file.stat().st_size
    allowed = size + min(memory, 2 * size + limits.HEADROOM)
    assert allowed < limit < allowed + (1 << 30)  # and what the libraries had mapped before
    assert "Max core file size        0 " in shown


def test_a_containers_memory_and_processors_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    whole = machine.memory_bytes(), machine.processors()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert (machine.memory_bytes(), machine.processors()) == whole
    (tmp_path / "memory.max").write_text("536870912\n")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert (machine.memory_bytes(), machine.processors()) == (512 << 20, 0.5)
    assert limits.kv_budget() == 256 << 20


def test_a_child_that_hangs_does_not_outlive_its_parent(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    misbehave(monkeypatch, tmp_path, "time.sleep(600)")
    script = (
        "import sys\nfrom mentor_edge.engines.llama_cpp import engine as llama_cpp\n"
        "llama_cpp.COMMAND = [sys.executable, sys.argv[2]]\n"
        "with llama_cpp.LlamaCppEngine(sys.argv[1]) as engine:\n"
        "    print(engine._worker._process.pid, flush=True)\n    engine.encode(['x'])\n"
    )
    command = [sys.executable, "-c", script, str(model_file), str(tmp_path / "child.py")]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout:
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.5)  # until it hangs
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 30
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the child still runs"
        time.sleep(0.05)


# Hostile files


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The peak memory of each child of the test that is alive when it is closed."""
    seen: list[int] = []
    close = RuntimeWorker.close

    def measured(self: RuntimeWorker) -> None:
        if sys.platform == "linux" and self._process.poll() is None:
            seen.append(peak_of(self._process.pid))
        close(self)

    monkeypatch.setattr(RuntimeWorker, "close", measured)
    return seen


@pytest.mark.parametrize(("edit", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused(model_file: Path, tmp_path: Path, peaks: list[int], edit: Edit, reason: str) -> None:
    path = edited(model_file, tmp_path, edit)
    with pytest.raises(EngineError, match=f"while loading {path}: .*{reason}") as caught:
        LlamaCppEngine(path, timeout=20.0)
    assert caught.value.hint is not None and "no sign of life" not in caught.value.problem
    assert all(peak < PEAK for peak in peaks)


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(value("qwen3.context_length", 2**31 - 1), id="longest context"),
        pytest.param(value("general.file_type", BILLIONS), id="file type of billions"),
        pytest.param(value("tokenizer.ggml.padding_token_id", BILLIONS), id="padding token of billions"),
        pytest.param(entry("tokenizer.ggml.token_type", 5, 77), id="token of no type"),
        pytest.param(entry("tokenizer.ggml.merges", 6, 255), id="merge that is not text"),
        pytest.param(entry("tokenizer.chat_template", 4, 255), id="template that is not text"),
    ],
)
def test_other_hostile_files_do_no_harm(model_file: Path, tmp_path: Path, peaks: list[int], edit: Edit) -> None:
    with LlamaCppEngine(model_file) as engine, engine.open(1) as batch:
        expected = batch.extend([0], [[1, 2, 3]], Sampling(4))
    with LlamaCppEngine(edited(model_file, tmp_path, edit), timeout=20.0) as engine:
        assert engine.context_length <= 4096
        with engine.open(1) as batch:
            assert batch.extend([0], [[1, 2, 3]], Sampling(4)) == expected
        assert engine.decode(engine.encode(["hi <|im_end|>"])) == ["hi <|im_end|>"]
    assert all(peak < PEAK for peak in peaks) and len(peaks) == 2
