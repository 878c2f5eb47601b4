"""Export end to end: convert to F32, check parity, quantize, run every file at the gate, ship or refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from mentor_edge.engines.llama_cpp import LlamaCppEngine
from mentor_edge.errors import ExportError, GateFailed, GateInconclusive
from mentor_edge.evaluation.evaluate import Evaluation, evaluate
from mentor_edge.evaluation.statistics import Verdict
from mentor_edge.files import atomic_directory, sha256_of
from mentor_edge.tasks.nano.suites import GATED
from mentor_edge.tasks.types import Suite

from . import parity
from .artifact import Artifact, ArtifactFile
from .gate import MARGIN, compare
from .gguf import convert
from .quantize import KINDS, quantize, tensor_types

DEFAULT_QUANTS = ("q8_0", "q4_k_m")
_AT_ONCE = 2
"""Files at the gate side by side, one llama.cpp thread each: for small models that beats one file on two threads."""

Progress = Callable[[str, int, int], None]


def gate_suite(suite: Suite) -> Suite:
    """The tasks the verdict rests on: of the nano suite those splits that a student of its size can do at all."""
    return suite.where(domains=GATED) if suite.name == "nano" else suite


def evaluate_file(
    path: Path, suite: Suite, on_progress: Callable[[int], None] | None = None, *, kv: str = "f16"
) -> Evaluation:
    """Run a suite through a GGUF file in llama.cpp, with a cache of type `kv` ("f16", llama.cpp's default, or "f32").

    Raises: EngineError.
    """
    with LlamaCppEngine(path, kv=kv) as engine:
        return evaluate(engine, suite, on_progress=on_progress)


def evaluate_directory(path: str | Path, suite: Suite, on_progress: Callable[[int], None] | None = None) -> Evaluation:
    """Run a suite through a Hugging Face directory in torch.

    Raises: StudentError.
    """
    from mentor_edge.engines.transformers import TransformersEngine  # loads torch, which a file does not need

    return evaluate(TransformersEngine.load(path), suite, on_progress=on_progress)


def export(
    model: str | Path,
    *,
    out: str | Path,
    suite: Suite,
    gguf: Sequence[str] = DEFAULT_QUANTS,
    controls: Sequence[str] = (),
    margin: float = MARGIN,
    reference: Evaluation | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Artifact:
    """Export a Hugging Face directory to GGUF files and gate each of them against it.

    `controls` are quantizations that are gated but never shipped (to see that the gate can fail). `reference` is the
    source's own evaluation on at least the gate's tasks, when it is known already. The directory `out` appears whole
    or not at all. Files that do not pass are kept in its folder `refused`, controls in `controls`.

    Raises: OutputError, StudentError, ExportError (parity, conversion, unknown quantization), EngineError.
    """
    model, out = Path(model), Path(out)
    unknown = [kind for kind in (*gguf, *controls) if kind not in ("f32", *KINDS)]
    if unknown:
        raise ExportError(f"unknown quantization {', '.join(unknown)}", f"known: f32, {', '.join(KINDS)}")
    suite = gate_suite(suite)
    total = len(suite.tasks)
    with atomic_directory(out) as work:
        source = work / "model-f32.gguf"
        progress("convert and check parity", 0, 1)
        convert(model, source)
        report = parity.check(model, source)
        progress("convert and check parity", 1, 1)
        files: dict[str, tuple[Path, dict[str, int]]] = {"f32": (source, tensor_types(source))} | {
            kind: (work / f"model-{kind}.gguf", quantize(source, work / f"model-{kind}.gguf", kind))
            for kind in dict.fromkeys((*gguf, *controls))
            if kind != "f32"
        }
        if reference is None:
            reference = evaluate_directory(model, suite, lambda done: progress("gate: reference", done, total))
        reference = reference.only({task.id for task in suite.tasks})

        def judge(kind: str) -> ArtifactFile:
            path, types = files[kind]
            # An F32 file is judged with an F32 cache: it shows what the conversion alone changes, which is nothing.
            kv = "f32" if kind == "f32" else "f16"
            candidate = evaluate_file(path, suite, lambda done: progress(f"gate: {kind}", done, total), kv=kv)
            candidate.write_jsonl(work / f"gate-{kind}.jsonl")
            verdict = compare(reference, candidate, margin)
            folder = "controls/" if kind in controls else "" if verdict.verdict is Verdict.PASS else "refused/"
            name = folder + path.name
            judged = verdict.to_json() | {"runtime": {"engine": "llama.cpp", "kv": kv, "flash_attention": False}}
            return ArtifactFile(
                "gguf", kind, name, path.stat().st_size, sha256_of(path), types, judged, kind in controls
            )

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            judged = list(pool.map(judge, dict.fromkeys((*gguf, *controls))))
        for file in judged:
            (work / file.file).parent.mkdir(exist_ok=True)
            files[file.quant][0].rename(work / file.file)
        if "f32" not in gguf:  # then it was only a step on the way
            source.unlink(missing_ok=True)
        traced = {"name": suite.name, "version": suite.version, "sha256": suite.sha256}
        artifact = Artifact(out, str(model), report.template_sha256 or "", traced, asdict(report), judged)
        artifact.save(work)
    return artifact


def require_pass(artifact: Artifact) -> None:
    """Raise what a file's verdict asks for.

    Raises: GateFailed when any file that was to be shipped failed, else GateInconclusive when one was inconclusive.
    """
    judged = [file for file in artifact.files if not file.control]
    for verdict, error in ((Verdict.FAIL, GateFailed), (Verdict.INCONCLUSIVE, GateInconclusive)):
        for file in judged:
            if file.verdict == verdict:
                raise error(
                    f"{file.quant}: {file.gate['explanation']}", f"the file is kept in {artifact.directory / 'refused'}"
                )
