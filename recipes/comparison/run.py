"""Running a comparison: cells one by one or in parallel, each resumable.

- OUT/comparison.json: the figures of all cells
- OUT/cells/KEY/stage-N/: the runs of a cell
- OUT/cells/KEY/result.json: written last; a cell without it is resumed or started again
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import resource
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mentor_edge.errors import ConfigError, MentorEdgeError, RunError
from mentor_edge.evaluation.evaluate import evaluate
from mentor_edge.files import explained_write_errors, write_json
from mentor_edge.progress import Progress, no_progress
from mentor_edge.tools.catalog import load_tools

from ..run import Run, check_output, prepare_output
from ..steps import PolicyStep
from .cell import Cell
from .comparison import Comparison
from .plan import CellPlan, ComparisonPlan
from .summarise import summarise

_PACKAGES = ("torch", "transformers", "trl", "peft")
_POLL_SECONDS = 2.0


def compare(
    plan: ComparisonPlan, out: Path, *, resume: bool = False, jobs: int = 1, progress: Progress = no_progress
) -> Comparison:
    """Run every cell that is not finished yet, summarise all cells, and write the result to comparison.json.

    With `resume`, finished cells are kept and started ones resume from their last checkpoint; the plan may have new
    methods, seeds, bases and noises. `jobs` cells run in parallel, each with an equal share of the cores.

    Raises: OutputError, ConfigError (a finished cell was made with other settings), RunError (a cell's process died),
    and everything that `Recipe.fit` raises.
    """
    check_output(out, resume=resume)
    cells = list(plan.cells())
    for cell in cells:
        _check_settings(plan, cell, out)
    unfinished = [cell for cell in cells if not (_directory(out, cell) / "result.json").is_file()]
    _check_inputs(plan, unfinished)
    prepare_output(out, resume=resume)
    _make_bases(plan, unfinished, progress)
    _run_all(plan, unfinished, out, jobs, progress)
    suite = plan.suite()
    settings = {
        "suite": {"name": suite.name, "version": suite.version, "sha256": suite.sha256},
        "versions": {package: version(package) for package in _PACKAGES},
        "threads_per_cell": _threads(jobs),
        **plan.to_json(),
    }
    results = [Cell.from_json(_read(_directory(out, cell) / "result.json")["cell"]) for cell in cells]
    focus = "mentor" if "mentor" in plan.methods else list(plan.methods)[-1]
    comparison = summarise(results, focus=focus, core=plan.core, settings=settings)
    write_json(out / "comparison.json", comparison.to_json())
    return comparison


def _directory(out: Path, cell: CellPlan) -> Path:
    return out / "cells" / cell.key


def _threads(jobs: int) -> int:
    return max(1, len(os.sched_getaffinity(0)) // jobs)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error}", f"remove {path.parent} and resume") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} is damaged: it is not a JSON object", f"remove {path.parent} and resume")
    return value


def _check_settings(plan: ComparisonPlan, cell: CellPlan, out: Path) -> None:
    path = _directory(out, cell) / "result.json"
    if path.is_file() and _read(path).get("settings") != plan.fingerprint(cell):
        raise ConfigError(
            [f"the finished cell {cell.key} was made with other settings"], "choose another --out, or remove that cell"
        )


def _check_inputs(plan: ComparisonPlan, cells: Sequence[CellPlan]) -> None:
    """Load students and tasks once, to report mistakes in them before anything is written."""
    if not cells:
        return
    from ..student import check_student

    for base in plan.bases:
        check_student(base, plan.template_setting)
    plan.suite()
    for cell in {cell.method: cell for cell in cells}.values():
        for stage in range(len(cell.stages)):
            recipe = plan.recipe(cell, stage, start={"student": "nano"}, output_dir=Path("unused"))
            with load_tools(recipe.config.tasks.tools) as tools:
                recipe.load_tasks(tools.by_name)


def _make_bases(plan: ComparisonPlan, cells: Sequence[CellPlan], progress: Progress) -> None:
    """Make embedded students before parallel cells need them."""
    if cells:
        from ..student import resolve_student

        for base in plan.bases:
            resolve_student(base, 0, progress)


def _run_all(plan: ComparisonPlan, cells: Sequence[CellPlan], out: Path, jobs: int, progress: Progress) -> None:
    if not cells:
        return
    total = sum(plan.updates for cell in cells if cell.stages)
    finished = 0

    def report(running: Sequence[CellPlan]) -> None:
        done = finished + sum(min(plan.updates, _updates_logged(out, cell)) for cell in running)
        progress(f"updates ({len(cells)} cells)", done, total)

    report(())
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads
    with ProcessPoolExecutor(min(jobs, len(cells)), mp_context=context, initializer=_prepare_worker) as pool:
        futures: dict[Future[None], CellPlan] = {
            pool.submit(run_cell, plan, cell, out, _threads(jobs)): cell for cell in cells
        }
        try:
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    finished += plan.updates if futures[future].stages else 0
                report([futures[future] for future in pending])
        except BrokenProcessPool as error:
            raise RunError(
                "a cell's process died (killed, or out of memory)",
                "resume with --resume; fewer --jobs need less memory",
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():  # else leaving the pool waits for running cells
                worker.terminate()
            raise


def _prepare_worker() -> None:
    """Silence warnings as the command line does, and exit when the parent exits. Otherwise a worker could outlive a
    killed parent and keep training in the directory of a resumed comparison.
    """
    if os.environ.get("MENTOR_EDGE_DEBUG") != "1":
        warnings.filterwarnings("ignore")
        logging.disable(logging.WARNING)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent terminates its workers
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _updates_logged(out: Path, cell: CellPlan) -> int:
    return sum(
        path.read_bytes().count(b"\n") for path in _directory(out, cell).glob("stage-*/metrics.jsonl") if path.is_file()
    )


def run_cell(plan: ComparisonPlan, cell: CellPlan, out: Path, threads: int) -> None:
    """Train and evaluate one cell and write its result.json. Runs in a separate process.

    Raises: MentorEdgeError.
    """
    import torch

    from ..student import resolve_student

    torch.set_num_threads(threads)
    directory = _directory(out, cell)
    started = _cpu_seconds()
    student = resolve_student(cell.base, 0, no_progress)
    runs: list[Run] = []
    for stage in range(len(cell.stages)):
        target = directory / f"stage-{stage}"
        start = {"from_run": runs[-1].directory} if runs else {"student": student}
        try:
            recipe = plan.recipe(cell, stage, start=start, output_dir=target)
            runs.append(recipe.fit(resume=True, validation=plan.curve_suite()))
        except MentorEdgeError as error:
            error.problem = f"cell {cell.key}: {error.problem}"
            raise
    seconds = _cpu_seconds() - started
    right = _answers(student, runs, plan)
    rows = [row for run in runs for row in run.training_log()]
    result = Cell(
        base=cell.base,
        method=cell.method,
        seed=cell.seed,
        teacher_noise=cell.teacher_noise,
        right=right,
        updates=len(rows),
        tokens=sum(row.tokens for row in rows),
        rollout_tokens=sum(row.sampled_tokens for row in rows if isinstance(row, PolicyStep)),
        cpu_seconds=round(seconds, 1) if runs else 0.0,
        curve=_curve(runs),
    )
    with explained_write_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        for run in runs:
            shutil.rmtree(run.directory / "checkpoints", ignore_errors=True)
        write_json(
            directory / "result.json",
            {"settings": plan.fingerprint(cell), "cell": result.to_json(), "finished": time.strftime("%F %T")},
        )


def _cpu_seconds() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _answers(student: str, runs: Sequence[Run], plan: ComparisonPlan) -> dict[str, str]:
    """Right or wrong per item of every domain, greedily, in float32 torch."""
    from mentor_edge.engines.torch.engine import TransformersEngine

    if runs:
        engine = TransformersEngine.load(runs[-1].merged())
    else:
        engine = TransformersEngine.load(student, template=plan.template_setting)
    evaluation = evaluate(engine, plan.suite())
    right: dict[str, str] = {}
    for outcome in evaluation.outcomes:
        right[outcome.domain] = right.get(outcome.domain, "") + str(int(outcome.correct))
    return right


def _curve(runs: Sequence[Run]) -> tuple[tuple[int, float], ...]:
    points: list[tuple[int, float]] = []
    done = 0
    for run in runs:
        path = run.directory / "validation.jsonl"
        if path.is_file():
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            points += [(done + row["step"], row["correct"] / row["n"]) for row in rows]
        done += len(run.training_log())
    return tuple(points)
