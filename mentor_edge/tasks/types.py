"""`Task` and `Suite`: what a student is trained and tested on."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NoReturn

from mentor_edge.messages import Message, Trajectory
from mentor_edge.tools.types import Tool


@dataclass(frozen=True)
class Task:
    """One problem: a prompt, the tools offered with it, and what counts as right.

    A task sets either `answer` or `accepted_calls`.
    """

    id: str
    """The name of the task. It is unique in its suite."""
    prompt: tuple[Message, ...]
    """The conversation so far. It contains a user message and does not end with one of the assistant's."""
    tools: tuple[Tool, ...]
    """The tools offered, in the order of the prompt."""
    split: str
    """"id" (in domain) or "ood" (out of domain)."""
    domain: str
    """The group that results are reported by; finer than the split."""
    answer: str | None = None
    """The accepted final answer. None for tasks that are scored on their calls."""
    accepted_calls: tuple[Mapping[str, Any], ...] | None = None
    """The calls that the first turn must make, one `{function: {parameter: [accepted values]}}` each, as in BFCL. An
    empty tuple means that no call is right. None for tasks that are scored on their final answer."""
    reference: Trajectory | None = None
    """What the teacher did after the prompt."""
    other_references: tuple[Trajectory, ...] = ()
    """Further trajectories of the teacher, each as good as `reference`."""
    other_answers: tuple[str, ...] = ()
    """Answers that are accepted as well as `answer`."""
    gold_passages: tuple[str, ...] = ()
    """The `doc_id`s of the passages that contain what the answer needs, for retrieval tasks."""

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """All accepted answers; `answer` comes first."""
        return self.other_answers if self.answer is None else (self.answer, *self.other_answers)

    @cached_property
    def references(self) -> tuple[Trajectory, ...]:
        """All references; `reference` comes first."""
        return self.other_references if self.reference is None else (self.reference, *self.other_references)

    @cached_property
    def tool_schemas(self) -> tuple[dict[str, Any], ...]:
        """The schemas of the tools offered, in OpenAI's format."""
        return tuple(tool.to_openai() for tool in self.tools)

    @cached_property
    def tools_by_name(self) -> dict[str, Tool]:
        """The tools offered, by name."""
        return {tool.name: tool for tool in self.tools}


def never_executed(**arguments: Any) -> NoReturn:
    """The function of a tool that is offered without an implementation: its task is scored on the calls."""
    raise RuntimeError("this task is scored on the calls themselves; its tools have no implementation")


@dataclass(frozen=True, slots=True)
class AgentLimits:
    """Limits of one conversation between a model and its tools."""

    tool_rounds: int = 6
    """How many turns may call tools. With 0, the first calls end the conversation and nothing is executed."""
    tokens_per_turn: int = 512
    """How many tokens the model may write in one turn."""
    completion_tokens: int = 2048
    """How many tokens all turns may have together. Tool results count too if the engine counts them."""


@dataclass(frozen=True)
class Suite:
    """A named, versioned list of tasks, with the limits of a conversation about one of them."""

    name: str
    """The name that results are reported under."""
    version: str
    """The version of the data or of the generator."""
    tasks: tuple[Task, ...]
    """The tasks, in the order of evaluation."""
    limits: AgentLimits = AgentLimits()
    """The limits of a conversation about one task, wide enough for every reference."""

    @cached_property
    def sha256(self) -> str:
        """A hash of the name, the version, and the tasks: id, prompt, tools, accepted answers or calls, split, domain.

        It traces a result to its tasks. It leaves out the limits: an evaluation records them next to the hash.
        """
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
        """Select tasks by split, by domain, or by both.

        Args:
            split: "id" or "ood". None keeps both.
            domains: the domains to keep. None keeps all.

        Returns:
            A suite of the same name, version and limits.
        """
        wanted = None if domains is None else set(domains)
        kept = tuple(
            task
            for task in self.tasks
            if (split is None or task.split == split) and (wanted is None or task.domain in wanted)
        )
        return replace(self, tasks=kept)

    def at_most(self, count: int) -> Suite:
        """Keep the first tasks of every domain.

        Args:
            count: how many tasks of a domain to keep.

        Returns:
            A suite of the same name, version and limits.
        """
        taken: Counter[str] = Counter()
        kept = []
        for task in self.tasks:
            taken[task.domain] += 1
            if taken[task.domain] <= count:
                kept.append(task)
        return replace(self, tasks=tuple(kept))
