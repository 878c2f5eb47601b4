"""Threads and batch sizes: the defaults, the numbers that engines report, and results that do not depend on them."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.tiny_models import make_student
from mentor_edge.engines.base import Generation, Sampling
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.engines.process import machine, serving
from mentor_edge.engines.process.defaults import SMALL, batch_size_for, threads_for
from mentor_edge.engines.process.serving import Ended, Turns, TurnServer
from mentor_edge.engines.torch.engine import TransformersEngine
from mentor_edge.errors import EngineError
from mentor_edge.export.gguf.convert import convert


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def gguf(student: Path) -> Path:
    convert(student, student / "f32.gguf")
    return student / "f32.gguf"


@pytest.mark.parametrize(
    ("processors", "cores", "share", "expected"),
    [
        ({0, 1, 2, 3}, {0: "0", 1: "1", 2: "0", 3: "1"}, 4.0, 2),  # two threads of each of two cores
        ({0, 1, 2, 3}, {}, 4.0, 4),  # the system does not tell
        ({0, 1, 2, 3}, {}, 2.5, 2),  # a cgroup's share
        ({0, 1}, {}, 0.5, 1),
        ({2}, {2: "0"}, 1.0, 1),  # bound to one processor
    ],
)
def test_physical_cores_respect_affinity_and_cgroup(monkeypatch, tmp_path, processors, cores, share, expected):
    for number, core in cores.items():
        topology = tmp_path / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        (topology / "core_id").write_text(core)
        (topology / "physical_package_id").write_text("0\n")
    monkeypatch.setattr(machine, "_PROCESSORS", tmp_path)
    monkeypatch.setattr(machine, "processors", lambda: share)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: processors)
    assert machine.physical_cores() == expected


@pytest.mark.parametrize(("variable", "threads"), [("3", 3), ("4,2", 4), ("", 7), ("0", 7), ("many", 7)])
def test_omp_num_threads_decides_if_it_is_a_number(monkeypatch, variable, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.setattr(machine, "physical_cores", lambda: 7)
    assert machine.default_threads() == threads


def test_defaults_depend_on_the_size_of_the_weights(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert (threads_for(SMALL - 1), batch_size_for(SMALL - 1)) == (1, 64)
    assert (threads_for(SMALL), batch_size_for(SMALL)) == (5, 8)


def test_the_number_of_threads_changes_no_logit_of_llama_cpp(gguf):
    logits = []
    for threads in (1, 2):
        with LlamaCppEngine(gguf, threads=threads) as engine:
            assert engine.threads == threads and engine.batch_size == 64
            logits.append(engine.logits(engine.encode(["a story about numbers " * 20])[0]))
    assert np.array_equal(*logits)


def test_threads_of_torch_are_set_and_reported(student):
    before = torch.get_num_threads()
    try:
        assert TransformersEngine.load(student, threads=1).threads == 1 == torch.get_num_threads()
        engine = TransformersEngine.load(student, context_length=100)
        assert (engine.batch_size, engine.context_length) == (64, 100)
    finally:
        torch.set_num_threads(before)


def test_no_threads_are_refused(gguf):
    with pytest.raises(EngineError, match="threads must be at least 1"):
        LlamaCppEngine(gguf, threads=0)


def streamed(engine, prompts: list[str], limit: int) -> list[tuple[int, list[int]]]:
    ids = engine.encode(prompts)
    with engine.open(len(ids)) as batch:
        return [(row, turn.token_ids) for row, turn in batch.stream(range(len(ids)), ids, Sampling(limit))]


@pytest.mark.parametrize("kind", ["torch", "llama.cpp"])
def test_turns_are_handed_over_as_they_end_and_equal_those_of_extend(student, gguf, kind):
    prompts = ["a story", "numbers and words", "x"]
    opened = LlamaCppEngine(gguf, kv="f32") if kind == "llama.cpp" else nullcontext(TransformersEngine.load(student))
    with opened as engine:
        first = dict(streamed(engine, prompts, 12))
        if kind == "torch":  # end turns at different steps
            engine.end_ids = frozenset({first[1][2]})
        turns = streamed(engine, prompts, 12)
        ids = engine.encode(prompts)
        with engine.open(3) as batch:
            whole = batch.extend(range(3), ids, Sampling(12))
    assert sorted(row for row, _ in turns) == [0, 1, 2]
    assert [dict(turns)[row] for row in range(3)] == [turn.token_ids for turn in whole]
    if kind == "torch":
        assert turns[0][0] == 1 and len(turns[0][1]) == 3, "the shortest turn comes first"


def test_a_worker_replies_as_soon_as_a_turn_has_ended_and_a_second_has_passed(monkeypatch):
    clock = iter([0.0, 0.2, 1.5, 10.0, 10.1, 10.2])
    monkeypatch.setattr(serving.time, "monotonic", lambda: next(clock))
    turn = Generation([1], True)
    turns = iter([None, (2, turn), None, (0, turn), (1, turn)])

    class Server(TurnServer):
        def _turns(self, *_: object) -> Turns:
            return turns

    server = Server()
    server.begin([0, 1, 2], [], 1)
    assert server.advance() == Ended([2], [turn], more=True)
    assert server.advance() == Ended([0, 1], [turn, turn], more=False)
