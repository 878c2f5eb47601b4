"""The events of the calculator suite: what its problems follow, and the sentences that change it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mentor_edge.tasks.nano.operations import float_or_int

Numbers = Callable[[random.Random], tuple[float, ...]]
"""Draws the numbers of a sentence."""


def _whole(low: int, high: int, count: int = 1) -> Numbers:
    return lambda rng: tuple(rng.randint(low, high) for _ in range(count))


def _decimal(low: int, high: int, places: int, count: int = 1) -> Numbers:
    return lambda rng: tuple(
        float_or_int(rng.randint(low * 10**places, high * 10**places) / 10**places) for _ in range(count)
    )


def _fixed(*numbers: float) -> Numbers:
    return lambda rng: numbers


@dataclass(frozen=True)
class Quantity:
    """What a problem follows."""

    noun: str
    measure: str
    """Completes the question: "What is the {noun} {measure} in the end?"."""
    opening: str
    """The first sentence, with a placeholder for the first value."""
    start: Numbers
    """Draws the first value."""
    signed: bool = False
    """Whether the value may be negative."""


@dataclass(frozen=True)
class Event:
    """One step of a problem: a call that changes a quantity or turns it into another one."""

    operation: str
    before: str
    """The quantity that the event starts from."""
    after: str
    """The quantity that it results in."""
    text: str
    """The sentence, with placeholders for the numbers."""
    numbers: Numbers
    """Draws the numbers of the sentence."""


PLACES = (
    ("harbour", "crates"), ("bakery", "rolls"), ("printing house", "posters"), ("library", "books"), ("farm", "eggs"),
    ("post office", "parcels"), ("nursery", "seedlings"), ("brickworks", "bricks"), ("museum", "tickets"),
    ("pharmacy", "tablets"), ("sawmill", "boards"), ("pottery", "bowls"),
)  # a table  # fmt: skip

_NOW = "is what counts from here on"
QUANTITIES: Mapping[str, Quantity] = {
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
        for name in QUANTITIES
        for event in (
            Event("floor", name, name, "The {noun} is rounded down to a whole number.", _fixed()),
            Event("ceil", name, name, "The {noun} is rounded up to a whole number.", _fixed()),
            Event("round_number", name, name, "The {noun} is rounded to the nearest whole number.", _fixed(0)),
            Event("round_number", name, name, "The {noun} is rounded to one decimal place.", _fixed(1)),
            Event("round_number", name, name, "The {noun} is rounded to {0} decimal places.", _whole(2, 3)),
        )
    ),
)  # a table  # fmt: skip

EVENTS_OF: dict[str, dict[str, list[Event]]] = {name: {} for name in QUANTITIES}
"""The events that can follow, by quantity and operation."""
for _event in _EVENTS:
    EVENTS_OF[_event.before].setdefault(_event.operation, []).append(_event)
