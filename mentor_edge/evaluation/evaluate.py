"""Running a suite through an engine, greedily, with every item kept: each number can be traced to its conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mentor_edge.agent import AgentLimits, run_conversations
from mentor_edge.engines.base import Engine
from mentor_edge.files import write_jsonl
from mentor_edge.messages import Ending, Message, Trajectory
from mentor_edge.rewards import is_correct
from mentor_edge.tasks.bfcl import match_calls
from mentor_edge.tasks.types import Suite, Task
from mentor_edge.tools.executor import ToolExecutor


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one task.

    `tokens` are those the model wrote, `turns` its messages, `calls` the tools it asked for. `error` is BFCL's reason
    in one word, for tasks scored on their calls. `messages` is the conversation after the prompt.
    """

    task_id: str
    split: str
    domain: str
    correct: bool
    malformed: bool
    unknown_tool: bool
    ending: Ending
    answer: str | None
    error: str | None
    calls: int
    turns: int
    tokens: int
    tool_errors: int
    messages: tuple[Message, ...]

    def to_json(self) -> dict[str, Any]:
        row = {name: value for name, value in asdict(self).items() if name != "messages"}
        return row | {"messages": [message.to_openai() for message in self.messages]}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The outcomes of one engine on one suite, in the suite's order. `sha256` is the suite's."""

    suite: str
    version: str
    sha256: str
    outcomes: tuple[Outcome, ...]

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

    def to_json(self) -> dict[str, Any]:
        """The summary; the items themselves are what `write_jsonl` writes."""
        endings = [outcome.ending for outcome in self.outcomes]
        return {
            "suite": self.suite, "version": self.version, "sha256": self.sha256, **self.counts(),
            "by_domain": self.by_domain(), "malformed": self.malformed, "unknown_tools": self.unknown_tools,
            "endings": {ending.value: endings.count(ending) for ending in Ending if ending in endings},
        }  # fmt: skip

    def write_jsonl(self, path: str | Path) -> None:
        """Write one JSON object per item. The file appears complete or not at all.

        Raises: OutputError when it cannot be written.
        """
        write_jsonl(Path(path), (outcome.to_json() for outcome in self.outcomes))


def evaluate(
    engine: Engine,
    suite: Suite,
    *,
    limits: AgentLimits,
    executor: ToolExecutor,
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Run every task with greedy decoding and score it.

    Tasks with an `answer` run the whole tool loop and are right when the final answer is. Tasks with `accepted_calls`
    (BFCL) stop after the first turn, without executing anything, and are right when its calls are. `on_progress` gets
    the number of finished tasks, 0 at the start.

    Raises: EngineError when the runtime dies, StudentError when the template refuses a prompt.
    """
    outcomes: dict[int, Outcome] = {}

    def report(finished: int) -> None:
        if on_progress is not None:
            on_progress(len(outcomes) + finished)

    report(0)
    for first_turn_only in (False, True):
        chosen = [i for i, task in enumerate(suite.tasks) if (task.accepted_calls is not None) == first_turn_only]
        trajectories = run_conversations(
            engine,
            [suite.tasks[i] for i in chosen],
            executor,
            replace(limits, tool_rounds=0) if first_turn_only else limits,
            on_progress=report,
        )
        for i, trajectory in zip(chosen, trajectories, strict=True):
            outcomes[i] = _outcome(suite.tasks[i], trajectory)
    return Evaluation(suite.name, suite.version, suite.sha256, tuple(outcomes[i] for i in range(len(suite.tasks))))


def _outcome(task: Task, trajectory: Trajectory) -> Outcome:
    correct, error = is_correct(trajectory, task), None
    if task.accepted_calls is not None:
        functions = [schema["function"] for schema in task.tool_schemas]
        match = match_calls(task.domain, functions, task.accepted_calls, _first_calls(trajectory))
        correct, error = match.valid, match.error_type
    return Outcome(
        task.id, task.split, task.domain, correct,
        malformed=trajectory.ending is Ending.MALFORMED,
        unknown_tool=not trajectory.tools_used <= task.tools_by_name.keys(),
        ending=trajectory.ending, answer=trajectory.answer, error=error,
        calls=len(trajectory.calls),
        turns=sum(message.role == "assistant" for message in trajectory.messages),
        tokens=sum(trajectory.sampled), tool_errors=trajectory.tool_errors, messages=trajectory.messages,
    )  # fmt: skip


def _first_calls(trajectory: Trajectory) -> Sequence[dict[str, Any]] | None:
    """The calls of the first turn, or None when the model did not close it or wrote something unreadable."""
    if trajectory.ending not in (Ending.ANSWERED, Ending.OUT_OF_TURNS):
        return None
    return [{"name": call.name, "arguments": dict(call.arguments)} for call in trajectory.messages[0].tool_calls]
