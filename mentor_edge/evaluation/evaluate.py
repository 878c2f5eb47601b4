"""Running a suite through an engine, greedily, with every item kept: each number can be traced to its conversation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence, Set
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from mentor_edge.agent import AgentLimits, run_conversations
from mentor_edge.engines.base import ChatEngine, Engine
from mentor_edge.errors import TaskError
from mentor_edge.evaluation.journal import Journal, partial_path, read_items, write_items
from mentor_edge.evaluation.outcome import Outcome, outcome_of
from mentor_edge.evaluation.summary import by_domain, by_split
from mentor_edge.progress import Progress, no_progress
from mentor_edge.tasks.types import Suite, Task
from mentor_edge.tools.execution.executor import ToolExecutor

__all__ = ["Evaluation", "Outcome", "evaluate", "finished_evaluation"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The outcomes of one model on one suite, in the suite's order. `sha256` is the suite's, `identity` says which
    model it was. `limits` and `batch_size` are None where no engine ran, as with predictions made elsewhere."""

    suite: str
    version: str
    sha256: str
    outcomes: tuple[Outcome, ...]
    identity: str = ""
    limits: AgentLimits | None = None
    batch_size: int | None = None

    def counts(self, *, split: str | None = None, domain: str | None = None) -> dict[str, int]:
        """Items and right answers of all tasks, or of one split or domain."""
        chosen = [
            outcome.correct
            for outcome in self.outcomes
            if (split is None or outcome.split == split) and (domain is None or outcome.domain == domain)
        ]
        return {"n": len(chosen), "correct": sum(chosen)}

    def by_domain(self) -> dict[str, dict[str, int]]:
        """`counts` of every domain, in order of appearance."""
        return {domain: self.counts(domain=domain) for domain in dict.fromkeys(o.domain for o in self.outcomes)}

    def only(self, task_ids: Set[str]) -> Evaluation:
        """The outcomes of some of the tasks, as an evaluation of the same suite."""
        return replace(self, outcomes=tuple(outcome for outcome in self.outcomes if outcome.task_id in task_ids))

    @property
    def malformed(self) -> int:
        """Conversations that ended with something that looks like a tool call and is none."""
        return sum(outcome.malformed for outcome in self.outcomes)

    @property
    def unknown_tools(self) -> int:
        """Conversations that called a tool that was not offered."""
        return sum(outcome.unknown_tool for outcome in self.outcomes)

    def header(self) -> dict[str, Any]:
        """What was measured: everything but the outcomes."""
        return {
            "suite": self.suite,
            "version": self.version,
            "sha256": self.sha256,
            "identity": self.identity,
            "limits": None if self.limits is None else asdict(self.limits),
            "batch_size": self.batch_size,
        }

    def to_json(self) -> dict[str, Any]:
        """The header and the figures (`Summary`) of every split and every domain; never a score pooled over splits."""
        return self.header() | {
            "n": len(self.outcomes),
            "splits": {split: figures.to_json() for split, figures in by_split(self.outcomes).items()},
            "domains": {domain: figures.to_json() for domain, figures in by_domain(self.outcomes).items()},
        }

    def write_jsonl(self, path: str | Path) -> None:
        """Write the header and one JSON object per item (see `Outcome`). The file appears complete or not at all.

        Raises: OutputError when it cannot be written.
        """
        write_items(Path(path), self.header(), self.outcomes)

    @classmethod
    def from_jsonl(cls, path: str | Path) -> Evaluation:
        """Read what `write_jsonl` wrote. Raises: TaskError when it is missing or damaged."""
        header, outcomes = read_items(Path(path))
        try:
            limits = None if header["limits"] is None else AgentLimits(**header["limits"])
            return cls(**{**header, "limits": limits, "outcomes": tuple(outcomes)})
        except (KeyError, TypeError) as error:
            raise TaskError(f"{path}: the header is malformed ({error})") from error


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

    Tasks with an `answer` run the whole tool loop and are right when the final answer is. Tasks with `accepted_calls`
    (BFCL) stop after the first turn, without executing anything, and are right when its calls are. `limits` None are
    the suite's own. `progress` counts the finished tasks, those of an earlier run included.

    `items` is the file for the outcomes. While the evaluation runs they stand in ITEMS.partial, batch by batch, and the
    same call after a kill runs only what is missing there. A finished file of the same suite, limits and `identity`
    (which model it was; required with `items`) is read back, unless a journal stands beside it; `again` measures anew.
    Outcomes of another measurement are replaced, and `on_note` (default: a logged warning) is told so.

    Raises: EngineError when the runtime dies, StudentError when the template refuses a prompt, OutputError when `items`
    cannot be written (finished batches stay in the journal), TaskError when `items` holds something else, ValueError
    for `items` without `identity`.
    """
    limits = limits or suite.limits
    plan = Evaluation(suite.name, suite.version, suite.sha256, (), identity, limits, engine.batch_size)
    batches = _batches(suite.tasks, limits, engine.batch_size)
    with ExitStack() as stack:
        journal = None
        if items is not None:
            if not identity:
                raise ValueError("items need the model's identity: outcomes of two models must never be mixed")
            note = on_note or logging.getLogger(__name__).warning
            if (stored := _stored(Path(items), plan, note)) is not None and not again:
                return stored
            ids = [[task.id for _, task in batch.tasks] for batch in batches]
            journal = stack.enter_context(Journal(Path(items), plan.header(), ids, note))
            if again and len(journal.batches) == len(batches):
                journal.restart()  # that was the last measurement, killed before it could remove its journal
        executor = executor or stack.enter_context(ToolExecutor())
        finished = [] if journal is None else list(journal.batches)
        stage = f"evaluate on {suite.name}"
        for batch in batches[len(finished) :]:
            progress(stage, sum(map(len, finished)), len(suite.tasks))
            tasks = [task for _, task in batch.tasks]
            trajectories = run_conversations(engine, tasks, executor, batch.limits)
            finished.append(
                [outcome_of(task, trajectory) for task, trajectory in zip(tasks, trajectories, strict=True)]
            )
            if journal is not None:
                journal.append(finished[-1])
        progress(stage, len(suite.tasks), len(suite.tasks))
        evaluation = replace(plan, outcomes=_in_suites_order(batches, finished))
        if items is not None and journal is not None:
            evaluation.write_jsonl(items)
            journal.remove()
    return evaluation


@dataclass(frozen=True, slots=True)
class _Batch:
    """Tasks that run side by side, with their places in the suite."""

    tasks: Sequence[tuple[int, Task]]
    limits: AgentLimits


def _batches(tasks: Sequence[Task], limits: AgentLimits, size: int) -> list[_Batch]:
    """Tasks that run the whole loop, then those that end after the first turn, `size` at a time."""
    batches = []
    for first_turn_only in (False, True):
        chosen = [(i, task) for i, task in enumerate(tasks) if (task.accepted_calls is not None) == first_turn_only]
        own = replace(limits, tool_rounds=0) if first_turn_only else limits
        batches += [_Batch(chosen[start : start + size], own) for start in range(0, len(chosen), size)]
    return batches


def _in_suites_order(batches: Sequence[_Batch], finished: Sequence[Sequence[Outcome]]) -> tuple[Outcome, ...]:
    places = chain.from_iterable((place for place, _ in batch.tasks) for batch in batches)
    by_place = dict(zip(places, chain.from_iterable(finished), strict=True))
    return tuple(by_place[place] for place in range(len(by_place)))


def finished_evaluation(
    items: str | Path, suite: Suite, identity: str, limits: AgentLimits | None = None
) -> Evaluation | None:
    """The evaluation that stands in `items`, when it measured just this and no journal of a newer one stands beside it.

    Its batch size may be another: that moves no more than the last digits of a logit.
    Raises: TaskError when `items` holds something else than outcomes.
    """
    limits = limits or suite.limits
    plan = Evaluation(suite.name, suite.version, suite.sha256, (), identity, limits)
    return _stored(Path(items), plan, lambda note: None)


def _stored(items: Path, plan: Evaluation, note: Callable[[str], None]) -> Evaluation | None:
    if not items.exists():
        return None
    stored = Evaluation.from_jsonl(items)  # also when it will be replaced: a file that is no such thing must not be
    if replace(stored, outcomes=(), batch_size=None) != replace(plan, batch_size=None):
        note(f"{items} holds another measurement; it is replaced when this one is finished")
        return None
    return None if partial_path(items).exists() else stored
