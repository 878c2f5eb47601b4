"""`mentor-edge evaluate`: measure a model, or outputs made elsewhere, on a suite."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mentor_edge.chat.setting import OWN, TemplateSetting, checked_setting, parse_arguments
from mentor_edge.cli.options import (
    Context,
    Json,
    MaxRounds,
    MaxTokens,
    MaxTurnTokens,
    Quant,
    TemplateArguments,
    TemplateName,
    Threads,
    Tools,
    changed_limits,
)
from mentor_edge.cli.screen import StageProgress, console, print_json
from mentor_edge.errors import EngineError, MentorEdgeError
from mentor_edge.progress import announced

if TYPE_CHECKING:
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
    quant: Quant = None,
    template: TemplateName = None,
    template_arguments: TemplateArguments = None,
    model: Annotated[
        str | None, typer.Option(help="Name of the endpoint's model. Default: the only model it serves.")
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Environment variable with the endpoint's key. Default: {_DEFAULT_KEY}, for OpenAI, this machine and "
            "the URL in OPENAI_BASE_URL.",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Score this file instead of a model: JSON lines with an id and one of text, calls, answer, messages."
        ),
    ] = None,
    items: Annotated[
        Path | None, typer.Option(help=f"File for the rows, one per task. Default: a file in {ITEMS_DIRECTORY}.")
    ] = None,
    max_turn_tokens: MaxTurnTokens = None,
    max_tokens: MaxTokens = None,
    max_rounds: MaxRounds = None,
    context: Context = None,
    threads: Threads = None,
    again: Annotated[bool, typer.Option("--again", help="Measure again if a finished measurement exists.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.md", dir_okay=False, help="Write the figures as Markdown, and a picture next to the file."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a model on a suite, with greedy decoding.

    To resume a killed evaluation, run the same command.
    """
    from mentor_edge.cli.tables import print_evaluation
    from mentor_edge.evaluation.report import write_evaluation_report

    if (target is None) == (predictions is None):
        raise typer.BadParameter("give either TARGET or --predictions FILE")
    setting = checked_setting(template, parse_arguments(template_arguments or []))
    if predictions is not None and setting:
        raise typer.BadParameter("--template and --template-argument are for a model, not for --predictions")
    with ExitStack() as open_tools:
        tasks = load_tasks(suite, data, limit, tools or [], open_tools)
        limits = changed_limits(tasks.limits, max_turn_tokens, max_tokens, max_rounds)
        tasks = replace(tasks, limits=limits)
        if predictions is not None:
            measurement = _score(predictions, tasks, items)
        else:
            assert target is not None
            chosen = replace(_model(target, quant, model, api_key_env, threads, context), template=setting)
            measurement = _measure(chosen, tasks, items, again=again)
    print_evaluation(measurement.evaluation, measurement.title)
    overlap = None if target is None else _overlap_with_training(Path(target), tasks)
    if overlap is not None:
        console.print(overlap.statement, soft_wrap=True)
    console.print(f"rows: {measurement.items}", soft_wrap=True)
    if report is not None:
        notes = [] if overlap is None else [overlap.statement]
        written = write_evaluation_report(report, measurement.evaluation, measurement.title, notes)
        console.print(f"report: {', '.join(map(str, written))}", soft_wrap=True)
    if as_json:
        result = {"target": measurement.title, "items": str(measurement.items), **measurement.evaluation.to_json()}
        print_json(result | ({} if overlap is None else {"contamination": overlap.to_json()}))


@dataclass(frozen=True)
class _Measurement:
    """A finished measurement."""

    evaluation: Evaluation
    """The outcomes."""
    title: str
    """What was measured, for headings."""
    items: Path
    """The file with the rows."""


@dataclass(frozen=True)
class _Model:
    """A model to measure."""

    name: str
    """A short name, for file names."""
    target: str | Path
    """Its path, or an endpoint's URL."""
    model: str | None = None
    """The endpoint's model."""
    api_key: str | None = field(default=None, repr=False)
    """The endpoint's key."""
    threads: int | None = None
    """Processor threads of its runtime."""
    context: int | None = None
    """Tokens of one conversation."""
    template: TemplateSetting = OWN
    """The chat template to use instead of the model's own."""

    @property
    def title(self) -> str:
        names = [str(self.target), self.model, self.template.title]
        return " ".join(name for name in names if name)


def load_tasks(name: str, data: Path | None, limit: int | None, tools: Sequence[str], stack: ExitStack) -> Suite:
    """The suite that a command names."""
    from mentor_edge.tasks import jsonl
    from mentor_edge.tasks.registry import load_suite
    from mentor_edge.tools.catalog import load_tools

    if not name.endswith(".jsonl"):
        if tools:
            raise typer.BadParameter("--tools is for a JSONL file of tasks: the other suites have their own tools")
        return load_suite(name, data, limit)
    suite = jsonl.load(name, stack.enter_context(load_tools(tools)).by_name)
    return suite if limit is None else suite.at_most(limit)


def _model(
    target: str,
    quant: str | None,
    model: str | None,
    api_key_env: str | None,
    threads: int | None,
    context: int | None,
) -> _Model:
    """Raises: EngineError for a missing key; also what `evaluation_target` and `only_model` raise."""
    from mentor_edge.cli.targets import evaluation_target

    location = evaluation_target(target, quant)
    if isinstance(location, Path):
        if model is not None or api_key_env is not None:
            raise typer.BadParameter("--model and --api-key-env are for endpoints")
        return _Model(Path(target).resolve().name, location, threads=threads, context=context)
    if threads is not None or context is not None:
        raise typer.BadParameter("--threads and --context are for models that run here, not for endpoints")
    from mentor_edge.engines.endpoint import only_model

    key = _api_key(location, api_key_env)
    model = model or only_model(location, key)
    return _Model(f"{location.partition('://')[2]}-{model}", location, model, key)


def _api_key(url: str, variable: str | None) -> str | None:
    """The key for an endpoint. Unless a variable is named, OpenAI's own goes to OpenAI, to this machine, and to the
    URL in OPENAI_BASE_URL: not to whatever server a URL leads to."""
    key = os.environ.get(variable or _DEFAULT_KEY)
    if variable is not None and not key:
        raise EngineError(
            f"the variable {variable} is empty or not set", "set it to the key, or leave out --api-key-env"
        )
    if variable is None and key:
        from mentor_edge.engines.endpoint_client import is_loopback, is_openai

        own = os.environ.get("OPENAI_BASE_URL", "").rstrip("/") == url
        if not (own or is_openai(url) or is_loopback(url)):
            console.print(f"{_DEFAULT_KEY} is not sent to {url}; to send it, add --api-key-env {_DEFAULT_KEY}")
            return None
    return key


def _measure(model: _Model, tasks: Suite, items: Path | None, *, again: bool) -> _Measurement:
    from mentor_edge.engines.open import identity_of, open_engine
    from mentor_edge.evaluation.evaluate import evaluate as run_evaluation
    from mentor_edge.evaluation.evaluate import finished_evaluation

    identity = f"{identity_of(model.target, model.model)} {model.template.identity}".rstrip()
    path = items or _default_items(model.name, tasks, identity)
    if not again and (finished := finished_evaluation(path, tasks, identity)):
        console.print("this was measured before; use --again to measure it again")
        return _Measurement(finished, model.title, path)
    with StageProgress() as progress, ExitStack() as opened:
        with announced(progress, "load the model"):
            engine = opened.enter_context(
                open_engine(
                    model.target,
                    model=model.model,
                    api_key=model.api_key,
                    threads=model.threads,
                    context_length=model.context,
                    template=model.template,
                )
            )
        evaluation = run_evaluation(
            engine,
            tasks,
            items=path,
            identity=identity,
            again=again,
            progress=progress,
            on_note=lambda note: console.print(note, soft_wrap=True),
        )
    return _Measurement(evaluation, model.title, path)


def _score(predictions: Path, tasks: Suite, items: Path | None) -> _Measurement:
    from mentor_edge.evaluation.predictions import score_predictions

    evaluation = score_predictions(predictions, tasks)
    path = items or _default_items(predictions.stem, tasks, evaluation.identity)
    evaluation.write_jsonl(path)
    return _Measurement(evaluation, str(predictions), path)


def _overlap_with_training(target: Path, tasks: Suite) -> ContaminationReport | None:
    """How many of the suite's tasks are among a run's training tasks. None if the target is not a run. If the run's
    tasks can no longer be loaded, print the reason and return None."""
    from mentor_edge.recipes.training_tasks import tasks_trained_on
    from mentor_edge.tasks.contamination import contamination

    runs = [run for run in (target, target / "mentor") if (run / "run.json").is_file()]  # the second is a quickstart's
    if not runs:
        return None
    try:
        return contamination(tasks_trained_on(runs[0]), tasks.tasks)
    except MentorEdgeError as error:
        console.print(f"not compared with the training tasks: {error.problem}", soft_wrap=True)
        return None


def _default_items(name: str, tasks: Suite, identity: str) -> Path:
    """A separate file for every model and suite, so that no measurement overwrites another."""
    key = hashlib.sha256(f"{tasks.sha256} {identity}".encode()).hexdigest()[:8]
    readable = re.sub(r"[^\w.-]+", "-", f"{name}-{tasks.name}")
    return ITEMS_DIRECTORY / f"{readable}-{key}.jsonl"
