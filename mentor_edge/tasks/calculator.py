"""The calculator suite: generated word problems that together need all twelve calculator tools.

A problem follows one quantity ("the stock", "the side", "the balance") through events, each of which is one tool call:

    A harbour has 48,250 crates in stock. A delivery brings 3,775 more. All of it is divided equally among 24 branches,
    and the share of one branch is what counts from here on. The share is rounded down to a whole number. What is the
    share of crates in the end?

Every task offers all twelve tools and has a reference that was really executed. If a question needs rounding, it names
the kind. Ties do not occur, and an answer is never an endless decimal.

Splits: `id` contains chains of one to three events, one domain per length. The out-of-domain split has two domains, and
each differs in one thing. In `new_pairs` (two or three events), an operation follows one that it never follows in
training; these are a fixed quarter of all pairs. `long` has four or five events, in known pairs only. A fixed quarter
of all questions is kept for evaluation, so no seed of one suite shares a question with any seed of the other.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

from mentor_edge.messages import Message, ToolCall
from mentor_edge.tasks.calculator_events import EVENTS_OF, PLACES, QUANTITIES
from mentor_edge.tasks.gsm8k import INSTRUCTION, TOOLS
from mentor_edge.tasks.nano.operations import OPERATIONS
from mentor_edge.tasks.nano.problems import Problem, Step, held_out_pair, stable_fraction
from mentor_edge.tasks.nano.teacher import trajectory_of
from mentor_edge.tasks.types import AgentLimits, Suite, Task

VERSION = "1"
LIMITS = AgentLimits(tool_rounds=8, tokens_per_turn=512, completion_tokens=2048)
"""Limits of one conversation, wide enough for every reference."""
DEFAULT_COUNTS: Mapping[str, int] = {
    "one_step": 100,
    "two_steps": 150,
    "three_steps": 150,
    "new_pairs": 200,
    "long": 200,
}
"""How many tasks each domain has. The last two domains are the split "ood"."""

_LENGTHS: Mapping[str, Sequence[int]] = {
    "one_step": (1,),
    "two_steps": (2,),
    "three_steps": (3,),
    "new_pairs": (2, 3),
    "long": (4, 5),
}
_TRAINED = ("one_step", "two_steps", "three_steps")
_MOST_DECIMALS = 4
_LARGEST = 10**9
_ROUNDING = ("ceil", "floor", "round_number")


def training_suite(count: int, *, seed: int = 0) -> Suite:
    """Generate `count` in-domain tasks to distil on. A larger `count` only appends tasks."""
    rng = random.Random(f"calculator train {seed}")
    domains = (rng.choice(_TRAINED) for _ in itertools.count())
    tasks = itertools.islice(_tasks(rng, domains, evaluation=False), count)
    return Suite("calculator-train", VERSION, tuple(tasks))


def evaluation_suite(counts: Mapping[str, int] | None = None, *, seed: int = 0) -> Suite:
    """Generate the evaluation tasks: `counts` of each domain, or `DEFAULT_COUNTS` if None."""
    tasks: list[Task] = []
    for domain, count in (DEFAULT_COUNTS if counts is None else counts).items():
        rng = random.Random(f"calculator evaluation {domain} {seed}")
        tasks += _tasks(rng, itertools.repeat(domain, count), evaluation=True)
    return Suite("calculator", VERSION, tuple(tasks), LIMITS)


def _tasks(rng: random.Random, domains: Iterator[str], *, evaluation: bool) -> Iterator[Task]:
    """One task for each of `domains`, all with different questions."""
    questions: set[str] = set()
    for index, domain in enumerate(domains):
        problem = _draw_problem(rng, domain)
        while problem.question in questions or (stable_fraction(problem.question) < 0.25) != evaluation:
            problem = _draw_problem(rng, domain)
        questions.add(problem.question)
        yield Task(
            f"{domain}-{index}" if evaluation else f"train-{index}",
            (Message("user", f"{problem.question}\n{INSTRUCTION}"),),
            TOOLS,
            "id" if domain in _TRAINED else "ood",
            domain,
            answer=problem.answer,
            reference=trajectory_of(list(problem.steps), problem.answer),
        )


def _draw_problem(rng: random.Random, domain: str) -> Problem:
    """A problem of the domain that needs a randomly chosen tool. The tool comes first, because some fit few values."""
    required = rng.choice(tuple(OPERATIONS))
    while True:
        problem = _draw_chain(rng, rng.choice(_LENGTHS[domain]), required)
        if problem is None:
            continue
        operations = [step.operation for step in problem.steps]
        new = any(held_out_pair(*pair) for pair in itertools.pairwise(operations))
        if required in operations and new == (domain == "new_pairs"):
            return problem


def _draw_chain(rng: random.Random, length: int, favoured: str) -> Problem | None:
    """A problem of `length` events, or None if the draw led to a value that no event fits or no problem may end with.

    If the favoured operation can follow, it does so half of the time."""
    name = rng.choice(tuple(QUANTITIES))
    place, things = rng.choice(PLACES)
    (value,) = QUANTITIES[name].start(rng)
    sentences = [_sentence(QUANTITIES[name].opening, (value,), place=place, things=things)]
    steps: list[Step] = []
    for _ in range(length):
        choices = {
            operation: events
            for operation, events in EVENTS_OF[name].items()
            if _can_follow(operation, value) and not (steps and operation == steps[-1].operation)
        }
        if not choices:
            return None
        operation = favoured if favoured in choices and rng.random() < 0.5 else rng.choice(tuple(choices))
        event = rng.choice(choices[operation])
        numbers = event.numbers(rng)
        if not _is_plain(operation, value, numbers):
            return None
        sentences.append(_sentence(event.text, numbers, noun=QUANTITIES[name].noun, things=things))
        call = ToolCall(operation, OPERATIONS[operation].arguments(value, numbers))
        value, name = OPERATIONS[operation].apply(value, numbers), event.after
        if value == 0 or (value < 0 and not QUANTITIES[name].signed) or abs(value) > _LARGEST:
            return None
        steps.append(Step(operation, call, json.dumps(value)))
    if _has_many_decimals(value):
        return None
    quantity = QUANTITIES[name]
    sentences.append(f"What is the {quantity.noun} {quantity.measure.format(things=things)} in the end?")
    return Problem(" ".join(sentences), TOOLS, tuple(steps), steps[-1].result)


def _sentence(text: str, numbers: Sequence[float], **words: str) -> str:
    return text.format(*(f"{number:,}" for number in numbers), **words)


def _can_follow(operation: str, value: float) -> bool:
    """Whether the operation makes sense for the value. A value with many decimals can only be rounded. Only positive
    numbers are rounded "up" or "down", because people differ on what that means below zero."""
    if operation not in _ROUNDING and _has_many_decimals(value):
        return False
    return OPERATIONS[operation].accepts(value) and (value > 0 or operation not in ("floor", "ceil"))


def _is_plain(operation: str, value: float, numbers: Sequence[float]) -> bool:
    """Whether the step changes the value and has only one possible result: no rounding of ties, no rounding to as many
    decimals as the value has, and no remainder of a number below the divisor."""
    if operation == "round_number":
        scaled = Decimal(repr(value)).scaleb(int(numbers[0]))
        return scaled % 1 not in (0, Decimal("0.5"), Decimal("-0.5"))
    return operation != "modulo" or value > numbers[0]


def _has_many_decimals(value: float) -> bool:
    return round(value, _MOST_DECIMALS) != value
