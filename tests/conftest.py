"""Settings that must be made before torch loads, and students shared by several test files."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
from collections.abc import Iterator
from functools import cache as cache_results
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

# Inherited by child processes. Busy-waiting threads on a shared machine are a hundred times slower, two threads no
# faster on models this small, and runs are only equal to the last bit with the same number of threads.
os.environ.update(
    OMP_WAIT_POLICY="passive",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    TRANSFORMERS_VERBOSITY="error",
)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # nohup and shells' background jobs hand this on to children
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("no deadline", deadline=None)  # examples may be slow on a loaded machine
settings.load_profile("no deadline")
pytest.register_assert_rewrite("helpers.damaged_exports")  # a helper that asserts


class _FilesOfCommandsTogether(LoadFileScheduling):
    """Runs each test file in one worker of pytest-xdist, and all files that start commands in the same one: the server
    that is forked for each command takes 15 CPU seconds to load."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "commands" if _starts_commands(self.config.rootpath / file) else file


@cache_results
def _starts_commands(file: Path) -> bool:
    return "helpers.command_line" in file.read_text(encoding="utf-8")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _FilesOfCommandsTogether:
    """Called by pytest-xdist."""
    return _FilesOfCommandsTogether(config, log)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where nano bases are kept during the tests: never in the home directory."""
    directory = tmp_path_factory.mktemp("cache")
    os.environ["MENTOR_EDGE_CACHE"] = str(directory)
    return directory


@pytest.fixture(scope="module", autouse=True)
def frozen_objects() -> Iterator[None]:
    """What a file of tests leaves loaded is not scanned again: training collects garbage many times, among a million
    objects of torch and the trainers."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def onnx_builder() -> Iterator[Any]:
    """One process of onnxruntime-genai's model builder: it takes ten CPU seconds to start."""
    from mentor_edge.export.onnx.genai_exporter import running_builder

    with running_builder() as builder:
        yield builder


@pytest.fixture(scope="session")
def nano_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nano student that has half learned the first training tasks of seed 0: some of its rollouts are right.

    It takes half a minute; pytest-xdist's workers share it.
    """
    from helpers.taught_students import teach
    from mentor_edge.tasks.nano.suites import training_suite

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    student = shared / "taught" / "nano"
    with (shared / "taught.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not student.exists():
            teach(shared / "teaching" / "nano", training_suite(12, seed=0).tasks, steps=60)
            (shared / "teaching").rename(shared / "taught")
    return student
