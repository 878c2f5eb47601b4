"""Define tools, check a file of tasks against them, and measure a model on it.

    python examples/own_tools_and_tasks.py                         # after `make quickstart`: the nano student
    python examples/own_tools_and_tasks.py --model model.gguf      # or any model that `mentor-edge evaluate` takes

examples/shop_tasks.jsonl has the tasks; docs/tasks.md explains its fields. The nano student only knows calculator
stories and is expected to score 0.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Literal

from mentor_edge import evaluate, tool
from mentor_edge.engines.open import open_engine
from mentor_edge.errors import MentorEdgeError
from mentor_edge.tasks import jsonl
from mentor_edge.teacher.validation import validate_references
from mentor_edge.tools.execution.executor import ToolExecutor

PRICES = {"pen": 2.5, "lamp": 40.0}


@tool
def price(item: Literal["pen", "lamp"], count: int = 1) -> float:
    """Price of some items in dollars."""
    total = PRICES[item] * count
    return int(total) if total.is_integer() else total


@tool
def to_euros(dollars: float) -> float:
    """Convert dollars to euros."""
    return dollars * 0.9


def main(arguments: argparse.Namespace) -> None:
    suite = jsonl.load(arguments.tasks, {price.name: price, to_euros.name: to_euros})

    # Every reference is executed: a task with wrong calls or a wrong answer would teach the wrong thing.
    with ToolExecutor() as executor:
        valid, rejected = validate_references(suite.tasks, executor)
    print(f"{len(valid)} of {len(suite.tasks)} references are valid")
    for task in rejected:
        print(f"  {task.id}: {task.reason}")

    with open_engine(arguments.model) as engine:
        evaluation = evaluate(engine, suite)
    for outcome in evaluation.outcomes:
        print(f"{outcome.task_id}: {'right' if outcome.correct else 'wrong'} ({outcome.ending})")
    for domain, counts in evaluation.by_domain().items():
        print(f"{domain}: {counts.correct} of {counts.n} right")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/quickstart/base", help="GGUF file, model directory or endpoint URL")
    parser.add_argument("--tasks", type=Path, default=Path(__file__).with_name("shop_tasks.jsonl"))
    try:
        main(parser.parse_args())
    except MentorEdgeError as error:
        sys.exit(str(error))
