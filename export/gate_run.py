"""Runs the gate's tasks: through the source in torch, and through every exported model in its own runtime."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.engines.onnx.engine import OnnxEngine
from mentor_edge.engines.open import identity_of
from mentor_edge.engines.process.defaults import threads_for
from mentor_edge.errors import EngineError, ExportError
from mentor_edge.evaluation.evaluate import Evaluation, evaluate
from mentor_edge.progress import Progress, as_stage, no_progress
from mentor_edge.results import Runtime
from mentor_edge.tasks.nano.suites import GATED
from mentor_edge.tasks.types import Suite

from .candidates import Candidate

_PARALLEL_FILES = 2
"""Files that run concurrently and share the threads. This is faster than one file after the other on all threads."""


def gate_suite(suite: Suite) -> Suite:
    """The tasks that decide the verdict: of the nano suite, only the splits that a student of its size can solve."""
    return suite.where(domains=GATED) if suite.name == "nano" else suite


def evaluate_file(path: Path, suite: Suite, progress: Progress = no_progress, *, kv: str = "f16") -> Evaluation:
    """Run a suite through a GGUF file in llama.cpp.

    Args:
        path: the GGUF file.
        suite: the tasks.
        progress: called with (stage, tasks done, tasks in all).
        kv: type of llama.cpp's key-value cache, "f16" (llama.cpp's default) or "f32".

    Returns:
        The outcome of every task, in the suite's order.

    Raises:
        EngineError: when the file cannot be loaded or llama.cpp fails.
    """
    with LlamaCppEngine(path, kv=kv) as engine:
        return evaluate(engine, suite, progress=progress)


def evaluate_directory(
    path: str | Path,
    suite: Suite,
    progress: Progress = no_progress,
    *,
    items: Path | None = None,
    threads: int | None = None,
) -> Evaluation:
    """Run a suite through a Hugging Face directory in torch.

    Args:
        path: the directory.
        suite: the tasks.
        progress: called with (stage, tasks done, tasks in all).
        threads: torch's threads; see `TransformersEngine.load`.
        items: a file for the outcomes. The same call after a kill runs only the missing tasks (see `evaluate`).

    Returns:
        The outcome of every task, in the suite's order.

    Raises:
        StudentError: when the model cannot be loaded.
        OutputError: when `items` cannot be written.
    """
    from mentor_edge.engines.torch.engine import TransformersEngine  # imports torch, which a GGUF file does not need

    identity = "" if items is None else identity_of(path)
    return evaluate(
        TransformersEngine.load(path, threads=threads), suite, items=items, identity=identity, progress=progress
    )


def check_source_evaluation(evaluation: Evaluation, suite: Suite) -> None:
    """Raises: ExportError when an evaluation of the source lacks a task of the gate, or used another prompt for it."""
    prompts = {outcome.task_id: outcome.prompt for outcome in evaluation.outcomes}
    for task in suite.tasks:
        if prompts.get(task.id) != task.prompt:
            raise ExportError(
                f"the source evaluation, of {evaluation.suite!r}, did not ask {task.id!r} of {suite.name!r}",
                "evaluate the source on the gate's own tasks",
            )


@contextmanager
def gate_items(out: Path) -> Iterator[Path]:
    """The directory for outcomes while the gate runs. It outlives a kill or an error; a success removes it."""
    items = out.with_name(f".{out.name}.gate")
    try:
        yield items
    except BaseException:
        with suppress(OSError):
            items.rmdir()  # succeeds only if nothing was measured
        raise
    shutil.rmtree(items, ignore_errors=True)


@dataclass(frozen=True)
class Measured:
    """A candidate's outcomes on the gate's tasks, and the runtime that produced them."""

    evaluation: Evaluation
    runtime: Runtime


class GateRun:
    """Runs the gate's tasks and keeps the outcomes in `items`, so that a killed export resumes."""

    def __init__(self, suite: Suite, items: Path, progress: Progress, threads: int | None = None) -> None:
        self._suite, self._items, self._progress, self._threads = suite, items, progress, threads
        self._engines: list[LlamaCppEngine | OnnxEngine] = []
        self._stopped = Event()

    def evaluate_model(self, name: str, directory: Path) -> Evaluation:
        """Run a Hugging Face directory in torch; `name` is the name of the stage."""
        items = self._items / f"{name.replace(' ', '-')}.jsonl"
        stage = as_stage(self._progress, f"gate: {name}")
        return evaluate_directory(directory, self._suite, stage, items=items, threads=self._threads)

    def evaluate_candidates(self, candidates: Sequence[Candidate]) -> list[Measured]:
        """Run all candidates, some of them concurrently. An error or Ctrl-C stops all; finished tasks are kept."""
        workers = min(_PARALLEL_FILES, len(candidates) or 1, self._threads or _PARALLEL_FILES)
        with ThreadPoolExecutor(workers) as pool:
            running = [pool.submit(self._evaluate, candidate, workers) for candidate in candidates]
            try:
                for finished in as_completed(running):
                    finished.result()
                return [future.result() for future in running]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self._stopped.set()
                for engine in list(self._engines):
                    engine.close()
                raise

    def _evaluate(self, candidate: Candidate, workers: int) -> Measured:
        stage = f"gate: {candidate.name}"
        threads = (self._threads or threads_for(candidate.bytes)) // workers
        with candidate.open(max(1, threads)) as engine:
            self._engines.append(engine)
            if self._stopped.is_set():
                raise EngineError(f"{stage}: stopped, because another model failed")
            evaluation = evaluate(
                engine,
                self._suite,
                items=self._items / f"{candidate.name}.jsonl",
                identity=candidate.identity(),
                progress=as_stage(self._progress, stage),
            )
            runtime = candidate.runtime.model_copy(
                update={"context_length": engine.context_length, "threads": engine.threads}
            )
        return Measured(evaluation, runtime)
