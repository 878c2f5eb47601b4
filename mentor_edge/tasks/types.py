"""`Task` and `Suite`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from mentor_edge.messages import Message, Trajectory
from mentor_edge.tools.types import Tool


@dataclass(frozen=True)
class Task:
    """One problem: a prompt, the tools offered with it, and what counts as right.

    Either `answer` (a final answer) or `accepted_calls` (BFCL's ground truth: per call, per parameter, the accepted
    values; an empty list means that no call is right) is set. `split` is "id" or "ood"; `domain` names the finer group
    that results are reported by. `reference` is the teacher's trajectory; `other_references` are further ones, each as
    good, where teachers differ. `other_answers` are accepted as well as `answer`; `gold_passages` are the `doc_id`s of
    the passages that hold what the answer needs.
    """

    id: str
    prompt: tuple[Message, ...]
    tools: tuple[Tool, ...]
    split: str
    domain: str
    answer: str | None = None
    accepted_calls: tuple[Mapping[str, Any], ...] | None = None
    reference: Trajectory | None = None
    category: str = field(default="", compare=False)
    other_references: tuple[Trajectory, ...] = ()
    other_answers: tuple[str, ...] = ()
    gold_passages: tuple[str, ...] = ()

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """All accepted answers, the first one first."""
        return self.other_answers if self.answer is None else (self.answer, *self.other_answers)

    @cached_property
    def references(self) -> tuple[Trajectory, ...]:
        """All references, the first one first."""
        return self.other_references if self.reference is None else (self.reference, *self.other_references)

    @cached_property
    def tool_schemas(self) -> tuple[dict[str, Any], ...]:
        return tuple(tool.to_openai() for tool in self.tools)

    @cached_property
    def tools_by_name(self) -> dict[str, Tool]:
        return {tool.name: tool for tool in self.tools}


@dataclass(frozen=True, slots=True)
class AgentLimits:
    """Limits of one conversation: tool-calling rounds, tokens the model may write per turn, and tokens of all turns
    together (tool results included, where the engine counts them)."""

    tool_rounds: int = 6
    tokens_per_turn: int = 256
    completion_tokens: int = 1024


@dataclass(frozen=True)
class Suite:
    """A named, versioned list of tasks, and the limits of a conversation about one of them.

    `sha256` covers prompts, tools, answers and splits, so that results can be traced. It does not cover the limits:
    an evaluation records those beside it.
    """

    name: str
    version: str
    tasks: tuple[Task, ...]
    limits: AgentLimits = AgentLimits()

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256(f"{self.name} {self.version}\n".encode())
        for task in self.tasks:
            row: list[Any] = [
                task.id,
                task.split,
                task.domain,
                [message.to_openai() for message in task.prompt],
                task.tool_schemas,
                task.answer,
                task.accepted_calls,
            ]
            if task.other_answers or task.gold_passages:  # suites without them keep the hash they had before
                row += [task.other_answers, task.gold_passages]
            digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode())
        return digest.hexdigest()

    def where(self, *, split: str | None = None, domains: Iterable[str] | None = None) -> Suite:
        """The tasks of one split or of some domains, as a suite of the same name and version."""
        wanted = None if domains is None else set(domains)
        kept = tuple(
            task
            for task in self.tasks
            if (split is None or task.split == split) and (wanted is None or task.domain in wanted)
        )
        return replace(self, tasks=kept)

    def at_most(self, count: int) -> Suite:
        """The first `count` tasks of every domain, as a suite of the same name and version."""
        taken: Counter[str] = Counter()
        kept = []
        for task in self.tasks:
            taken[task.domain] += 1
            if taken[task.domain] <= count:
                kept.append(task)
        return replace(self, tasks=tuple(kept))
