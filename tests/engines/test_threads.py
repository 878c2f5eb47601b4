"""Threads and batch sizes: the defaults, the numbers that engines report, and results that do not depend on them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.tiny_models import make_student
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.engines.process import machine
from mentor_edge.engines.process.defaults import SMALL, batch_size_for, threads_for
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
