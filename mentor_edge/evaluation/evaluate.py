"""Running a suite through an engine with greedy decoding. Every row is kept, so each figure can be traced to its
conversations."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mentor_edge.agent import AgentLimits, run_conversations
from mentor_edge.engines.base import ChatEngine, Engine
from mentor_edge.evaluation.cut_off import CutOff, cut_offs
from mentor_edge.evaluation.journal import Header, Journal, partial_path, read_items, write_items
from mentor_edge.evaluation.outcome import Outcome, outcome_of
from mentor_edge.evaluation.summary import Counts, by_domain, by_split
from mentor_edge.evaluation.unread_calls import unread_calls
from mentor_edge.inspection.tool_use import engine_warnings, warn
from mentor_edge.messages import Trajectory
from mentor_edge.progress import Progress, no_progress
from mentor_edge.tasks.types import Suite, Task
from mentor_edge.tools.execution.executor import ToolExecutor

__all__ = ["Evaluation", "Outcome", "evaluate", "finished_evaluation"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The outcomes of one model on one suite, in the suite's order."""

    suite: str
    """Name of the suite."""
    version: str
    """Version of the suite."""
    sha256: str
    """Hash of the suite."""
    outcomes: tuple[Outcome, ...]
    """One outcome per task."""
    identity: str = ""
    """Which model was measured (see `identity_of`)."""
    limits: AgentLimits | None = None
    """Limits of every conversation; None if no engine ran, as for predictions made elsewhere."""
    batch_size: int | None = None
    """Tasks that ran at the same time; None if no engine ran."""
    warnings: tuple[str, ...] = ()
    """Why the figures do not mean what they seem to, such as a chat template that drops the tools."""
    context_length: int | None = None
    """Tokens that one conversation could have; None if the engine does not know."""
    threads: int | None = None
    """Processor threads of the engine; None if it does not know."""

    def counts(self, *, split: str | None = None, domain: str | None = None) -> Counts:
        """Items and right answers of all tasks, or of one split or domain."""
        chosen = [
            outcome.correct
            for outcome in self.outcomes
            if (split is None or outcome.split == split) and (domain is None or outcome.domain == domain)
        ]
        return Counts(n=len(chosen), correct=sum(chosen))

    def by_domain(self) -> dict[str, Counts]:
        """`counts` of every domain, in order of appearance."""
        return {domain: self.counts(domain=domain) for domain in dict.fromkeys(o.domain for o in self.outcomes)}

    def only(self, task_ids: Set[str]) -> Evaluation:
        """The outcomes of some of the tasks, as an evaluation of the same suite."""
        return replace(self, outcomes=tuple(outcome for outcome in self.outcomes if outcome.task_id in task_ids))

    @property
    def malformed(self) -> int:
        """Conversations that ended with an unreadable tool call."""
        return sum(outcome.malformed for outcome in self.outcomes)

    def cut_offs(self) -> list[CutOff]:
        """Which limits cut conversations off, and how to raise them."""
        return cut_offs(self.outcomes, self.limits, self.context_length)

    @property
    def cut_off(self) -> int:
        """Conversations that a limit cut off before the model could finish."""
        return sum(outcome.cut_by is not None for outcome in self.outcomes)

    @property
    def unknown_tools(self) -> int:
        """Conversations that called a tool that was not offered."""
        return sum(outcome.unknown_tool for outcome in self.outcomes)

    @property
    def header(self) -> Header:
        """What was measured: everything but the outcomes."""
        return Header(
            suite=self.suite,
            version=self.version,
            sha256=self.sha256,
            identity=self.identity,
            limits=self.limits,
            batch_size=self.batch_size,
            warnings=self.warnings,
            context_length=self.context_length,
            threads=self.threads,
        )

    def to_json(self) -> dict[str, Any]:
        """The header and the figures (`Summary`) of every split and every domain. No score is pooled over splits.
        `unread_calls` says if many outputs look like calls that could not be read."""
        return {"unread_calls": unread_calls(self.outcomes), **self.header.to_json()} | {
            "n": len(self.outcomes),
            "splits": {split: figures.to_json() for split, figures in by_split(self.outcomes).items()},
            "domains": {domain: figures.to_json() for domain, figures in by_domain(self.outcomes).items()},
            "cut_off": [
                {"limit": cut.limit.value, "count": cut.count, "severe": cut.severe, "statement": cut.statement}
                for cut in self.cut_offs()
            ],
        }

    def write_jsonl(self, path: str | Path) -> None:
        """Write the header and one JSON object per item (see `Outcome`). The file appears complete or not at all.

        Raises: OutputError when it cannot be written.
        """
        write_items(Path(path), self.header, self.outcomes)

    @classmethod
    def from_jsonl(cls, path: str | Path) -> Evaluation:
        """Read a file written by `write_jsonl`. Raises: TaskError when it is missing or damaged."""
        header, outcomes = read_items(Path(path))
        return cls(
            suite=header.suite,
            version=header.version,
            sha256=header.sha256,
            outcomes=tuple(outcomes),
            identity=header.identity,
            limits=header.limits,
            batch_size=header.batch_size,
            warnings=header.warnings,
            context_length=header.context_length,
            threads=header.threads,
        )


def evaluate(
    engine: Engine | ChatEngine,
    suite: Suite,
    *,
    limits: AgentLimits | None = None,
    executor: ToolExecutor | None = None,
    items: str | Path | None = None,
    identity: str = "",
    again: bool = False,
    progress: Progress = no_progress,
    on_note: Callable[[str], None] | None = None,
) -> Evaluation:
    """Run every task with greedy decoding and score it.

    Tasks with an `answer` run the whole tool loop and are right if the final answer is. Tasks with `accepted_calls`
    (BFCL) stop after the first turn without executing anything, and are right if its calls are.

    With `items`, the outcomes go to a file. While the evaluation runs they are in ITEMS.partial, each as soon as its
    conversation ends, and the same call after a kill runs only the missing tasks. A finished file of the same suite,
    limits and `identity` is read back instead, unless it has a journal. A file of another measurement is replaced.

    A model whose chat template drops tools, calls or results is measured, but the evaluation, its file and its reports
    carry a warning, and Python gets it as a `MentorEdgeWarning`.

    Args:
        engine: the model to measure.
        suite: the tasks.
        limits: limits of every conversation. Default: the suite's.
        executor: runs the tools. Default: a new one, closed at the end.
        items: JSONL file for the outcomes. Default: no file.
        identity: which model this is (see `identity_of`); required with `items`.
        again: measure again instead of reading back a finished file.
        progress: called with the number of finished tasks, including those of an interrupted evaluation.
        on_note: called with a sentence when another measurement is replaced. Default: log a warning.

    Returns:
        The outcomes of all tasks, in the suite's order.

    Raises:
        EngineError: when the runtime dies.
        StudentError: when the chat template refuses a prompt.
        OutputError: when `items` cannot be written. Finished tasks stay in the journal.
        TaskError: when `items` is not a file of outcomes.
        ValueError: for `items` without `identity`.
    """
    limits = limits or suite.limits
    warnings = engine_warnings(engine) if any(task.tools for task in suite.tasks) else ()
    warn(warnings)
    plan = Evaluation(
        suite.name,
        suite.version,
        suite.sha256,
        (),
        identity,
        limits,
        engine.batch_size,
        warnings,
        # An endpoint knows neither.
        getattr(engine, "context_length", None),
        getattr(engine, "threads", None),
    )
    batches = _batches(suite.tasks, limits, engine.batch_size)
    with ExitStack() as stack:
        journal = None
        if items is not None:
            if not identity:
                raise ValueError("items need the model's identity: a file must not mix the outcomes of two models")
            note = on_note or logging.getLogger(__name__).warning
            if (stored := _stored(Path(items), plan, note)) is not None and not again:
                return stored
            ids = [task.id for task in suite.tasks]
            journal = stack.enter_context(Journal(Path(items), plan.header, ids, note))
            if again and len(journal.outcomes) == len(ids):
                journal.restart()  # the last measurement finished, and was killed before it removed its journal
        executor = executor or stack.enter_context(ToolExecutor())
        finished = {} if journal is None else dict(journal.outcomes)
        stage = f"evaluate on {suite.name}"
        progress(stage, len(finished), len(suite.tasks))

        def record(tasks: Sequence[Task], index: int, trajectory: Trajectory) -> None:
            outcome = outcome_of(tasks[index], trajectory)
            finished[outcome.task_id] = outcome
            if journal is not None:
                journal.append(outcome)
            progress(stage, len(finished), len(suite.tasks))

        for batch in batches:
            if missing := [task for task in batch.tasks if task.id not in finished]:
                run_conversations(engine, missing, executor, batch.limits, on_end=partial(record, missing))
                if journal is not None:
                    journal.sync()
        evaluation = replace(plan, outcomes=tuple(finished[task.id] for task in suite.tasks))
        if items is not None and journal is not None:
            evaluation.write_jsonl(items)
            journal.remove()
    return evaluation


@dataclass(frozen=True, slots=True)
class _Batch:
    """Tasks that run at the same time. An interrupted evaluation resumes with the same batches, less what it has."""

    tasks: Sequence[Task]
    limits: AgentLimits


def _batches(tasks: Sequence[Task], limits: AgentLimits, size: int) -> list[_Batch]:
    """Tasks that run the whole loop, then tasks that end after the first turn, `size` at a time."""
    batches = []
    for first_turn_only in (False, True):
        chosen = [task for task in tasks if (task.accepted_calls is not None) == first_turn_only]
        batch_limits = replace(limits, tool_rounds=0) if first_turn_only else limits
        batches += [_Batch(chosen[start : start + size], batch_limits) for start in range(0, len(chosen), size)]
    return batches


def finished_evaluation(
    items: str | Path, suite: Suite, identity: str, limits: AgentLimits | None = None
) -> Evaluation | None:
    """The evaluation in the file `items`, or None if it measured something else or a newer one has begun (there is a
    journal).

    Another batch size, context or number of threads is accepted: they change only the last digits of a logit, and a
    conversation that needs more context was cut off and says so.
    Raises: TaskError when `items` is not a file of outcomes.
    """
    limits = limits or suite.limits
    plan = Evaluation(suite.name, suite.version, suite.sha256, (), identity, limits)
    return _stored(Path(items), plan, lambda note: None)


# Warnings follow from the model, which the identity stands for.
_OF_THE_RUNTIME: dict[str, Any] = {"batch_size": None, "context_length": None, "threads": None, "warnings": ()}


def _stored(items: Path, plan: Evaluation, note: Callable[[str], None]) -> Evaluation | None:
    if not items.exists():
        return None
    stored = Evaluation.from_jsonl(items)  # even to replace it: a file of anything else must not be overwritten
    if replace(stored, outcomes=(), **_OF_THE_RUNTIME) != replace(plan, outcomes=(), **_OF_THE_RUNTIME):
        note(f"{items} contains another measurement; this one replaces it when it is finished")
        return None
    return None if partial_path(items).exists() else stored
