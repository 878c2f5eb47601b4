r"""Speed and verdicts of our judge of final answers and of math-verify, on the same 10,000 mixed completions.

    python benchmarks/rewards.py [--items 10000] [--rounds 3] [--seed 0] [--json]

A completion is a reasoning text with tool calls that ends in `\boxed{...}`; its accepted answer is right or wrong in
about half of the cases each. The mix: 60 % plain numbers, 15 % numbers with units, commas, currencies or percent
signs, 10 % fractions and LaTeX, 10 % words and yes/no, 5 % tuples and sets. Every item is drawn independently, so few
repeat. In training, each task is sampled many times, so caches help more than they do here.

Both judges extract the same box from the text. math-verify then parses `\boxed{accepted}` and `\boxed{given}` and
compares them, in its default configuration but without timeouts, which would only cost it time. Rounds alternate
between the two judges, and our caches are emptied before each round. Throughput is items per CPU second.

The floor is what the fastest conceivable judge does: find the box, match one regular expression on each side and
compare two floats. It is measured in the same rounds, and it is wrong on everything but plain numbers.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from math_verify import parse, verify

from mentor_edge.tasks.answers import judge as answers

EXAMPLES = 20
Verdict = TypeVar("Verdict")
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?")


class Item(NamedTuple):
    """A completion, the accepted answer, the part of the mix, and whether the completion was made to be right."""

    completion: str
    accepted: str
    kind: str
    right: bool


def number(rng: random.Random) -> tuple[str, str, str]:
    """Returns an accepted answer, another spelling of it, and a wrong answer, as the next four functions do."""
    value = rng.choice([rng.randint(-999, 99_999), round(rng.uniform(0, 5000), 2)])
    return str(value), rng.choice([str(value), str(value), f"{value:.2f}"]), str(value + rng.choice([1, -1, 10, 0.5]))


def quantity(rng: random.Random) -> tuple[str, str, str]:
    value = rng.randint(2, 99_999)
    unit = rng.choice(["dollars", "km", "apples", "hours", "cm", "students"])
    styles = [f"{value} {unit}", rf"{value}\text{{ {unit}}}", str(value), f"{value:,}"]
    if rng.random() < 0.3:
        return f"{value} {unit}", rng.choice(styles), f"{value + 1} {unit}"
    right = rng.choice([*styles, f"${value}", rf"\${value:,}", f"{value}%", rf"{value}\%"])
    return str(value), right, f"{value + 1:,} {unit}" if right in styles else f"{value + 1}%"


def formula(rng: random.Random) -> tuple[str, str, str]:
    a, b, c = rng.randint(1, 60), rng.randint(2, 60), rng.randint(2, 9)
    return rng.choice(
        [
            (rf"\frac{{{a}}}{{{b}}}", f"{a}/{b}", f"{a + 1}/{b}"),
            (rf"\frac{{{a}}}{{{b}}}", rf"\dfrac{{{a * c}}}{{{b * c}}}", rf"\frac{{{b}}}{{{a + b}}}"),
            (f"{a / 8}", rf"\frac{{{a}}}{{8}}", rf"\frac{{{a}}}{{9}}"),
            (rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}", rf"\sqrt{{{a * a * b + 1}}}"),
            (rf"{a}\pi", rf"\frac{{{a * c}\pi}}{{{c}}}", rf"{a + 1}\pi"),
            (rf"x^2+{a}x+{b}", rf"{b}+{a}x+x^2", rf"x^2-{a}x+{b}"),
            (rf"(x+{a})^2", rf"x^2+{2 * a}x+{a * a}", rf"x^2+{a * a}"),
            (f"{a}x+{b}", f"{b}+{a}x", f"{a}x-{b}"),
        ]
    )


def words(rng: random.Random) -> tuple[str, str, str]:
    phrases = ["Paris", "the Nile", "Lima", "Mount Everest", "Ada Lovelace", "copper", "Tuesday", "a prime number"]
    right, wrong = rng.sample(phrases, 2)
    return rng.choice(
        [
            ("yes", "Yes.", "no"),
            ("no", "No", "yes"),
            (right, right.lower(), wrong),
            ("C", "(C)", "(D)"),
            ("True", "true", "False"),
            (right, rf"\text{{{right}}}", wrong),
        ]
    )


def collection(rng: random.Random) -> tuple[str, str, str]:
    a, b, c = rng.sample(range(-50, 50), 3)
    return rng.choice(
        [
            (f"({a},{b})", f"({a}, {b})", f"({b},{a})"),
            (rf"\{{{a},{b},{c}\}}", rf"\{{{c}, {a}, {b}\}}", rf"\{{{a},{b}\}}"),
            (f"[{min(a, b)},{max(a, b)})", rf"\left[{min(a, b)},{max(a, b)}\right)", f"[{min(a, b)},{max(a, b)}]"),
            (f"{a},{b}", f"{b}, {a}", f"{a},{c}"),
        ]
    )


MIX: list[tuple[float, Callable[[random.Random], tuple[str, str, str]]]] = [
    (0.60, number),
    (0.15, quantity),
    (0.10, formula),
    (0.10, words),
    (0.05, collection),
]


def generate(count: int, seed: int) -> list[Item]:
    """Draw `count` items; the same seed draws the same items."""
    rng = random.Random(seed)
    items = []
    for kind in rng.choices([kind for _, kind in MIX], [share for share, _ in MIX], k=count):
        accepted, right, wrong = kind(rng)
        call = json.dumps({"name": "add", "arguments": {"a": rng.randint(1, 99), "b": rng.randint(1, 99)}})
        text = f"First I add the two.\n<tool_call>\n{call}\n</tool_call>\n" * rng.randint(1, 3)
        is_right = rng.random() < 0.5
        given = right if is_right else wrong
        items.append(Item(rf"{text}So the answer is \boxed{{{given}}}.", accepted, kind.__name__, is_right))
    return items


def ours(item: Item) -> bool:
    given = answers.boxed_answer(item.completion)
    return given is not None and answers.answers_equal(given, item.accepted)


def math_verify(item: Item) -> tuple[bool, bool]:
    """Returns math-verify's verdict, and whether it could parse both sides."""
    given = answers.boxed_answer(item.completion)
    gold = parse(rf"\boxed{{{item.accepted}}}", parsing_timeout=None)
    prediction = parse(rf"\boxed{{{given}}}", parsing_timeout=None)
    # The last element of a parse is the text itself; an expression, if there is one, comes before it.
    defined = len(gold) > 1 and len(prediction) > 1
    return verify(gold, prediction, timeout_seconds=None), defined


def floor(item: Item) -> bool:
    given = answers.boxed_answer(item.completion) or ""
    left, right = _NUMBER.fullmatch(given), _NUMBER.fullmatch(item.accepted)
    return left is not None and right is not None and abs(float(left[0]) - float(right[0])) < 1e-6


def timed(judged: Callable[[Item], Verdict], items: list[Item]) -> tuple[float, list[Verdict]]:
    """Returns items per CPU second, and the verdicts."""
    start = time.process_time()
    verdicts = [judged(item) for item in items]
    return len(items) / (time.process_time() - start), verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    arguments = parser.parse_args()
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    items = generate(arguments.items, arguments.seed)
    # Both judges import modules and compile expressions once per process.
    for item in items[:200]:
        ours(item), math_verify(item)
    rates: dict[str, list[float]] = {"ours": [], "math_verify": [], "floor": []}
    for _ in range(arguments.rounds):
        answers.clear_caches()
        rate, our_verdicts = timed(ours, items)
        rates["ours"].append(rate)
        rate, their_verdicts = timed(math_verify, items)
        rates["math_verify"].append(rate)
        rates["floor"].append(timed(floor, items)[0])
    both = [
        (item, mine, theirs[0])
        for item, mine, theirs in zip(items, our_verdicts, their_verdicts, strict=True)
        if theirs[1]
    ]
    different = [
        {
            "given": answers.boxed_answer(item.completion),
            "accepted": item.accepted,
            "kind": item.kind,
            "ours": mine,
            "math_verify": theirs,
        }
        for item, mine, theirs in both
        if mine != theirs
    ]
    ratios = [mine / theirs for mine, theirs in zip(rates["ours"], rates["math_verify"], strict=True)]
    result = {
        "items": len(items),
        "items_per_cpu_s": {name: [round(rate) for rate in measured] for name, measured in rates.items()},
        "ratio": [round(ratio, 1) for ratio in ratios],
        "median_ratio": round(statistics.median(ratios), 1),
        "defined_by_both": len(both),
        "equal_verdicts": len(both) - len(different),
        "different_verdicts": len(different),
        # Of all items, compared with the verdict that each was generated for.
        "wrong_verdicts": {
            "ours": sum(item.right != mine for item, mine in zip(items, our_verdicts, strict=True)),
            "math_verify": sum(item.right != theirs[0] for item, theirs in zip(items, their_verdicts, strict=True)),
        },
    }
    if arguments.json:
        print(json.dumps({**result, "examples": different[:EXAMPLES]}, indent=2))
        return
    for name, value in result.items():
        print(f"{name:20} {value}")
    for example in different[:EXAMPLES]:
        print(" ", *(f"{name}={value!r}" for name, value in example.items()))


if __name__ == "__main__":
    main()
