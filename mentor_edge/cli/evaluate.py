"""`mentor-edge evaluate`: measure a model, or outputs made elsewhere, on a suite."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mentor_edge.cli.options import Json, Tools
from mentor_edge.cli.screen import StageProgress, console, print_json
from mentor_edge.errors import EngineError, MentorEdgeError

if TYPE_CHECKING:
    from mentor_edge.agent import AgentLimits
    from mentor_edge.evaluation.evaluate import Evaluation
    from mentor_edge.tasks.contamination import ContaminationReport
    from mentor_edge.tasks.types import Suite

ITEMS_DIRECTORY = Path("runs/evaluate")
_DEFAULT_KEY = "OPENAI_API_KEY"


def evaluate(
    target: Annotated[
        str | None,
        typer.Argument(
            help="A run, a quickstart directory, an artifact, a GGUF file, a Hugging Face or ONNX directory, or the "
            "URL of an OpenAI-compatible endpoint."
        ),
    ] = None,
    suite: Annotated[
        str, typer.Option(help="nano, calculator, gsm8k, bfcl, musique, or a JSONL file of tasks.")
    ] = "nano",
    data: Annotated[
        Path | None, typer.Option(help="The suite's data: a file (gsm8k) or a directory (bfcl, musique).")
    ] = None,
    tools: Tools = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many tasks per domain.")] = None,
    quant: Annotated[str | None, typer.Option(help="Which of the target's exported files. Default: the first.")] = None,
    model: Annotated[str | None, typer.Option(help="The endpoint's model. Default: the only one it serves.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"The variable with the endpoint's key. Default: {_DEFAULT_KEY}.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Score this file instead of a target: JSON lines of id and one of text, calls, answer, messages."
        ),
    ] = None,
    items: Annotated[
        Path | None, typer.Option(help=f"Where the rows go, one per task. Default: a file in {ITEMS_DIRECTORY}.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure anew what was measured before.")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Write the figures as Markdown, with a picture beside it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a model on a suite, with greedy decoding. A killed evaluation goes on where it was."""
    from mentor_edge.cli.tables import print_evaluation
    from mentor_edge.evaluation.report import write_evaluation_report

    if (target is None) == (predictions is None):
        raise typer.BadParameter("give either TARGET or --predictions FILE")
    with ExitStack() as open_tools:
        tasks, limits = load_tasks(suite, data, limit, tools or [], open_tools)
        if predictions is not None:
            measured = _scored(predictions, tasks, items)
        else:
            assert target is not None
            place = _place(target, quant, model, api_key_env)
            measured = _measured(place, tasks, limits, items, again=again)
    print_evaluation(measured.evaluation, measured.title)
    overlap = None if target is None else _overlap_with_training(Path(target), tasks)
    if overlap is not None:
        console.print(overlap.statement, markup=False, soft_wrap=True)
    console.print(f"rows: {measured.items}", markup=False, soft_wrap=True)
    if report is not None:
        notes = [] if overlap is None else [overlap.statement]
        written = write_evaluation_report(report, measured.evaluation, measured.title, notes)
        console.print(f"report: {', '.join(map(str, written))}", markup=False, soft_wrap=True)
    if as_json:
        found = {"target": measured.title, "items": str(measured.items), **measured.evaluation.to_json()}
        print_json(found | ({} if overlap is None else {"contamination": overlap.to_json()}))


@dataclass(frozen=True)
class _Measured:
    """An evaluation, what it is called, and where its rows stand."""

    evaluation: Evaluation
    title: str
    items: Path


@dataclass(frozen=True)
class _Place:
    """Where a model is: a path or an endpoint's URL, by the name that the user gave it."""

    name: str
    target: str | Path
    model: str | None = None
    api_key: str | None = None

    @property
    def title(self) -> str:
        return str(self.target) if self.model is None else f"{self.target} {self.model}"


def load_tasks(
    name: str, data: Path | None, limit: int | None, tools: Sequence[str], stack: ExitStack
) -> tuple[Suite, AgentLimits | None]:
    """The suite, and the limits of its conversations: None stands for the suite's own."""
    from mentor_edge.agent import AgentLimits
    from mentor_edge.tasks import jsonl
    from mentor_edge.tasks.registry import load_suite
    from mentor_edge.tools.catalog import load_tools

    if not name.endswith(".jsonl"):
        if tools:
            raise typer.BadParameter("--tools is for a JSONL file of tasks: the other suites bring their own")
        return load_suite(name, data, limit), None
    suite = jsonl.load(name, stack.enter_context(load_tools(tools)).by_name)
    return suite if limit is None else suite.at_most(limit), AgentLimits()


def _place(target: str, quant: str | None, model: str | None, api_key_env: str | None) -> _Place:
    """Raises: EngineError for a key that is not there, and as `evaluation_target` and `only_model` do."""
    from mentor_edge.cli.targets import evaluation_target

    found = evaluation_target(target, quant)
    if isinstance(found, Path):
        if model is not None or api_key_env is not None:
            raise typer.BadParameter("--model and --api-key-env are for endpoints")
        return _Place(Path(target).resolve().name, found)
    from mentor_edge.engines.endpoint import only_model

    key = os.environ.get(api_key_env or _DEFAULT_KEY)
    if api_key_env is not None and not key:
        raise EngineError(f"the variable {api_key_env} is empty or not set", "export the key in it, or leave it out")
    model = model or only_model(found, key)
    return _Place(f"{found.partition('://')[2]}-{model}", found, model, key)


def _measured(place: _Place, tasks: Suite, limits: AgentLimits | None, items: Path | None, *, again: bool) -> _Measured:
    from mentor_edge.engines.open import identity_of, open_engine
    from mentor_edge.evaluation.evaluate import evaluate as run_evaluation
    from mentor_edge.evaluation.evaluate import finished_evaluation

    identity = identity_of(place.target, place.model)
    path = items or _default_items(place.name, tasks, identity)
    if not again and (found := finished_evaluation(path, tasks, identity, limits)):
        console.print("this was measured before; --again measures anew")
        return _Measured(found, place.title, path)
    with open_engine(place.target, model=place.model, api_key=place.api_key) as engine, StageProgress() as progress:
        evaluation = run_evaluation(
            engine,
            tasks,
            limits=limits,
            items=path,
            identity=identity,
            again=again,
            progress=progress,
            on_note=lambda note: console.print(note, markup=False, soft_wrap=True),
        )
    return _Measured(evaluation, place.title, path)


def _scored(predictions: Path, tasks: Suite, items: Path | None) -> _Measured:
    from mentor_edge.evaluation.predictions import score_predictions

    evaluation = score_predictions(predictions, tasks)
    path = items or _default_items(predictions.stem, tasks, evaluation.identity)
    evaluation.write_jsonl(path)
    return _Measured(evaluation, str(predictions), path)


def _overlap_with_training(target: Path, tasks: Suite) -> ContaminationReport | None:
    """How much of the suite stands among the tasks that a run was trained on; None for what is no run, or one whose
    tasks cannot be loaded any more, which is said."""
    from mentor_edge.recipes.training_tasks import tasks_trained_on
    from mentor_edge.tasks.contamination import contamination

    runs = [run for run in (target, target / "mentor") if (run / "run.json").is_file()]  # the latter: a quickstart's
    if not runs:
        return None
    try:
        return contamination(tasks_trained_on(runs[0]), tasks.tasks)
    except MentorEdgeError as error:
        console.print(f"not compared with the training tasks: {error.problem}", markup=False, soft_wrap=True)
        return None


def _default_items(name: str, tasks: Suite, identity: str) -> Path:
    """A file of its own for every model and suite: nothing measured is ever overwritten by something else."""
    key = hashlib.sha256(f"{tasks.sha256} {identity}".encode()).hexdigest()[:8]
    readable = re.sub(r"[^\w.-]+", "-", f"{name}-{tasks.name}")
    return ITEMS_DIRECTORY / f"{readable}-{key}.jsonl"
