"""`mentor-edge export`: from a finished run, or a model, to a verified package."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from mentor_edge.cli.options import (
    Json,
    MaxTokens,
    MaxTurnTokens,
    TemplateArguments,
    TemplateName,
    Threads,
    Tools,
    changed_limits,
)
from mentor_edge.cli.screen import StageProgress, console, print_json
from mentor_edge.errors import RunError
from mentor_edge.files import require_new
from mentor_edge.progress import announced
from mentor_edge.results import Measure

if TYPE_CHECKING:
    from mentor_edge.export import Source
    from mentor_edge.tasks.types import Suite

DEFAULTS = {"--gguf": "q8_0,q4_k_m", "--onnx": "int4"}
RUNS = Path("runs")


class ExportCommand(TyperCommand):
    """Allows `--gguf` and `--onnx` without a value, which Typer's options cannot express."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the default of a format option that is followed by another option, an existing path, or nothing."""
        completed = list(args)
        for index in reversed(range(len(args))):
            following = completed[index + 1] if index + 1 < len(completed) else "-"
            if completed[index] in DEFAULTS and (following.startswith("-") or Path(following).exists()):
                completed.insert(index + 1, DEFAULTS[completed[index]])
        return super().parse_args(ctx, completed)


def export(
    target: Annotated[
        Path | None, typer.Argument(help="A finished run or a Hugging Face directory. Default: the newest run.")
    ] = None,
    gguf: Annotated[
        str | None,
        typer.Option(
            help=f"GGUF types, separated by commas. Without a value, and if you name no format: {DEFAULTS['--gguf']}."
        ),
    ] = None,
    onnx: Annotated[
        str | None,
        typer.Option(help=f"int4, int8, fp32, separated by commas. Without a value: {DEFAULTS['--onnx']}."),
    ] = None,
    suite: Annotated[
        str, typer.Option(help="The gate's tasks: nano, calculator, gsm8k, bfcl, musique, or a JSONL file of tasks.")
    ] = "nano",
    data: Annotated[Path | None, typer.Option(help="The suite's data.")] = None,
    tools: Tools = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many tasks per domain.")] = None,
    margin: Annotated[float, typer.Option(min=0.001, max=0.5, help="Largest accepted loss of accuracy.")] = 0.02,
    measure: Annotated[
        Measure,
        typer.Option(
            help="What is right in the gate: skill (calls in any spelling that can be read) or format (only in the one "
            "of the model's own template)."
        ),
    ] = "skill",
    out: Annotated[Path | None, typer.Option(help="Artifact directory. Default: TARGET/artifact.")] = None,
    merge_base: Annotated[
        str,
        typer.Option(
            help="The base for a QLoRA adapter: 16-bit (the original weights), 4-bit (their dequantized 4-bit values, "
            "which it was trained on), or auto (measure both and keep the better one)."
        ),
    ] = "auto",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--override", metavar="REGEX=TYPE", help="Another type for some GGUF tensors; repeatable."),
    ] = None,
    imatrix: Annotated[
        str, typer.Option(help="Importance matrix: auto (for types that need or gain from one), always or never.")
    ] = "auto",
    converter: Annotated[
        Path | None,
        typer.Option(help="An upstream convert_hf_to_gguf.py, for model families that mentor-edge does not convert."),
    ] = None,
    exporter: Annotated[str, typer.Option(help="ONNX exporter: genai, transformers or optimum.")] = "genai",
    onnx_options: Annotated[
        list[str] | None,
        typer.Option("--onnx-option", metavar="KEY=VALUE", help="A setting of genai's builder; repeatable."),
    ] = None,
    max_turn_tokens: MaxTurnTokens = None,
    max_tokens: MaxTokens = None,
    threads: Threads = None,
    template: TemplateName = None,
    template_arguments: TemplateArguments = None,
    as_json: Json = False,
) -> None:
    """Merge, convert, quantize, compare with the model, and ship only what passes the gate (exit 3: failed, 4:
    inconclusive). To resume a killed export, run the same command: it reuses what its gate has measured."""
    from mentor_edge.chat.setting import parse_arguments
    from mentor_edge.cli.evaluate import load_tasks
    from mentor_edge.cli.tables import print_gate
    from mentor_edge.export import export as export_model
    from mentor_edge.export import require_pass

    arguments = parse_arguments(template_arguments or [])
    target = target or newest_run()
    out = out or target / "artifact"
    require_new(out)
    with ExitStack() as open_tools:
        tasks = load_tasks(suite, data, limit, tools or [], open_tools)
        tasks = replace(tasks, limits=changed_limits(tasks.limits, max_turn_tokens, max_tokens, None))
        with StageProgress() as progress:
            with announced(progress, "prepare the model"):
                source, calibration = _source(target, merge_base)
            artifact = export_model(
                source,
                out=out,
                suite=tasks,
                gguf=_kinds(gguf),
                onnx=_kinds(onnx),
                margin=margin,
                measure=measure,
                overrides=_pairs("--override", overrides),
                importance_matrix=imatrix,
                converter=converter,
                exporter=exporter,
                onnx_options=_pairs("--onnx-option", onnx_options),
                threads=threads,
                calibration=calibration,
                template=template,
                template_arguments=arguments,
                progress=progress,
            )
    print_gate(artifact)
    if as_json:
        files = [row.model_dump(mode="json") for row in artifact.summary()]
        print_json({"artifact": str(artifact.directory), "files": files})
    require_pass(artifact)


def newest_run() -> Path:
    """The run in `runs/` that finished last, including those inside a quickstart.

    Raises: RunError when there is none.
    """
    runs = sorted([*RUNS.glob("*/run.json"), *RUNS.glob("*/*/run.json")], key=lambda path: path.stat().st_mtime)
    if not runs:
        raise RunError(f"there is no finished run in {RUNS}/", "name a run or a Hugging Face directory")
    console.print(f"exporting the newest run, {runs[-1].parent}")
    return runs[-1].parent


def _source(target: Path, merge_base: str) -> tuple[Path | Source, Callable[[], Suite]]:
    """What to export, and the tasks that an importance matrix may be computed from."""
    from mentor_edge.export.pipeline import default_calibration
    from mentor_edge.recipes import Run

    if (target / "config.json").is_file():
        return target, default_calibration
    run = Run.load(target)
    return run.source(merge_base), run.training_suite


def _kinds(text: str | None) -> tuple[str, ...]:
    return tuple(kind.strip().lower() for kind in (text or "").split(",") if kind.strip())


def _pairs(option: str, values: list[str] | None) -> dict[str, str]:
    pairs = {}
    for value in values or []:
        # Split at the last "=": a regular expression may contain others.
        key, equals, setting = value.rpartition("=")
        if not (key and equals and setting):
            raise typer.BadParameter(f"{option} takes NAME=VALUE, got {value!r}")
        pairs[key] = setting
    return pairs
