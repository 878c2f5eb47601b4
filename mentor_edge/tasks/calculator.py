"""The calculator suite: generated word problems that together need all twelve calculator tools.

A problem follows one quantity ("the stock", "the side", "the balance") through events, each of which is one tool call:

    A harbour has 48,250 crates in stock. A delivery brings 3,775 more. All of it is divided equally among 24 branches,
    and the share of one branch is what counts from here on. The share is rounded down to a whole number. What is the
    share of crates in the end?

Every task offers all twelve tools and has a reference that was really executed. Where rounding is wanted the text says
which, ties do not occur, and an answer is never an endless decimal.

Splits. `id` holds chains of one to three events, by their number. Out of domain, each differs in one thing: in
`new_pairs` (two or three events) an operation follows one that it never follows in training, a fixed quarter of all
pairs; `long` has four or five events, in known pairs only. A fixed quarter of all questions is kept for evaluation, so
that no seed of one suite shares a question with any seed of the other.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from mentor_edge.messages import Message, ToolCall
from mentor_edge.tasks.gsm8k import INSTRUCTION, TOOLS
from mentor_edge.tasks.nano.operations import OPERATIONS, float_or_int
from mentor_edge.tasks.nano.problems import Problem, Step, held_out_pair, stable_fraction
from mentor_edge.tasks.nano.teacher import trajectory_of
from mentor_edge.tasks.types import AgentLimits, Suite, Task

VERSION = "1"
LIMITS = AgentLimits(tool_rounds=8, tokens_per_turn=192, completion_tokens=1024)
"""Limits of one conversation, wide enough for every reference."""
DEFAULT_COUNTS: Mapping[str, int] = {
    "one_step": 100,
    "two_steps": 150,
    "three_steps": 150,
    "new_pairs": 200,
    "long": 200,
}
"""Tasks of each domain; the last two are the split "ood"."""

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

_Numbers = Callable[[random.Random], tuple[float, ...]]


def _whole(low: int, high: int, count: int = 1) -> _Numbers:
    return lambda rng: tuple(rng.randint(low, high) for _ in range(count))


def _decimal(low: int, high: int, places: int, count: int = 1) -> _Numbers:
    return lambda rng: tuple(
        float_or_int(rng.randint(low * 10**places, high * 10**places) / 10**places) for _ in range(count)
    )


def _fixed(*numbers: float) -> _Numbers:
    return lambda rng: numbers


@dataclass(frozen=True)
class Quantity:
    """What a problem follows. `opening` says its first value, drawn by `start`; `measure` completes the question."""

    noun: str
    measure: str
    opening: str
    start: _Numbers
    signed: bool = False


@dataclass(frozen=True)
class Event:
    """One step of a problem: a call of `operation` that turns one quantity into another or changes it. `text` has
    places for the numbers drawn by `numbers`."""

    operation: str
    before: str
    after: str
    text: str
    numbers: _Numbers


_PLACES = (
    ("harbour", "crates"), ("bakery", "rolls"), ("printing house", "posters"), ("library", "books"), ("farm", "eggs"),
    ("post office", "parcels"), ("nursery", "seedlings"), ("brickworks", "bricks"), ("museum", "tickets"),
    ("pharmacy", "tablets"), ("sawmill", "boards"), ("pottery", "bowls"),
)  # a table  # fmt: skip

_NOW = "is what counts from here on"
_QUANTITIES: Mapping[str, Quantity] = {
    "stock": Quantity("stock", "of {things}", "A {place} has {0} {things} in stock.", _whole(1200, 98000)),
    "share": Quantity("share", "of {things}", "A branch of a {place} has a share of {0} {things} on average.",
                      _decimal(80, 4000, 3)),
    "side": Quantity("side", "in metres", "A square yard has a side of {0} metres.", _whole(15, 480)),
    "area": Quantity("area", "in square metres", "A square meadow has an area of {0} square metres.",
                     lambda rng: (rng.randint(30, 900) ** 2,)),
    "volume": Quantity("volume", "in cubic metres", "A tank has a volume of {0} cubic metres.", _decimal(40, 900, 3)),
    "balance": Quantity("balance", "in euros", "The balance of an account is {0} euros.", _decimal(-9000, 5000, 2),
                        signed=True),
    "amount": Quantity("amount", "in euros", "A bill comes to an amount of {0} euros.", _decimal(60, 9000, 2)),
    "number": Quantity("number", "of codes", "A lock with one dial has a number of {0} codes.", _whole(12, 60)),
    "time": Quantity("time", "in minutes", "A job takes a time of {0} minutes.", _decimal(90, 3000, 2)),
}  # a table  # fmt: skip

_EVENTS = (
    Event("add", "stock", "stock", "A delivery brings {0} more.", _whole(150, 24000)),
    Event("subtract", "stock", "stock", "{0} {things} are sold.", _whole(150, 24000)),
    Event("multiply", "stock", "stock", "Within a year the stock grows to {0} times its size.", _whole(2, 24)),
    Event("divide", "stock", "share",
          f"All of it is divided equally among {{0}} branches, and the share of one branch {_NOW}.", _whole(3, 64)),
    Event("sum_numbers", "stock", "stock",
          "Two other sites hand over their {0} and {1} {things}, and the total of all three is the new stock.",
          _whole(150, 24000, 2)),
    Event("modulo", "stock", "stock",
          "Everything is packed in boxes of {0}, and only what is left over after the last full box stays in stock.",
          _whole(12, 144)),

    Event("add", "share", "share", "{0} more {things} are added to the share.", _whole(12, 900)),
    Event("subtract", "share", "share", "{0} {things} are taken out of the share.", _whole(12, 900)),
    Event("multiply", "share", "share", "For a holiday the share is made {0} times as large.", _whole(2, 12)),
    Event("divide", "share", "share",
          "The share is spread evenly over {0} weeks, and the part of one week is the new share.", _whole(3, 52)),
    Event("sum_numbers", "share", "share",
          "The branch takes over two others with shares of {0} and {1}, and the total of all three is the new share.",
          _whole(80, 4000, 2)),
    Event("modulo", "share", "share",
          "The share is put on shelves of {0}, and what is left over after the last full shelf is the new share.",
          _whole(7, 60)),

    Event("add", "side", "side", "The side is made {0} metres longer.", _decimal(2, 95, 1)),
    Event("subtract", "side", "side", "The side is made {0} metres shorter.", _decimal(2, 95, 1)),
    Event("multiply", "side", "side", f"A second yard has a side {{0}} times as long, and that side {_NOW}.",
          _whole(2, 12)),
    Event("divide", "side", "side", f"The side is cut into {{0}} equal lengths, and one of them {_NOW} as the side.",
          _whole(3, 16)),
    Event("sum_numbers", "side", "side", "Lengths of {0} and {1} metres are joined to it; the total is the new side.",
          _decimal(2, 95, 1, 2)),
    Event("power", "side", "area", f"The area of a square with this side, the side to the power {{0}}, {_NOW}.",
          _fixed(2)),
    Event("power", "side", "volume", f"The volume of a cube with this side, the side to the power {{0}}, {_NOW}.",
          _fixed(3)),

    Event("add", "area", "area", "{0} square metres are bought and added to the area.", _whole(200, 9000)),
    Event("subtract", "area", "area", "{0} square metres of the area are sold.", _whole(200, 9000)),
    Event("multiply", "area", "area", f"Another meadow has {{0}} times that area, and the larger area {_NOW}.",
          _whole(2, 12)),
    Event("divide", "area", "area", f"It is divided into {{0}} equal plots, and the area of one plot {_NOW}.",
          _whole(3, 48)),
    Event("sum_numbers", "area", "area",
          "Plots of {0} and {1} square metres are joined to it, and the total of all three is the new area.",
          _whole(200, 9000, 2)),
    Event("modulo", "area", "area",
          "It is cut into plots of {0} square metres, and what is left over after the last full plot is the new area.",
          _whole(60, 900)),
    Event("sqrt", "area", "side", f"The side of a square of this area, the square root of the area, {_NOW}.",
          _fixed()),

    Event("add", "volume", "volume", "The volume is enlarged by {0} cubic metres.", _whole(12, 300)),
    Event("subtract", "volume", "volume", "The volume is reduced by {0} cubic metres.", _whole(12, 300)),
    Event("multiply", "volume", "volume", "{0} of these are built, and their volume together is the new volume.",
          _whole(2, 12)),
    Event("divide", "volume", "volume", f"It is divided into {{0}} equal chambers, and the volume of one {_NOW}.",
          _whole(3, 16)),

    Event("add", "balance", "balance", "{0} euros are paid into the account.", _decimal(20, 4000, 2)),
    Event("subtract", "balance", "balance", "{0} euros are paid out, even if that leaves the account overdrawn.",
          _decimal(20, 9000, 2)),
    Event("multiply", "balance", "balance", "Interest makes the balance {0} times what it was.",
          lambda rng: (rng.randint(101, 115) / 100,)),
    Event("divide", "balance", "balance", f"It is divided equally between {{0}} owners, and the part of one {_NOW}.",
          _whole(2, 8)),
    Event("sum_numbers", "balance", "balance",
          "Transfers of {0} and {1} euros come in; the total of both and the old balance is the new balance.",
          _decimal(20, 2500, 2, 2)),
    Event("abs_value", "balance", "amount", f"Only the amount of the balance, without its sign, {_NOW}.", _fixed()),

    Event("add", "amount", "amount", "A fee of {0} euros is added to the amount.", _decimal(5, 400, 2)),
    Event("subtract", "amount", "amount", "A discount of {0} euros is taken off the amount.", _decimal(5, 400, 2)),
    Event("multiply", "amount", "amount", "It falls due {0} times, and all of that together is the new amount.",
          _whole(2, 36)),
    Event("divide", "amount", "amount", f"It is paid in {{0}} equal instalments, and the amount of one {_NOW}.",
          _whole(3, 36)),
    Event("sum_numbers", "amount", "amount",
          "Two more bills of {0} and {1} euros arrive, and the total of all three is the new amount.",
          _decimal(5, 900, 2, 2)),
    Event("modulo", "amount", "amount",
          "It is paid in notes of {0} euros as far as they go, and the rest is the new amount.",
          lambda rng: (rng.choice((20, 50, 100)),)),

    Event("add", "number", "number", "{0} codes are added to the number.", _whole(3, 90)),
    Event("subtract", "number", "number", "{0} of the codes are blocked and no longer counted.", _whole(3, 90)),
    Event("multiply", "number", "number", "A switch makes the number of codes {0} times as large.", _whole(2, 9)),
    Event("power", "number", "number",
          "A lock with {0} such dials has that number to the power {0}, which is the new number of codes.",
          _whole(2, 4)),
    Event("divide", "number", "time", f"A machine tries {{0}} codes a minute, and its time for all of them {_NOW}.",
          _whole(12, 95)),
    Event("modulo", "number", "number",
          "They are printed on sheets of {0}, and the codes left over after the last full sheet are the new number.",
          _whole(7, 96)),

    Event("add", "time", "time", "A break adds {0} minutes to the time.", _decimal(5, 90, 1)),
    Event("subtract", "time", "time", "A better tool takes {0} minutes off the time.", _decimal(5, 90, 1)),
    Event("multiply", "time", "time", "The job is done {0} times, and all of that together is the new time.",
          _whole(2, 15)),
    Event("divide", "time", "time", f"It is divided equally between {{0}} workers, and the time of one {_NOW}.",
          _whole(2, 12)),
    Event("modulo", "time", "time", "Full hours of {0} minutes are left out, and what remains is the new time.",
          _fixed(60)),

    *(
        event
        for name in _QUANTITIES
        for event in (
            Event("floor", name, name, "The {noun} is rounded down to a whole number.", _fixed()),
            Event("ceil", name, name, "The {noun} is rounded up to a whole number.", _fixed()),
            Event("round_number", name, name, "The {noun} is rounded to the nearest whole number.", _fixed(0)),
            Event("round_number", name, name, "The {noun} is rounded to one decimal place.", _fixed(1)),
            Event("round_number", name, name, "The {noun} is rounded to {0} decimal places.", _whole(2, 3)),
        )
    ),
)  # a table  # fmt: skip

_EVENTS_OF: dict[str, dict[str, list[Event]]] = {name: {} for name in _QUANTITIES}
for _event in _EVENTS:
    _EVENTS_OF[_event.before].setdefault(_event.operation, []).append(_event)


def training_suite(count: int, *, seed: int = 0) -> Suite:
    """`count` tasks to distil on, all in domain. The first of them do not depend on `count`."""
    rng = random.Random(f"calculator train {seed}")
    domains = (rng.choice(_TRAINED) for _ in itertools.count())
    tasks = itertools.islice(_tasks(rng, domains, evaluation=False), count)
    return Suite("calculator-train", VERSION, tuple(tasks))


def evaluation_suite(counts: Mapping[str, int] | None = None, *, seed: int = 0) -> Suite:
    """`counts` tasks of each domain, `DEFAULT_COUNTS` when None."""
    tasks: list[Task] = []
    for domain, count in (DEFAULT_COUNTS if counts is None else counts).items():
        rng = random.Random(f"calculator evaluation {domain} {seed}")
        tasks += _tasks(rng, itertools.repeat(domain, count), evaluation=True)
    return Suite("calculator", VERSION, tuple(tasks), LIMITS)


def _tasks(rng: random.Random, domains: Iterator[str], *, evaluation: bool) -> Iterator[Task]:
    """A task for each of `domains`, no question twice."""
    seen: set[str] = set()
    for place, domain in enumerate(domains):
        problem = _draw_problem(rng, domain)
        while problem.question in seen or (stable_fraction(problem.question) < 0.25) != evaluation:
            problem = _draw_problem(rng, domain)
        seen.add(problem.question)
        yield Task(
            f"{domain}-{place}" if evaluation else f"train-{place}",
            (Message("user", f"{problem.question}\n{INSTRUCTION}"),),
            TOOLS,
            "id" if domain in _TRAINED else "ood",
            domain,
            answer=problem.answer,
            reference=trajectory_of(list(problem.steps), problem.answer),
        )


def _draw_problem(rng: random.Random, domain: str) -> Problem:
    """A problem of the domain that needs a certain tool, drawn first: some fit few values and would hardly occur."""
    wanted = rng.choice(tuple(OPERATIONS))
    while True:
        problem = _draw_chain(rng, rng.choice(_LENGTHS[domain]), wanted)
        if problem is None:
            continue
        operations = [step.operation for step in problem.steps]
        new = any(held_out_pair(*pair) for pair in itertools.pairwise(operations))
        if wanted in operations and new == (domain == "new_pairs"):
            return problem


def _draw_chain(rng: random.Random, length: int, favoured: str) -> Problem | None:
    """A problem of `length` events, or None when the draw led to a value that none can follow or end with. Where the
    favoured operation can follow, it does so half of the time."""
    name = rng.choice(tuple(_QUANTITIES))
    place, things = rng.choice(_PLACES)
    (value,) = _QUANTITIES[name].start(rng)
    sentences = [_told(_QUANTITIES[name].opening, (value,), place=place, things=things)]
    steps: list[Step] = []
    for _ in range(length):
        choices = {
            operation: events
            for operation, events in _EVENTS_OF[name].items()
            if _can_follow(operation, value) and not (steps and operation == steps[-1].operation)
        }
        if not choices:
            return None
        operation = favoured if favoured in choices and rng.random() < 0.5 else rng.choice(tuple(choices))
        event = rng.choice(choices[operation])
        numbers = event.numbers(rng)
        if not _is_plain(operation, value, numbers):
            return None
        sentences.append(_told(event.text, numbers, noun=_QUANTITIES[name].noun, things=things))
        call = ToolCall(operation, OPERATIONS[operation].arguments(value, numbers))
        value, name = OPERATIONS[operation].apply(value, numbers), event.after
        if value == 0 or (value < 0 and not _QUANTITIES[name].signed) or abs(value) > _LARGEST:
            return None
        steps.append(Step(operation, call, json.dumps(value)))
    if _has_many_decimals(value):
        return None
    quantity = _QUANTITIES[name]
    sentences.append(f"What is the {quantity.noun} {quantity.measure.format(things=things)} in the end?")
    return Problem(" ".join(sentences), TOOLS, tuple(steps), steps[-1].result)


def _told(text: str, numbers: Sequence[float], **words: str) -> str:
    return text.format(*(f"{number:,}" for number in numbers), **words)


def _can_follow(operation: str, value: float) -> bool:
    """Whether the operation makes sense of the value. Many decimals are only good for being rounded; "up" and "down"
    are said of positive numbers alone, as below zero people differ on them."""
    if operation not in _ROUNDING and _has_many_decimals(value):
        return False
    return OPERATIONS[operation].accepts(value) and (value > 0 or operation not in ("floor", "ceil"))


def _is_plain(operation: str, value: float, numbers: Sequence[float]) -> bool:
    """Whether the step does something and everybody would do the same: no rounding of ties or to as many decimals as
    there are, no remainder of a number below the divisor."""
    if operation == "round_number":
        scaled = Decimal(repr(value)).scaleb(int(numbers[0]))
        return scaled % 1 not in (0, Decimal("0.5"), Decimal("-0.5"))
    return operation != "modulo" or value > numbers[0]


def _has_many_decimals(value: float) -> bool:
    return round(value, _MOST_DECIMALS) != value
