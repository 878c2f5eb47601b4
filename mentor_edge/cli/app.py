"""The `mentor-edge` command: parses, calls, prints. Nothing heavy is imported before a command runs.

Exit codes: 0 done; 1 an error, said in one or two lines; 2 usage; 3 the gate failed; 4 the gate is inconclusive;
130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

# Before torch or llama.cpp load: two busy-waiting OpenMP threads on a shared machine run a hundred times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import typer

from mentor_edge.cli.evaluate import evaluate
from mentor_edge.cli.export import export, verify, with_default_formats
from mentor_edge.cli.screen import StageProgress, console, print_json
from mentor_edge.cli.tasks import Json, Tools
from mentor_edge.cli.tasks import app as tasks_app
from mentor_edge.errors import MentorEdgeError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Distil the tool use of a large teacher into a small language model, export it, and refuse to ship a file "
    "that lost the skill.",
)
app.add_typer(tasks_app, name="tasks")


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Run directory; must not exist yet.")] = Path("runs/quickstart"),
    smoke: Annotated[bool, typer.Option("--smoke", help="Every stage, a few steps each: under 90 s.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    teacher_noise: Annotated[str, typer.Option(help="clean, mild or heavy.")] = "mild",
    as_json: Json = False,
) -> None:
    """Train, export, gate and run the embedded nano student, for real, on this machine's CPU."""
    from mentor_edge.cli.report import print_summary
    from mentor_edge.quickstart.run import run_quickstart

    with StageProgress() as progress:
        summary = run_quickstart(
            out, smoke=smoke, resume=resume, seed=seed, teacher_noise=teacher_noise, progress=progress
        )
    print_summary(summary, out)
    if as_json:
        print_json(summary)


@app.command()
def fit(
    config: Annotated[Path, typer.Argument(help="A recipe file, such as recipes/configs/nano-gsm8k.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be repeated.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    as_json: Json = False,
) -> None:
    """Train a student with a recipe."""
    from mentor_edge.recipes import recipe_from_yaml

    recipe = recipe_from_yaml(config, overrides or [])
    with StageProgress() as progress:
        run = recipe.fit(resume=resume, progress=progress)
    rejected = run.tasks["rejected"]
    console.print(
        f"{run.recipe} on {run.tasks['used']} tasks ({rejected} references left out"
        + (f", see {run.directory / 'rejected.jsonl'}" if rejected else "")
        + f"), {run.seconds:.0f} s: {run.directory}"
    )
    last = run.training_log()[-1]
    numbers = {key: value for key, value in last.items() if isinstance(value, int | float)}
    console.print("last step: " + ", ".join(f"{key} {value:.4g}" for key, value in numbers.items()))
    if as_json:
        print_json({"run": str(run.directory), "tasks": run.tasks, "seconds": run.seconds, "last_step": last})


@app.command()
def compare(
    config: Annotated[Path, typer.Argument(help="A recipe file; its settings are shared by all methods.")],
    methods: Annotated[str | None, typer.Option(help="Methods, separated by commas; a+b is a, then b.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds per method, from 0.")] = None,
    teacher_noise: Annotated[str | None, typer.Option(help="clean, mild, heavy, separated by commas.")] = None,
    bases: Annotated[str | None, typer.Option(help="Students to start from, such as nano@0,nano-broad@0.")] = None,
    out: Annotated[Path, typer.Option(help="Directory of the comparison.")] = Path("runs/compare"),
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a shared setting; may be repeated.")
    ] = None,
    validation: Annotated[
        bool, typer.Option("--validation", help="Measure on the validation draw, for choosing settings.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Cells trained side by side.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Keep finished cells, go on with started ones.")] = False,
    as_json: Json = False,
) -> None:
    """Train several methods on the same base and data, for the same number of updates, and compare them."""
    from mentor_edge.recipes.comparison.files import write_comparison
    from mentor_edge.recipes.comparison.page import print_comparison
    from mentor_edge.recipes.comparison.plan import ComparisonPlan
    from mentor_edge.recipes.comparison.run import compare as run_comparison

    plan = ComparisonPlan.read(
        config,
        methods=_parts(methods),
        seeds=seeds,
        bases=_parts(bases),
        teacher_noise=_parts(teacher_noise),
        validation=validation,
        overrides=overrides or [],
    )
    with StageProgress() as progress:
        comparison = run_comparison(plan, out, resume=resume, jobs=jobs, progress=progress)
    write_comparison(comparison, out)
    print_comparison(comparison)
    console.print(f"report: {out / 'comparison.html'}, {out / 'comparison.md'}; data: {out / 'comparison.json'}")
    if as_json:
        print_json(comparison)


@app.command()
def report(
    comparison: Annotated[Path, typer.Argument(help="A comparison.json.")],
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: beside it.")] = None,
) -> None:
    """Write the tables, pictures and page of a comparison again, from its JSON alone."""
    from mentor_edge.recipes.comparison.files import read_comparison, write_comparison
    from mentor_edge.recipes.comparison.page import print_comparison

    values = read_comparison(comparison)
    paths = write_comparison(values, out or comparison.parent, name=comparison.stem)
    print_comparison(values)
    console.print("written: " + ", ".join(map(str, paths)))


app.command()(evaluate)
app.command()(export)
app.command()(verify)


@app.command()
def run(
    target: Annotated[Path, typer.Argument(help="A run, an artifact, a GGUF file, an ONNX or Hugging Face directory.")],
    question: Annotated[str, typer.Argument(help="What to ask.")],
    tools: Tools = None,
    quant: Annotated[str | None, typer.Option(help="Which of the target's exported files. Default: the first.")] = None,
    as_json: Json = False,
) -> None:
    """Ask an exported model one question; its tool calls are really executed. Default tools: the calculator's."""
    from mentor_edge.agent import ToolAgent
    from mentor_edge.cli.report import print_conversation
    from mentor_edge.cli.targets import resolve_target
    from mentor_edge.tools.catalog import load_tools

    path = resolve_target(target, quant)
    # Names of calculator tools may share one option, separated by commas; commands and paths may hold commas.
    specs = [part for spec in tools or ["calculator"] for part in ([spec] if ":" in spec else _parts(spec) or [])]
    with load_tools(specs) as box, ToolAgent.load(path, box.tools) as agent:
        trajectory = agent.run(question)
    messages = [message.to_openai() for message in trajectory.messages]
    print_conversation(question, messages)
    console.print(f"[bold]answer[/bold] {trajectory.answer} ({trajectory.ending})")
    if as_json:
        print_json({"answer": trajectory.answer, "ending": trajectory.ending, "messages": messages})


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this installation: versions, runtimes (with real decodes), threads, telemetry, what each format needs."""
    from mentor_edge.cli.doctor import examine

    findings = examine()
    for finding in findings:
        color = {"ok": "green", "note": "yellow", "bad": "red"}[finding.state]
        text = f"[{color}]{finding.state:<4}[/{color}] {finding.name}: {_plain(finding.message)}"
        console.print(text, soft_wrap=True)
    if as_json:
        print_json([vars(finding) for finding in findings])
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


_WITH_RESUME = "; the same command with --resume goes on"
_GOES_ON = {
    "quickstart": _WITH_RESUME, "fit": _WITH_RESUME, "compare": _WITH_RESUME, "evaluate": "; the same command goes on",
    "export": "; the same command goes on with what its gate had measured",
}  # a table  # fmt: skip


def _parts(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def main() -> None:
    """Run the command line; every failure is a line or two, with a traceback only when MENTOR_EDGE_DEBUG=1."""
    debug = os.environ.get("MENTOR_EDGE_DEBUG") == "1"
    if not debug:
        warnings.filterwarnings("ignore")
        logging.disable(logging.WARNING)
    try:
        app(with_default_formats(sys.argv[1:]))
    except MentorEdgeError as error:
        if debug:
            raise
        console.print(f"[red]error:[/red] {_plain(error)}", soft_wrap=True)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == 130:  # typer's answer to Ctrl-C
            console.print(f"interrupted{_GOES_ON.get(''.join(sys.argv[1:2]), '')}")
        raise
    except Exception as error:
        if debug:
            raise
        console.print(
            f"[red]error:[/red] {type(error).__name__}: {_plain(error)}\nMENTOR_EDGE_DEBUG=1 shows where",
            soft_wrap=True,
        )
        sys.exit(1)


def _plain(error: Any) -> str:
    """An error's text with rich's markup characters kept as they are."""
    return str(error).replace("[", "\\[")
