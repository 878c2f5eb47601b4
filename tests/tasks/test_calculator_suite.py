from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor, isqrt

import pytest

from mentor_edge.messages import ToolCall
from mentor_edge.tasks.calculator import DEFAULT_COUNTS, evaluation_suite, training_suite
from mentor_edge.tasks.nano.problems import held_out_pair
from mentor_edge.tasks.registry import load_suite
from mentor_edge.tasks.types import Suite, Task
from mentor_edge.teacher.validation import validate_references
from mentor_edge.tools.calculator import CALCULATOR
from mentor_edge.tools.execution.executor import ToolExecutor

NAMES = sorted(tool.name for tool in CALCULATOR)
LENGTHS = {"one_step": {1}, "two_steps": {2}, "three_steps": {3}, "new_pairs": {2, 3}, "long": {4, 5}}


@pytest.fixture(scope="module")
def evaluation() -> Suite:
    return evaluation_suite()


@pytest.fixture(scope="module")
def training() -> Suite:
    return training_suite(600)


@pytest.fixture(scope="module")
def tasks(evaluation, training) -> Sequence[Task]:
    return evaluation.tasks + training.tasks


def calls(task: Task) -> tuple[ToolCall, ...]:
    assert task.reference is not None
    return task.reference.calls


def question(task: Task) -> str:
    return task.prompt[0].content


def pairs(task: Task) -> list[tuple[str, str]]:
    return list(pairwise(call.name for call in calls(task)))


def test_every_reference_is_executed_and_earns_the_full_reward(tasks):
    with ToolExecutor() as executor:
        kept, rejected = validate_references(tasks, executor)
    assert rejected == [] and len(kept) == len(tasks)


def test_every_task_offers_the_twelve_tools_by_name(tasks):
    assert all([tool.name for tool in task.tools] == NAMES for task in tasks)


def test_every_tool_is_needed_in_every_part(evaluation, training):
    for suite, least in ((evaluation.where(split="id"), 25), (evaluation.where(split="ood"), 25), (training, 40)):
        uses = Counter(name for task in suite.tasks for name in {call.name for call in calls(task)})
        assert sorted(uses) == NAMES and min(uses.values()) >= least, uses


def test_domains_have_their_number_of_steps(evaluation, training):
    assert Counter(task.domain for task in evaluation.tasks) == DEFAULT_COUNTS
    assert {task.domain for task in training.tasks} == {"one_step", "two_steps", "three_steps"}
    for task in evaluation.tasks + training.tasks:
        assert len(calls(task)) in LENGTHS[task.domain]
        assert task.split == ("ood" if task.domain in ("new_pairs", "long") else "id")


def test_held_out_pairs_occur_in_their_domain_alone(tasks):
    for task in tasks:
        assert any(held_out_pair(*pair) for pair in pairs(task)) == (task.domain == "new_pairs"), task.id
    new = {pair for task in tasks if task.domain == "new_pairs" for pair in pairs(task) if held_out_pair(*pair)}
    assert len(new) >= 20


def test_all_questions_differ_for_any_seeds(tasks, evaluation):
    others = evaluation_suite(dict.fromkeys(LENGTHS, 40), seed=1).tasks
    assert len({question(task) for task in tasks}) == len({task.id for task in tasks}) == len(tasks)
    trained = {question(task) for seed in range(3) for task in training_suite(200, seed=seed).tasks}
    assert trained.isdisjoint(question(task) for task in (*evaluation.tasks, *others))


def test_suites_depend_on_the_seed_alone(evaluation, training):
    assert training_suite(30).tasks == training.tasks[:30]
    assert training_suite(30, seed=1).sha256 != training_suite(30).sha256
    small = dict.fromkeys(LENGTHS, 20)
    assert evaluation_suite(small).tasks == evaluation.at_most(20).tasks
    assert evaluation_suite(small, seed=1).sha256 != evaluation_suite(small).sha256


def test_this_version_of_the_suite_is_the_same_everywhere(evaluation):
    content = json.dumps([[task.id, question(task), task.answer] for task in evaluation.tasks])
    assert (evaluation.version, hashlib.sha256(content.encode()).hexdigest()) == (
        "1",
        "de2d9b258b4afb99cf9a26c15104ed6ae3ca578b327e06b3267eb4a34f975ae2",
    )


# The texts


def constants(call: ToolCall) -> list[float]:
    """The numbers of a call that are not the running value."""
    _, *others = call.arguments["numbers"] if call.name == "sum_numbers" else call.arguments.values()
    return others


def start(call: ToolCall) -> float:
    first = next(iter(call.arguments.values()))
    return first[0] if call.name == "sum_numbers" else first


def test_a_question_contains_the_numbers_of_its_calls_in_order(tasks):
    for task in tasks:
        assert task.reference is not None
        results = [json.loads(message.content) for message in task.reference.messages if message.role == "tool"]
        assert [start(call) for call in calls(task)[1:]] == results[:-1] and task.answer == json.dumps(results[-1])
        expected = [start(calls(task)[0])]
        for call in calls(task):
            rounded_to_words = call.name == "round_number" and call.arguments["digits"] < 2
            written_twice = call.name == "power" and "such dials" in question(task)
            expected += [] if rounded_to_words else constants(call) * (1 + written_twice)
        numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", question(task))
        assert [float(number.replace(",", "")) for number in numbers] == expected, task.id


def test_a_question_names_the_rounding_it_needs(tasks):
    places = {"the nearest whole number": 0, "one decimal place": 1, "2 decimal places": 2, "3 decimal places": 3}
    for task in tasks:
        rounded = re.findall(r"is rounded (up|down|to [^.]*)", question(task))
        done = [call for call in calls(task) if call.name in ("floor", "ceil", "round_number")]
        for words, call in zip(rounded, done, strict=True):
            if call.name == "round_number":
                assert call.arguments["digits"] == places[words.removeprefix("to ")]
            else:
                assert (words, call.name) in (("up", "ceil"), ("down", "floor"))


EXACT: dict[str, Callable[..., Fraction]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "sum_numbers": lambda *numbers: sum(numbers, Fraction(0)),
    "floor": lambda x: Fraction(floor(x)),
    "ceil": lambda x: Fraction(ceil(x)),
    "round_number": lambda x, digits: half_up(x, int(digits)),
    "power": lambda base, exponent: base ** int(exponent),
    "sqrt": lambda x: Fraction(isqrt(int(x) * 10**60), 10**30),
    "abs_value": abs,
    "modulo": lambda a, b: a % b,
}


def half_up(x: Fraction, digits: int) -> Fraction:
    size = floor(abs(x) * 10**digits + Fraction(1, 2))
    return Fraction(size if x > 0 else -size, 10**digits)


def test_exact_arithmetic_gives_the_same_answers(tasks):
    """No answer depends on float arithmetic, on results cut to ten decimals, or on how the calculator rounds ties."""
    for task in tasks:
        value = Fraction(str(start(calls(task)[0])))
        for call in calls(task):
            value = EXACT[call.name](value, *(Fraction(str(number)) for number in constants(call)))
        assert float(round(value, 10)) == float(task.answer or "nan"), task.id
        assert len((task.answer or "").partition(".")[2]) <= 4, task.id


@pytest.mark.slow
def test_the_suite_can_be_loaded_by_name(evaluation):
    assert load_suite("calculator", limit=2).tasks == evaluation.at_most(2).tasks
    assert evaluation_suite({}).limits.tool_rounds >= 5
