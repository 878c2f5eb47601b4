r"""Generation of nano problems: short stories in which each clause is one tool call.

"tom has 23 pens. tom gets 15 more. tom loses 4. what is the result?" needs add(23, 15), subtract(38, 4) and the
answer \boxed{34}. There are also lookups in a table that only the tools can read, and problems whose tool is missing
(the answer is then "none").
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mentor_edge.messages import ToolCall
from mentor_edge.tasks.nano.operations import OPERATIONS, TOOL_BY_OPERATION, float_or_int
from mentor_edge.tools.types import Tool

PEOPLE = ("tom", "ana", "ben", "eva", "max", "lea", "sam", "mia")
THINGS = ("pens", "cards", "beads", "coins", "shells", "nuts", "keys", "tapes")
_SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "zo", "lu", "ka")
_LONGEST_RESULT = 6  # characters; a model this small copies digit by digit
MISSING_TOOL_ANSWER = "none"


def stable_fraction(text: str) -> float:
    """A number in [0, 1) that depends only on `text`, so that hold-outs are the same on every machine."""
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[:4], "big") / 2**32


def held_out_pair(first: str, second: str) -> bool:
    """Whether this sequence of two operations is reserved for the `comb` domain (a quarter of all pairs)."""
    return stable_fraction(f"{first}>{second}") < 0.25


def held_out_word(word: str) -> bool:
    """Whether a made-up word (the name of a tool or of a good) is reserved for testing. A quarter of them are."""
    return stable_fraction(word) < 0.25


WORDS = tuple(a + b for a, b in itertools.product(_SYLLABLES, _SYLLABLES) if a != b)
"""Made-up words: names of tools and of goods. Too many to memorise, so a student has to copy them."""
_WORDS_BY_USE = {unseen: tuple(word for word in WORDS if held_out_word(word) == unseen) for unseen in (False, True)}


@dataclass(frozen=True)
class Step:
    """One call that solves part of a problem."""

    operation: str
    """The calculator's or the lookup's own name, even if the tool is offered under a made-up one."""
    call: ToolCall
    result: str
    """The tool's result as text."""


@dataclass(frozen=True)
class Problem:
    """A generated problem with its solution."""

    question: str
    tools: tuple[Tool, ...]
    """The tools offered."""
    steps: tuple[Step, ...]
    """The minimal sequence of calls."""
    answer: str


@dataclass(frozen=True)
class Style:
    """How problems are drawn. The defaults are the in-domain style."""

    lengths: Mapping[int, float] = field(default_factory=lambda: {1: 0.5, 2: 0.5})
    """The weight of each number of steps."""
    pairs: str = "seen"
    """"seen": no held-out pair of operations; "held_out": two steps, held-out pairs only."""
    phrasings: Sequence[int] = (0,)
    """Which of an operation's clauses may be used."""
    tools: tuple[int, int] = (4, 4)
    """The fewest and the most tools offered."""
    alias: float = 0.0
    """Probability that a tool carries a made-up name."""
    descriptions: Sequence[int] = (0, 1)
    """Which of an operation's descriptions a tool with a made-up name may carry."""
    unseen_aliases: bool = False
    """Take made-up names and goods from the held-out words."""
    shuffle_tools: bool = False
    """Offer tools in random instead of alphabetical order."""


def draw_story(rng: random.Random, style: Style, *, missing_tool: bool = False) -> Problem:
    """Draw a story. With `missing_tool`, the tool of its first step is not offered and the answer is "none"."""
    length = 2 if style.pairs == "held_out" else rng.choices(*zip(*style.lengths.items(), strict=True))[0]
    while True:
        operations = tuple(rng.choice(tuple(OPERATIONS)) for _ in range(length))
        pairs = list(itertools.pairwise(operations))
        if any(held_out_pair(*pair) != (style.pairs == "held_out") for pair in pairs):
            continue
        values = _draw_values(rng, operations)
        if values is not None:
            break
    start, constants, results = values
    who, things = rng.choice(PEOPLE), rng.choice(THINGS)
    clauses = [
        OPERATIONS[name].clauses[rng.choice(style.phrasings)].format(*numbers)
        for name, numbers in zip(operations, constants, strict=True)
    ]
    question = f"{who} has {start} {things}. {'. '.join(f'{who} {clause}' for clause in clauses)}. what is the result?"
    offered = set(operations)
    count = max(rng.randint(*style.tools), len(offered))
    offered |= set(rng.sample([name for name in OPERATIONS if name not in offered], count - len(offered)))
    if missing_tool:
        offered.discard(operations[0])
    tools: dict[str, Tool] = {}
    for name in sorted(offered):
        tools[name] = _offer(rng, name, style, {tool.name for tool in tools.values()})
    listed = _in_order(rng, tools.values(), style)
    if missing_tool:
        return Problem(question, listed, (), MISSING_TOOL_ANSWER)
    steps = []
    for name, value, numbers, result in zip(operations, [start, *results], constants, results, strict=False):
        call = ToolCall(tools[name].name, OPERATIONS[name].arguments(value, numbers))
        steps.append(Step(name, call, json.dumps(result)))
    return Problem(question, listed, tuple(steps), steps[-1].result)


def _draw_values(
    rng: random.Random, operations: Sequence[str]
) -> tuple[float, list[tuple[int, ...]], list[float]] | None:
    """Start, constants and results of a chain of operations, or None if thirty draws produce no valid chain."""
    for _ in range(30):
        value = start = _draw_start(rng, operations[0])
        constants: list[tuple[int, ...]] = []
        results: list[float] = []
        for name in operations:
            operation = OPERATIONS[name]
            if not operation.accepts(value):
                break
            numbers = operation.operands(rng)
            value = operation.apply(value, numbers)
            if len(json.dumps(value)) > _LONGEST_RESULT:
                break
            constants.append(numbers)
            results.append(value)
        else:
            return start, constants, results
    return None


def _draw_start(rng: random.Random, operation: str) -> float:
    if operation in ("floor", "ceil", "round_number"):
        return float_or_int(rng.randint(101, 9999) / 100)
    if operation == "abs_value":
        return -rng.randint(2, 99)
    if operation == "sqrt":
        return rng.randint(2, 30) ** 2
    return rng.randint(2, 12) if operation == "power" else rng.randint(2, 99)


def _offer(rng: random.Random, operation: str, style: Style, taken: set[str]) -> Tool:
    """The tool of an operation as a problem offers it: under its own name, or under a made-up one not in `taken`."""
    tool = TOOL_BY_OPERATION[operation]
    if rng.random() >= style.alias:
        return tool
    names = _WORDS_BY_USE[style.unseen_aliases]
    name = rng.choice(names)
    while name in taken:
        name = rng.choice(names)
    # A single description must not draw a random number: that would change the suites of this version.
    which = style.descriptions[0] if len(style.descriptions) == 1 else rng.choice(style.descriptions)
    return Tool(name, OPERATIONS[operation].descriptions[which], tool.parameters, tool.function)


def _in_order(rng: random.Random, tools: Iterable[Tool], style: Style) -> tuple[Tool, ...]:
    listed = sorted(tools, key=lambda tool: tool.name)
    if style.shuffle_tools:
        rng.shuffle(listed)
    return tuple(listed)


def look_up(item: str, table: Mapping[str, int]) -> int:
    """Read a cell of a hidden table.

    Raises: KeyError when the item is not in the table.
    """
    return table[item]


_QUANTITIES = {
    "get_price": ("price of an item", "what is the price of a {0}?", "what do {1} of {0} cost?"),
    "get_stock": ("stock of an item", "how many {0} are in stock?", "how many {0} are in {1} such stocks?"),
    "get_weight": ("weight of an item", "what is the weight of a {0}?", "what do {1} of {0} weigh?"),
}


def draw_lookup(rng: random.Random, style: Style) -> Problem:
    """Draw a question about a hidden table. Half of them need a multiplication too."""
    quantity = rng.choice(tuple(_QUANTITIES))
    _, single, several = _QUANTITIES[quantity]
    goods = _WORDS_BY_USE[style.unseen_aliases]
    item, value = rng.choice(goods), rng.randint(2, 99)
    parameters = {
        "type": "object",
        "properties": {"item": {"type": "string"}},
        "required": ["item"],
        "additionalProperties": False,
    }
    cells = {name: value if name == quantity else rng.randint(2, 99) for name in _QUANTITIES}
    tools = {
        name: Tool(name, words[0], parameters, look_up, {"table": {item: cells[name]}})
        for name, words in _QUANTITIES.items()
    }
    steps = [Step(quantity, ToolCall(quantity, {"item": item}), json.dumps(value))]
    question = single.format(item)
    multiply = TOOL_BY_OPERATION["multiply"]
    if rng.random() < 0.5:
        units = rng.randint(2, 12)
        question = several.format(item, units)
        call = ToolCall("multiply", {"a": value, "b": units})
        steps.append(Step("multiply", call, json.dumps(value * units)))
    listed = _in_order(rng, [*tools.values(), multiply], style)
    return Problem(question, listed, tuple(steps), steps[-1].result)
