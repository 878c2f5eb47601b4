"""Export end to end: choose the merge, convert, check parity, quantize, gate every file, ship or refuse it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from mentor_edge.arguments import checked_arguments
from mentor_edge.chat import ChatTemplate
from mentor_edge.chat.setting import TemplateSetting, checked_setting
from mentor_edge.dequantized import Dequantized
from mentor_edge.errors import GateFailed, GateInconclusive
from mentor_edge.evaluation.evaluate import Evaluation
from mentor_edge.files import atomic_directory, sha256_of
from mentor_edge.inspection.tool_use import require_tool_use
from mentor_edge.manifest import Manifest, ManifestEntry
from mentor_edge.manifest import Source as SourceRecord
from mentor_edge.progress import Progress, announced, no_progress
from mentor_edge.results import BaseChoice, ConversionParity, GateReport, Measure, Runtime, SuiteRecord, Verdict
from mentor_edge.tasks.calculator import training_suite
from mentor_edge.tasks.types import Suite
from mentor_edge.template_record import Scalar

from .artifact import Artifact
from .candidates import Candidate, ExportContext, gguf_candidates, onnx_candidates
from .gate import MARGIN, compare
from .gate_run import GateRun, check_source_evaluation, gate_items, gate_suite
from .gguf.importance_matrix import rendered_conversations
from .merge import choose_base, merge_report, untuned_base
from .options import DEFAULT_QUANTS, ExportOptions
from .package.write import write_package
from .parity.expected import ExpectedOutputs
from .source import Source, public_name

_CALIBRATION_TASKS = 64
_PARITY_TASKS = 8
_PACKAGES = (
    "mentor-edge", "torch", "transformers", "peft", "bitsandbytes", "gguf", "llama-cpp-python", "onnxruntime",
    "onnxruntime-genai", "onnx",
)  # a table  # fmt: skip


def default_calibration() -> Suite:
    """Tasks for the importance matrix of a model whose training tasks are unknown: generated word problems with calls
    of twelve tools. None of them is a task of any gate."""
    return training_suite(_CALIBRATION_TASKS)


@checked_arguments
def export(
    model: str | Path | Source,
    *,
    out: str | Path,
    suite: Suite,
    gguf: Sequence[str] = (),
    onnx: Sequence[str] = (),
    controls: Sequence[str] = (),
    margin: float = MARGIN,
    measure: Measure = "skill",
    overrides: Mapping[str, str] | None = None,
    importance_matrix: str = "auto",
    converter: Path | None = None,
    exporter: str = "genai",
    onnx_options: Mapping[str, str] | None = None,
    threads: int | None = None,
    source_evaluation: Evaluation | None = None,
    calibration: Callable[[], Suite] = default_calibration,
    template: str | Path | None = None,
    template_arguments: Mapping[str, Scalar] | None = None,
    progress: Progress = no_progress,
) -> Artifact:
    """Export a model to GGUF files and ONNX directories, and gate each of them against the model.

    The directory `out` appears complete or not at all. Models that do not pass the gate are kept in its folder
    `refused`, controls in `controls`. While the gate runs, finished tasks are kept next to `out` in `.NAME.gate`; the
    same call after a kill runs only the rest.

    Args:
        model: a Hugging Face directory, or a run's `source()`.
        out: the artifact's directory, which must not exist.
        suite: the gate's tasks.
        gguf: GGUF kinds to ship, such as "q4_k_m". Without `gguf` and `onnx`: q8_0 and q4_k_m.
        onnx: ONNX precisions to ship: "int4", "int8", "fp32".
        controls: GGUF kinds that only test whether the gate can fail; they are never shipped.
        margin: largest accepted loss of accuracy, as a proportion: 0.02 is two points.
        measure: what counts as right on both sides of the gate: "skill", calls in every spelling that can be read;
            "format", only in that of the model's own chat template.
        overrides: types of single GGUF tensors ("q8_0"), by regular expressions that are searched in their names; the
            first match decides.
        importance_matrix: "auto" computes one for the GGUF kinds that need it or gain from it, "always" for every kind
            below 8 bits, "never" for none.
        converter: an upstream convert_hf_to_gguf.py, for model families that mentor-edge does not convert.
        exporter: the ONNX exporter: "genai", "transformers" or "optimum".
        onnx_options: settings of onnxruntime-genai's builder, such as {"block_size": "32"}.
        threads: processor threads of the gate, shared by the files that run at once. Default: one per file for models
            below 64 MB, else `OMP_NUM_THREADS` or the machine's physical cores.
        source_evaluation: the model's own evaluation on at least the gate's tasks, if it is known already.
        calibration: returns the tasks whose rendered reference trajectories the importance matrix is computed from.
            Called only if a matrix is needed; tasks of the gate are left out. Default: generated word problems.
        template: the chat template to ship instead of the model's own: "hermes", "neutral", or the path of a .jinja
            file. A run is always exported with the template that it was trained with.
        template_arguments: variables to set in the chat template, such as {"enable_thinking": False}.
        progress: called with (stage, units done, units in all).

    Returns:
        The artifact, even if models did not pass the gate; `require_pass` raises an error for those.

    Raises:
        ConfigError: when an argument is misspelt, or a template setting is wrong.
        ExportError: when an option is unknown, the source evaluation lacks tasks of the gate, or a stage fails
            (template, tokenizer, conversion, quantization).
        StudentError: when the model cannot be loaded.
        EngineError: when a runtime fails.
        OutputError: when `out` exists or cannot be written.
    """
    options = ExportOptions(
        gguf=tuple(gguf) if gguf or onnx else DEFAULT_QUANTS,
        onnx=tuple(onnx),
        controls=controls,
        margin=margin,
        measure=measure,
        overrides=overrides or {},
        importance_matrix=importance_matrix,
        converter=converter,
        exporter=exporter,
        onnx_options=onnx_options or {},
        threads=threads,
    )
    options.check()
    from mentor_edge.engines.torch.loading import template_record  # loads torch

    setting = checked_setting(template, template_arguments or {})
    source, out, suite = Source.of(model), Path(out), gate_suite(suite)
    if any(task.tools for task in suite.tasks):
        _check_template(source, setting)
    if source_evaluation is not None:
        check_source_evaluation(source_evaluation, suite)
    with atomic_directory(out) as work, gate_items(out) as items:
        model_name = str(next(iter(source.merged.values())))
        source = source.with_template(setting, work / "student")
        gate = GateRun(suite, items, progress, threads)
        chosen = _choose_base(source, gate)
        chat_template, context = _prepare(source, chosen, suite, work, options, progress)
        parity, candidates = _make_candidates(context, chat_template, calibration, suite)

        # Measure accuracy only now that every file is known to compute what the model computes.
        source_evaluation = chosen.evaluation or source_evaluation
        if source_evaluation is None:
            source_evaluation = gate.evaluate_model("source", chosen.directory)
        source_evaluation = source_evaluation.only({task.id for task in suite.tasks})
        measured = gate.evaluate_candidates(candidates)
        evaluations = [candidate.evaluation for candidate in measured]
        reports = [compare(source_evaluation, evaluation, margin, measure) for evaluation in evaluations]

        entries = [
            _move_to_folder(work, candidate, report, result.runtime)
            for candidate, report, result in zip(candidates, reports, measured, strict=True)
        ]
        _write_items(work / "gate", source_evaluation, candidates, evaluations)
        manifest = Manifest(
            source=_source_record(source, chosen, model_name if setting else str(chosen.directory)),
            template_sha256=chat_template.sha256,
            template=template_record(chosen.directory),
            suite=SuiteRecord(name=suite.name, version=suite.version, sha256=suite.sha256),
            margin=margin,
            parity=parity,
            entries=tuple(entries),
            versions=_versions(),
            sha256={},
        )
        shutil.rmtree(work / "student", ignore_errors=True)
        manifest = write_package(work, manifest, Path(source.student or source.base or model_name))
    return Artifact(out, manifest)


@dataclass(frozen=True)
class _ChosenModel:
    """The merged model that is exported."""

    base: str
    """The base that it was merged onto ("16-bit" or "4-bit"); empty if unknown."""
    directory: Path
    choice: BaseChoice | None = None
    """Why it was chosen, if there were two."""
    evaluation: Evaluation | None = None
    """Its outcomes on the gate's tasks, if it had to be measured for the choice."""


def _choose_base(source: Source, gate: GateRun) -> _ChosenModel:
    if len(source.merged) == 1:
        ((base, merged),) = source.merged.items()
        return _ChosenModel(base, merged)
    evaluations = {base: gate.evaluate_model(f"merged onto {base}", path) for base, path in source.merged.items()}
    choice = choose_base(evaluations)
    return _ChosenModel(choice.base, source.merged[choice.base], choice, evaluations[choice.base])


def _check_template(source: Source, setting: TemplateSetting) -> None:
    """Refuse a template that drops tools, before anything is loaded or written."""
    from mentor_edge.engines.torch.loading import load_tokenizer, template_of_student, tokens_of

    directory = str(next(iter(source.merged.values())))
    tokens = tokens_of(load_tokenizer(directory, setting))
    require_tool_use(template_of_student(directory, setting), directory, tokens.has)


def _prepare(
    source: Source, chosen: _ChosenModel, suite: Suite, work: Path, options: ExportOptions, progress: Progress
) -> tuple[ChatTemplate, ExportContext]:
    """Run the merged model once for its expected outputs, and save its base if the base is known."""
    from mentor_edge.engines.torch.loading import load_tokenizer, template_of_student

    tokenizer = load_tokenizer(str(chosen.directory))
    template = template_of_student(chosen.directory)

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [tokenizer.encode(text, add_special_tokens=False) for text in texts]

    with announced(progress, "expected outputs"):
        conversations = rendered_conversations(template, encode, suite, _PARITY_TASKS)
        base = None if source.base is None else untuned_base(source.base, chosen.base, work / "base")
        expected = ExpectedOutputs.of(chosen.directory, conversations)
    return template, ExportContext(chosen.directory, expected, base, work, options, progress, encode)


def _make_candidates(
    context: ExportContext, template: ChatTemplate, calibration: Callable[[], Suite], gated: Suite
) -> tuple[dict[str, ConversionParity], list[Candidate]]:
    """The parity of the unquantized file of each format, and all requested files."""

    def calibration_conversations() -> list[list[int]]:
        suite, gate_prompts = calibration(), {task.prompt for task in gated.tasks}
        suite = replace(suite, tasks=tuple(task for task in suite.tasks if task.prompt not in gate_prompts))
        return rendered_conversations(template, context.encode, suite, _CALIBRATION_TASKS)

    parity: dict[str, ConversionParity] = {}
    candidates: list[Candidate] = []
    if context.options.gguf or context.options.controls:
        parity["gguf"], gguf_files = gguf_candidates(context, calibration_conversations)
        candidates += gguf_files
    if context.options.onnx:
        parity["onnx"], onnx_files = onnx_candidates(context)
        candidates += onnx_files
    shutil.rmtree(context.directory / "base", ignore_errors=True)
    return parity, candidates


def _write_items(
    folder: Path, source: Evaluation, candidates: Sequence[Candidate], evaluations: Sequence[Evaluation]
) -> None:
    """Write every outcome into the artifact, one row per task."""
    folder.mkdir()
    source.write_jsonl(folder / "source.jsonl")
    for candidate, evaluation in zip(candidates, evaluations, strict=True):
        evaluation.write_jsonl(folder / f"{candidate.name}.jsonl")


def _move_to_folder(work: Path, candidate: Candidate, gate: GateReport, runtime: Runtime) -> ManifestEntry:
    """Move a candidate to the folder for its verdict, and describe it."""
    role = "control" if candidate.control else "shipped" if gate.verdict is Verdict.PASS else "refused"
    folder = {"control": "controls", "shipped": "", "refused": "refused"}[role]
    entry = ManifestEntry.model_validate(
        {
            "format": candidate.format,
            "quant": candidate.quant,
            "path": str(Path(folder) / candidate.path.name),
            "bytes": candidate.bytes,
            "role": role,
            "quantization": candidate.quantization,
            "parity": candidate.parity,
            "gate": gate,
            "runtime": runtime,
            "calibration": candidate.calibration,
            "survival": candidate.survival,
        }
    )
    target = work / entry.path
    target.parent.mkdir(exist_ok=True)
    candidate.path.rename(target)
    return entry


def _source_record(source: Source, chosen: _ChosenModel, model: str) -> SourceRecord:
    merge, dequantized = merge_report(chosen.directory), Dequantized.of(chosen.directory)
    if merge is not None and merge.trained_on is not None:
        merge = merge.model_copy(update={"trained_on": public_name(source.student or merge.trained_on)})
    if dequantized is not None:
        dequantized = dequantized.model_copy(update={"file": public_name(dequantized.file)})
    return SourceRecord(
        model=public_name(model),
        files=_hashes(chosen.directory),
        base=None if source.base is None else public_name(source.student or source.base),
        adapter=None if source.adapter is None else public_name(str(source.adapter)),
        adapter_files={} if source.adapter is None else _hashes(source.adapter),
        merged_onto=chosen.base or None,
        choice=chosen.choice,
        merge=merge,
        dequantized=dequantized,
    )


def _hashes(directory: Path) -> dict[str, str]:
    return {file.name: sha256_of(file) for file in sorted(directory.iterdir()) if file.is_file()}


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def require_pass(artifact: Artifact) -> None:
    """Raise an error if a model that was to be shipped did not pass the gate.

    Args:
        artifact: the result of `export`.

    Raises:
        GateFailed: when a model failed.
        GateInconclusive: when no model failed, but a test was inconclusive.
    """
    for_shipping = [entry for entry in artifact.manifest.entries if entry.role != "control"]
    more = "; gate it on more tasks, or on tasks that the model can solve, to decide"
    for verdict, error, hint in ((Verdict.FAIL, GateFailed, ""), (Verdict.INCONCLUSIVE, GateInconclusive, more)):
        for entry in for_shipping:
            if entry.verdict is verdict:
                raise error(
                    f"{entry.format} {entry.quant}: {entry.gate.explanation}",
                    f"the file is kept in {artifact.directory / 'refused'}{hint}",
                )
