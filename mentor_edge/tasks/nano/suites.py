"""The nano suite: one in-domain and seven out-of-domain domains, training tasks, and practice for the warm start."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from mentor_edge.messages import Message
from mentor_edge.tasks.nano.problems import Problem, Style, draw_lookup, draw_story
from mentor_edge.tasks.nano.teacher import Noise, demonstrate
from mentor_edge.tasks.types import AgentLimits, Suite, Task

VERSION = "1"
LIMITS = AgentLimits(tool_rounds=5, tokens_per_turn=48, completion_tokens=256)
"""Limits of one conversation, wide enough for every reference."""
TRAINING_VERSION = "2"

ID_STYLE = Style()
_OOD_STORIES: dict[str, Style] = {
    "para": Style(phrasings=(1, 2)),
    "comb": Style(pairs="held_out"),
    "distract": Style(tools=(6, 8)),
    "names": Style(alias=1.0, unseen_aliases=True, descriptions=(2,)),
    "long": Style(lengths={3: 0.5, 4: 0.5}),
}
CORE_OOD = ("para", "comb", "distract")
"""The out-of-domain domains that a student of this size can learn. The headline numbers and the gate use them."""
GATED = ("id", *CORE_OOD)
"""The domains that the gate tests."""
OOD_DOMAINS = (*_OOD_STORIES, "irrel", "lookup")


@dataclass(frozen=True)
class Practice:
    """What a warm start practises."""

    style: Style
    lookups: float
    """The fraction of conversations that are lookups."""
    missing_tools: float
    """The fraction of conversations whose tool is missing."""


_PRACTICE_STYLE = Style(
    lengths={1: 0.50, 2: 0.42, 3: 0.08}, phrasings=(0, 1, 2), tools=(3, 6), alias=0.5, shuffle_tools=True
)
_BROAD_STYLE = replace(_PRACTICE_STYLE, lengths={1: 0.40, 2: 0.35, 3: 0.25}, alias=0.2, descriptions=(0, 1, 2))

PRACTICE: Mapping[str, Practice] = {
    "nano": Practice(_PRACTICE_STYLE, lookups=0.12, missing_tools=0.08),
    "nano-broad": Practice(_BROAD_STYLE, lookups=0.14, missing_tools=0.20),
}
"""What each embedded student practises before it is distilled.

"nano" stays near the floor of four of the seven OOD domains. "nano-broad" practises more long chains and missing tools
and fewer made-up names, which lifts `long`, `irrel` and `lookup`. `names` stays on the floor at any share of made-up
names (0.2 to 0.95 were tried, up to 720 steps): even among names that it has practised, a student of two layers finds
the tool of a description no more often than chance."""

DEFAULT_COUNTS: Mapping[str, int] = {
    "id": 600,
    "para": 400,
    "comb": 400,
    "distract": 400,
    "names": 150,
    "long": 150,
    "irrel": 150,
    "lookup": 150,
}


def _draw(domain: str, rng: random.Random) -> Problem:
    if domain == "id":
        return draw_story(rng, ID_STYLE)
    if domain == "irrel":
        return draw_story(rng, ID_STYLE, missing_tool=True)
    if domain == "lookup":
        return draw_lookup(rng, Style(unseen_aliases=True))
    return draw_story(rng, _OOD_STORIES[domain])


def _task(problem: Problem, task_id: str, domain: str, noise: Noise, rng: random.Random, references: int = 1) -> Task:
    first, *others = (demonstrate(problem, noise, rng) for _ in range(references))
    return Task(
        task_id,
        (Message("user", problem.question),),
        problem.tools,
        "id" if domain == "id" else "ood",
        domain,
        answer=problem.answer,
        reference=first,
        other_references=tuple(others),
    )


def training_suite(count: int, *, seed: int = 0, noise: Noise = Noise.MILD, references: int = 1) -> Suite:
    """Generate `count` in-domain tasks to distil on, all with different questions.

    Each task has `references` traces of the imperfect teacher. The questions depend only on the seed. A task's traces
    depend only on the seed, the task's index, the noise and their number. Methods and noises are therefore compared on
    the same questions.
    """
    rng = random.Random(f"nano train {seed}")
    tasks: dict[str, Task] = {}
    while len(tasks) < count:
        problem = draw_story(rng, ID_STYLE)
        if problem.question not in tasks:
            index = len(tasks)
            teacher_rng = random.Random(f"nano teacher {seed} {index}")
            tasks[problem.question] = _task(problem, f"train-{index}", "id", noise, teacher_rng, references)
    return Suite("nano-train", f"{TRAINING_VERSION}-{noise}", tuple(tasks.values()))


def evaluation_suite(counts: Mapping[str, int] | None = None, *, seed: int = 0, exclude: Suite | None = None) -> Suite:
    """Generate the test tasks: `counts` tasks of each domain, or `DEFAULT_COUNTS` if None.

    They share no question with each other, nor with `exclude`. Only lookups may repeat a question, over another table.
    """
    questions = {task.prompt[-1].content for task in exclude.tasks} if exclude is not None else set()
    tasks = []
    for domain, count in (DEFAULT_COUNTS if counts is None else counts).items():
        rng = random.Random(f"nano evaluation {domain} {seed}")
        drawn = 0
        while drawn < count:
            problem = _draw(domain, rng)
            # There are few different lookups, and two with one question differ in the table behind it.
            if problem.question in questions and domain != "lookup":
                continue
            questions.add(problem.question)
            tasks.append(_task(problem, f"{domain}-{drawn}", domain, Noise.CLEAN, rng))
            drawn += 1
    return Suite("nano", VERSION, tuple(tasks), LIMITS)


def warm_start_stream(seed: int = 0, practice: Practice = PRACTICE["nano"]) -> Iterator[Task]:
    """Generate endless practice with clean traces: the stand-in for pretraining.

    It never contains a held-out pair of operations, a tool name or a good reserved for testing, or a chain of four. It
    does contain paraphrases, lookups and missing tools: distillation does not cover those domains, but they are not
    unseen.
    """
    rng = random.Random(f"nano warm start {seed}")
    while True:
        kind = rng.random()
        if kind < practice.lookups:
            problem = draw_lookup(rng, Style(shuffle_tools=True))
        else:
            problem = draw_story(rng, practice.style, missing_tool=kind < practice.lookups + practice.missing_tools)
        yield _task(problem, "warm", "id", Noise.CLEAN, rng)
