"""Train a student with MENTOR, export it, and let the gate decide whether the file ships.

    python examples/fit_and_export.py                  # the embedded nano student: about 7 minutes on two CPU cores
    python examples/fit_and_export.py --student DIR    # any Hugging Face directory with a chat template

Exits with 3 if the file lost the skill, and with 4 if there were too few tasks to tell.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mentor_edge import load_suite
from mentor_edge.errors import GateFailed, GateInconclusive, MentorEdgeError
from mentor_edge.recipes import MentorRecipe, PolicyStep


def show(stage: str, done: int, total: int) -> None:
    """Print one line when a stage starts and one when it ends."""
    if done in (0, total):
        print(f"{stage}: {done} of {total}", flush=True)


def main(arguments: argparse.Namespace) -> None:
    recipe = MentorRecipe(
        student=arguments.student,
        tasks={"suite": "nano", "limit": arguments.tasks},
        output_dir=arguments.out,
        train={"steps": arguments.steps},
    )
    run = recipe.fit(progress=show)
    last = run.training_log()[-1]
    if isinstance(last, PolicyStep):
        print(f"after {last.step} steps: mean reward {last.reward:.2f}, accuracy {last.accuracy:.2f}")

    suite = load_suite("nano", limit=arguments.gate_tasks)
    artifact = run.export(gguf=[arguments.quant], suite=suite, progress=show)
    print(f"passed the gate: {artifact.path('gguf', arguments.quant)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="nano", help='"nano" or a Hugging Face directory')
    parser.add_argument("--out", type=Path, default=Path("runs/example"), help="a new directory for the run")
    parser.add_argument("--steps", type=int, default=140, help="training steps")
    parser.add_argument("--tasks", type=int, default=1000, help="training tasks")
    parser.add_argument("--gate-tasks", type=int, default=400, help="tasks of each domain that the gate asks")
    parser.add_argument("--quant", default="q8_0", help="GGUF type")
    try:
        main(parser.parse_args())
    except (GateFailed, GateInconclusive) as refusal:
        print(f"not shipped: {refusal}")
        sys.exit(refusal.exit_code)
    except MentorEdgeError as error:
        sys.exit(str(error))
