"""Export end to end: choose the merge, convert, check parity, quantize, run every file at the gate, ship or refuse."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from mentor_edge.chat import ChatTemplate
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.engines.onnx.engine import OnnxEngine
from mentor_edge.engines.open import identity_of
from mentor_edge.errors import EngineError, ExportError, GateFailed, GateInconclusive
from mentor_edge.evaluation.evaluate import Evaluation, evaluate
from mentor_edge.files import atomic_directory, sha256_of
from mentor_edge.manifest import Manifest, ManifestEntry
from mentor_edge.manifest import Source as SourceRecord
from mentor_edge.progress import Progress, as_stage, no_progress
from mentor_edge.results import Verdict
from mentor_edge.tasks.calculator import training_suite
from mentor_edge.tasks.nano.suites import GATED
from mentor_edge.tasks.types import Suite

from .artifact import Artifact
from .candidates import Candidate, Workplace, gguf_candidates, onnx_candidates
from .gate import compare
from .gguf.importance_matrix import rendered_conversations
from .merge import choose_base, merge_report, untuned
from .options import DEFAULT_QUANTS, ExportOptions
from .package.write import write_package
from .parity import check as parity
from .source import Source

_AT_ONCE = 2
"""Files at the gate side by side, one thread each: for small models that beats one file on two threads."""
_CALIBRATION_TASKS = 64
_PARITY_TASKS = 8
_PACKAGES = (
    "mentor-edge", "torch", "transformers", "peft", "bitsandbytes", "gguf", "llama-cpp-python", "onnxruntime",
    "onnxruntime-genai", "onnx",
)  # a table  # fmt: skip


def gate_suite(suite: Suite) -> Suite:
    """The tasks the verdict rests on: of the nano suite those splits that a student of its size can do at all."""
    return suite.where(domains=GATED) if suite.name == "nano" else suite


def default_calibration() -> Suite:
    """Conversations for the importance matrix of a model whose training tasks are unknown: generated word problems with
    calls of twelve tools, none of which is a task of any gate."""
    return training_suite(_CALIBRATION_TASKS)


def evaluate_file(path: Path, suite: Suite, progress: Progress = no_progress, *, kv: str = "f16") -> Evaluation:
    """Run a suite through a GGUF file in llama.cpp, with a cache of type `kv` ("f16", llama.cpp's default, or "f32").

    Raises: EngineError.
    """
    with LlamaCppEngine(path, kv=kv) as engine:
        return evaluate(engine, suite, progress=progress)


def evaluate_directory(
    path: str | Path,
    suite: Suite,
    progress: Progress = no_progress,
    *,
    items: Path | None = None,
) -> Evaluation:
    """Run a suite through a Hugging Face directory in torch. `items`: see `evaluate`.

    Raises: StudentError.
    """
    from mentor_edge.engines.torch.engine import TransformersEngine  # loads torch, which a file does not need

    identity = "" if items is None else identity_of(path)
    return evaluate(TransformersEngine.load(path), suite, items=items, identity=identity, progress=progress)


def export(
    model: str | Path | Source,
    *,
    out: str | Path,
    suite: Suite,
    gguf: Sequence[str] = (),
    onnx: Sequence[str] = (),
    reference: Evaluation | None = None,
    calibration: Callable[[], Suite] = default_calibration,
    progress: Progress = no_progress,
    **options: Any,
) -> Artifact:
    """Export a Hugging Face directory (or a run's `source()`) to GGUF files and ONNX directories, and gate each of them
    against it on `suite`.

    Without `gguf` and `onnx`: GGUF in q8_0 and q4_k_m. `options` are the other fields of `ExportOptions`. `reference`
    is the source's own evaluation on at least the gate's tasks, when it is known already. `calibration` gives the tasks
    whose rendered references an importance matrix is computed from.

    The directory `out` appears whole or not at all. Files that do not pass are kept in its folder `refused`, controls
    in `controls`. While the gate runs, finished batches stand beside it in `.NAME.gate`, and the same call after a kill
    runs only the rest.

    Raises: OutputError, StudentError, ExportError (a stage of parity, conversion, quantization, unknown options, a
    `reference` of other tasks), EngineError.
    """
    if not (gguf or onnx):
        gguf = DEFAULT_QUANTS
    plan = ExportOptions(gguf=tuple(gguf), onnx=tuple(onnx), **options)
    plan.check()
    source, out, suite = Source.of(model), Path(out), gate_suite(suite)
    if reference is not None:
        _check_reference(reference, suite)
    with atomic_directory(out) as work, _gate_items(out) as items:
        gate = _Gate(suite, items, plan.margin, progress)
        merged, choice, measured = gate.choose(source)
        place, template = _workplace(source, merged, choice, suite, work, plan, progress)
        found, candidates = _candidates(place, template, calibration, suite)
        # Only now, when everything is known to compute what the model computes, is any file's accuracy measured.
        reference = gate.reference(merged, measured or reference)
        judged = gate.judge(candidates, reference)
        entries = [_put_in_place(work, *pair) for pair in zip(candidates, judged, strict=True)]
        gate.keep_items(work / "gate", reference, candidates)
        manifest = Manifest(
            source=_source_record(source, merged, choice),
            template_sha256=template.sha256,
            suite={"name": suite.name, "version": suite.version, "sha256": suite.sha256},
            margin=plan.margin,
            parity=found,
            entries=tuple(entries),
            versions=_versions(),
            sha256={},
        )
        manifest = write_package(work, manifest, template)
    return Artifact(out, manifest)


def _check_reference(reference: Evaluation, suite: Suite) -> None:
    asked = {outcome.task_id: outcome.prompt for outcome in reference.outcomes}
    for task in suite.tasks:
        if asked.get(task.id) != task.prompt:
            raise ExportError(
                f"the reference evaluation of {reference.suite!r} did not ask {task.id!r} of {suite.name!r}",
                "evaluate the source on the gate's own tasks",
            )


def _workplace(
    source: Source,
    merged: Path,
    choice: Mapping[str, Any],
    suite: Suite,
    work: Path,
    plan: ExportOptions,
    progress: Progress,
) -> tuple[Workplace, ChatTemplate]:
    from mentor_edge.engines.torch.loading import load_tokenizer, template_of

    tokenizer = load_tokenizer(str(merged))
    template = template_of(tokenizer)

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [tokenizer.encode(text, add_special_tokens=False) for text in texts]

    conversations = rendered_conversations(template, encode, suite, _PARITY_TASKS)
    base = None if source.base is None else untuned(source.base, choice["base"], work / "base")
    progress("what the model says", 0, 1)
    said = parity.Reference.of(merged, conversations)
    progress("what the model says", 1, 1)
    return Workplace(merged, said, base, work, plan, progress, encode), template


def _candidates(
    place: Workplace, template: ChatTemplate, calibration: Callable[[], Suite], gated: Suite
) -> tuple[dict[str, dict[str, Any]], list[Candidate]]:
    """What the conversions were compared on, by format, and all files asked for."""
    asked = {task.prompt for task in gated.tasks}

    def texts() -> list[list[int]]:
        tasks = calibration()
        kept = replace(tasks, tasks=tuple(task for task in tasks.tasks if task.prompt not in asked))
        return rendered_conversations(template, place.encode, kept, _CALIBRATION_TASKS)

    found: dict[str, dict[str, Any]] = {}
    candidates: list[Candidate] = []
    if place.options.gguf or place.options.controls:
        found["gguf"], made = gguf_candidates(place, texts)
        candidates += made
    if place.options.onnx:
        found["onnx"], made = onnx_candidates(place)
        candidates += made
    shutil.rmtree(place.directory / "base", ignore_errors=True)
    return found, candidates


class _Gate:
    """The gate of one export: its tasks, the margin, and the files of what has been measured."""

    def __init__(self, suite: Suite, items: Path, margin: float, progress: Progress) -> None:
        self.suite, self._items, self._margin, self._progress = suite, items, margin, progress
        self._measured: dict[str, Evaluation] = {}
        self._engines: list[LlamaCppEngine | OnnxEngine] = []
        self._given_up = False

    def choose(self, source: Source) -> tuple[Path, dict[str, Any], Evaluation | None]:
        """The merged directory to export, why it was chosen, and what it solves, where that had to be measured."""
        if len(source.merged) == 1:
            ((base, merged),) = source.merged.items()
            return merged, {"base": base} if base else {}, None
        solved = {base: self._evaluate_directory(f"merged onto {base}", path) for base, path in source.merged.items()}
        base, record = choose_base(solved)
        return source.merged[base], record, solved[base]

    def reference(self, merged: Path, measured: Evaluation | None) -> Evaluation:
        """What the merged model solves of the gate's tasks."""
        if measured is None:
            return self._evaluate_directory("reference", merged)
        return measured.only({task.id for task in self.suite.tasks})

    def _evaluate_directory(self, name: str, path: Path) -> Evaluation:
        items = self._items / f"{name.replace(' ', '-')}.jsonl"
        return evaluate_directory(path, self.suite, as_stage(self._progress, f"gate: {name}"), items=items)

    def judge(self, candidates: Sequence[Candidate], reference: Evaluation) -> list[dict[str, Any]]:
        """Run the gate's tasks through all candidates; what the manifest says of each. An error, or Ctrl-C, ends the
        others, too, whose finished batches stay."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            running = [pool.submit(self._judge, candidate, reference) for candidate in candidates]
            try:
                for finished in as_completed(running):
                    finished.result()
                return [each.result() for each in running]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self._given_up = True
                for engine in list(self._engines):
                    engine.close()
                raise

    def _judge(self, candidate: Candidate, reference: Evaluation) -> dict[str, Any]:
        stage = f"gate: {candidate.name}"
        with candidate.open() as engine:
            self._engines.append(engine)
            if self._given_up:
                raise EngineError(f"{stage}: given up")  # which nobody reads
            runtime = candidate.runtime | {"context_length": engine.context_length}
            measured = evaluate(
                engine,
                self.suite,
                items=self._items / f"{candidate.name}.jsonl",
                identity=candidate.identity(),
                progress=as_stage(self._progress, stage),
            )
        self._measured[candidate.name] = measured
        return compare(reference, measured, self._margin).to_json() | {"runtime": runtime}

    def keep_items(self, folder: Path, reference: Evaluation, candidates: Sequence[Candidate]) -> None:
        """Write what was measured, one row per task, into the artifact."""
        folder.mkdir()
        reference.write_jsonl(folder / "reference.jsonl")
        for candidate in candidates:
            self._measured[candidate.name].write_jsonl(folder / f"{candidate.name}.jsonl")


@contextmanager
def _gate_items(out: Path) -> Iterator[Path]:
    """Where outcomes stand while the gate runs; it outlives a kill and an error, but not a finished export."""
    items = out.with_name(f".{out.name}.gate")
    try:
        yield items
    except BaseException:
        with suppress(OSError):
            items.rmdir()  # when nothing was measured
        raise
    shutil.rmtree(items, ignore_errors=True)


def _put_in_place(work: Path, candidate: Candidate, gate: dict[str, Any]) -> ManifestEntry:
    """Move a candidate to where its verdict puts it; refused files are kept, out of the way."""
    role = "control" if candidate.control else "shipped" if gate["verdict"] == Verdict.PASS else "refused"
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
            "calibration": candidate.calibration,
            "delta": candidate.delta,
        }
    )
    place = work / entry.path
    place.parent.mkdir(exist_ok=True)
    candidate.path.rename(place)
    return entry


def _source_record(source: Source, merged: Path, choice: Mapping[str, Any]) -> SourceRecord:
    made = merge_report(merged)
    return SourceRecord(
        model=str(merged),
        files=_hashes(merged),
        base=source.base,
        adapter=None if source.adapter is None else str(source.adapter),
        adapter_files={} if source.adapter is None else _hashes(source.adapter),
        merge={**choice, **({} if made is None else asdict(made))},
    )


def _hashes(directory: Path) -> dict[str, str]:
    return {file.name: sha256_of(file) for file in sorted(directory.iterdir()) if file.is_file()}


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def require_pass(artifact: Artifact) -> None:
    """Raise what a file's verdict asks for.

    Raises: GateFailed when any file that was to be shipped failed, else GateInconclusive when one was inconclusive.
    """
    judged = [entry for entry in artifact.manifest.entries if entry.role != "control"]
    for verdict, error in ((Verdict.FAIL, GateFailed), (Verdict.INCONCLUSIVE, GateInconclusive)):
        for entry in judged:
            if entry.verdict == verdict:
                raise error(
                    f"{entry.format} {entry.quant}: {entry.gate['explanation']}",
                    f"the file is kept in {artifact.directory / 'refused'}",
                )
