"""`mentor-edge export` and `mentor-edge verify`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from mentor_edge.cli.options import Json, Tools
from mentor_edge.cli.screen import StageProgress, console, print_json
from mentor_edge.errors import RunError

DEFAULTS = {"--gguf": "q8_0,q4_k_m", "--onnx": "int4"}
RUNS = Path("runs")


def export(
    target: Annotated[
        Path | None, typer.Argument(help="A finished run or a Hugging Face directory. Default: the newest run.")
    ] = None,
    gguf: Annotated[
        str | None,
        typer.Option(
            help=f"GGUF types, separated by commas. Alone, and when no format is named: {DEFAULTS['--gguf']}."
        ),
    ] = None,
    onnx: Annotated[
        str | None, typer.Option(help=f"int4, int8, fp32, separated by commas. Alone: {DEFAULTS['--onnx']}.")
    ] = None,
    suite: Annotated[
        str, typer.Option(help="The gate's tasks: nano, calculator, gsm8k, bfcl, musique, or a JSONL file of tasks.")
    ] = "nano",
    data: Annotated[Path | None, typer.Option(help="The suite's data.")] = None,
    tools: Tools = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many tasks per domain.")] = None,
    margin: Annotated[float, typer.Option(min=0.001, max=0.5, help="Largest accepted loss of accuracy.")] = 0.02,
    out: Annotated[Path | None, typer.Option(help="Artifact directory. Default: TARGET/artifact.")] = None,
    merge_base: Annotated[
        str,
        typer.Option(
            help="What a QLoRA adapter is merged onto: 16-bit (the original weights), 4-bit (their dequantized 4 bits, "
            "which it was trained on), or auto: both are measured, the better is kept."
        ),
    ] = "auto",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--override", metavar="REGEX=TYPE", help="Another type for some GGUF tensors; may be repeated."),
    ] = None,
    imatrix: Annotated[
        str, typer.Option(help="Importance matrix: auto (types that need or gain from one), always or never.")
    ] = "auto",
    converter: Annotated[
        Path | None, typer.Option(help="An upstream convert_hf_to_gguf.py, for families that ours does not convert.")
    ] = None,
    exporter: Annotated[str, typer.Option(help="ONNX exporter: genai, transformers or optimum.")] = "genai",
    onnx_options: Annotated[
        list[str] | None,
        typer.Option("--onnx-option", metavar="KEY=VALUE", help="A setting of genai's builder; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Merge, convert, quantize, compare with the model, and ship only what passes the gate (exit 3: failed, 4:
    inconclusive). A killed export goes on with what its gate had measured."""
    from mentor_edge.cli.evaluate import load_tasks
    from mentor_edge.cli.tables import print_gate
    from mentor_edge.export import export as export_model
    from mentor_edge.export import require_pass

    target = target or newest_run()
    with ExitStack() as open_tools:
        tasks, _ = load_tasks(suite, data, limit, tools or [], open_tools)
        with StageProgress() as progress:
            source, calibration = _source(target, merge_base)
            artifact = export_model(
                source,
                out=out or target / "artifact",
                suite=tasks,
                gguf=_kinds(gguf),
                onnx=_kinds(onnx),
                margin=margin,
                overrides=_pairs("--override", overrides),
                importance_matrix=imatrix,
                converter=converter,
                exporter=exporter,
                onnx_options=_pairs("--onnx-option", onnx_options),
                progress=progress,
                **calibration,
            )
    print_gate(artifact)
    if as_json:
        print_json({"artifact": str(artifact.directory), "files": artifact.summary()})
    require_pass(artifact)


def verify(
    directory: Annotated[Path, typer.Argument(help="An exported artifact: the directory that holds manifest.json.")],
    as_json: Json = False,
) -> None:
    """Compare every file of an artifact with its manifest (exit 1 when one is missing, changed or unknown)."""
    from mentor_edge.manifest import Manifest
    from mentor_edge.manifest import verify as find_problems

    problems = find_problems(directory)
    for problem in problems:
        console.print(f"[red]bad[/red] {problem}", soft_wrap=True)
    if not problems:
        console.print(f"{len(Manifest.read(directory).sha256)} files of {directory} are what its manifest says")
    if as_json:
        print_json({"artifact": str(directory), "ok": not problems, "problems": problems})
    if problems:
        raise typer.Exit(1)


def with_default_formats(arguments: Sequence[str]) -> list[str]:
    """The command line with the default kinds after a `--gguf` or `--onnx` that stands alone: typer's options always
    take a value."""
    found = list(arguments)
    if found[:1] != ["export"]:
        return found
    for place in reversed(range(len(found))):
        following = found[place + 1] if place + 1 < len(found) else "-"
        if found[place] in DEFAULTS and (following.startswith("-") or Path(following).exists()):
            found.insert(place + 1, DEFAULTS[found[place]])
    return found


def newest_run() -> Path:
    """The run in `runs/` that was finished last, those inside of a quickstart included.

    Raises: RunError when there is none.
    """
    runs = sorted([*RUNS.glob("*/run.json"), *RUNS.glob("*/*/run.json")], key=lambda path: path.stat().st_mtime)
    if not runs:
        raise RunError(f"there is no finished run in {RUNS}/", "name a run or a Hugging Face directory")
    console.print(f"exporting the newest run, {runs[-1].parent}", markup=False)
    return runs[-1].parent


def _source(target: Path, merge_base: str) -> tuple[Any, dict[str, Any]]:
    """What to export, and whose training tasks an importance matrix may be computed from."""
    if (target / "config.json").is_file():
        return target, {}
    from mentor_edge.recipes import Run

    run = Run.load(target)
    return run.source(merge_base), {"calibration": run.training_suite}


def _kinds(text: str | None) -> tuple[str, ...]:
    return tuple(kind.strip().lower() for kind in (text or "").split(",") if kind.strip())


def _pairs(option: str, values: list[str] | None) -> dict[str, str]:
    pairs = {}
    for value in values or []:
        # From the right: a regular expression may hold the sign.
        key, equals, setting = value.rpartition("=")
        if not (key and equals and setting):
            raise typer.BadParameter(f"{option} takes NAME=VALUE, got {value!r}")
        pairs[key] = setting
    return pairs
