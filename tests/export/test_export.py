"""Export end to end on a taught nano student."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

import gguf
import pytest

from helpers.command_line import run_script
from mentor_edge.agent import ToolAgent
from mentor_edge.chat import ChatTemplate
from mentor_edge.errors import (
    ArtifactError,
    ConfigError,
    ExportError,
    GateFailed,
    GateInconclusive,
    OutputError,
    StudentError,
)
from mentor_edge.evaluation.evaluate import Evaluation
from mentor_edge.export import (
    Artifact,
    candidates,
    evaluate_directory,
    evaluate_file,
    export,
    gate_run,
    merge,
    require_pass,
)
from mentor_edge.export.options import ExportOptions
from mentor_edge.manifest import MANIFEST, verify
from mentor_edge.messages import Ending
from mentor_edge.recipes import Run, SFTRecipe
from mentor_edge.recipes.nano.student import TEMPLATE
from mentor_edge.results import SuiteRecord
from mentor_edge.tasks.nano.suites import GATED, evaluation_suite, training_suite
from mentor_edge.tasks.types import Suite, Task

MARGIN = 0.25
"""Wide, so that a few items are enough to pass."""


def suite_of(tasks: Sequence[Task], name: str = "taught") -> Suite:
    return Suite(name, "1", tuple(tasks))


@pytest.fixture(scope="module")
def taught() -> Suite:
    """What the student has learned, half of it called out of domain."""
    known = training_suite(12, seed=0).tasks
    return suite_of([*known, *(replace(task, id=f"ood-{task.id}", split="ood", domain="again") for task in known)])


@pytest.fixture(scope="module")
def source_evaluation(nano_student: Path, taught: Suite) -> Evaluation:
    return evaluate_directory(nano_student, taught)


@pytest.fixture(scope="module")
def artifact(nano_student: Path, taught: Suite, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("export") / "artifact"
    return export(
        nano_student,
        out=out,
        suite=taught,
        gguf=("q8_0", "f16"),
        onnx=("int8",),
        controls=("f32", "q2_k"),
        margin=MARGIN,
    )


def names(artifact: Artifact) -> dict[str, str]:
    """The path of every entry, by format and quantization."""
    return {f"{entry.format}-{entry.quant}": entry.path for entry in artifact.manifest.entries}


# End to end


def test_an_artifact_contains_what_its_manifest_lists(artifact: Artifact, nano_student: Path, taught: Suite) -> None:
    assert Artifact.load(artifact.directory) == artifact
    assert verify(artifact.directory) == []
    manifest = artifact.manifest
    weights = hashlib.sha256((nano_student / "model.safetensors").read_bytes()).hexdigest()
    assert (manifest.source.model, manifest.source.files["model.safetensors"]) == (nano_student.name, weights)
    # Nothing names a directory of the machine that made it.
    machine = [str(nano_student.parent).encode(), str(artifact.directory.parent).encode(), str(Path.home()).encode()]
    files = [path for path in artifact.directory.rglob("*") if path.is_file()]
    assert [path.name for path in files if any(place in path.read_bytes() for place in machine)] == []
    assert manifest.suite == SuiteRecord(name="taught", version="1", sha256=taught.sha256)
    assert manifest.template_sha256 == hashlib.sha256(TEMPLATE.encode()).hexdigest()
    for format in ("gguf", "onnx"):
        assert manifest.parity[format].max_difference <= 1e-3 and manifest.parity[format].top1_agreement == 1
    assert [(entry.format, entry.quant, entry.role == "control") for entry in manifest.entries] == [
        ("gguf", "q8_0", False),
        ("gguf", "f16", False),
        ("gguf", "f32", True),
        ("gguf", "q2_k", True),
        ("onnx", "int8", False),
    ]
    for entry in manifest.entries:
        assert entry.gate.margin == manifest.margin == MARGIN and set(entry.gate.splits) == {"id", "ood"}
        items = Evaluation.from_jsonl(artifact.directory / "gate" / f"{entry.format}-{entry.quant}.jsonl").outcomes
        assert [item.task_id for item in items] == [task.id for task in taught.tasks]
        for split, result in entry.gate.splits.items():
            assert result.correct.exported == sum(item.correct for item in items if item.split == split)
    assert {"torch", "llama-cpp-python", "onnxruntime-genai"} <= set(manifest.versions)


def test_each_model_is_in_the_folder_for_its_verdict(artifact: Artifact) -> None:
    for entry in artifact.manifest.entries:
        folder = {"control": "controls", "shipped": ".", "refused": "refused"}[entry.role]
        assert Path(entry.path).parent == Path(folder)
        assert (entry.role == "refused") == (entry.verdict != "pass" and entry.quant not in ("f32", "q2_k"))
    top = {path.name for path in artifact.directory.iterdir()}
    folders = {Path(path).parts[0] for path in names(artifact).values()}
    # In particular, no float32 model that was only an intermediate step.
    assert top - folders == {MANIFEST, "README.md", "run.md", "gate"}
    assert not [path for path in artifact.directory.parent.iterdir() if path != artifact.directory]


def test_tensors_have_the_types_that_the_manifest_lists(artifact: Artifact) -> None:
    wanted = {"q8_0": "q8_0", "f16": "f16", "q2_k": "q2_K", "f32": "f32"}
    for entry in artifact.manifest.entries:
        if entry.quantization.format == "gguf":
            assert wanted[entry.quant] in entry.quantization.types
            tensors = gguf.GGUFReader(artifact.directory / entry.path).tensors
            assert sum(entry.quantization.types.values()) == len(tensors)
        else:
            assert entry.quantization.weights.head == "int8"


def test_the_f32_file_flips_nothing(artifact: Artifact, source_evaluation: Evaluation) -> None:
    f32 = next(row for row in artifact.summary() if row.quant == "f32")
    assert f32.flips == 0
    assert source_evaluation.counts().correct > 6  # there was something to flip
    ran = Evaluation.from_jsonl(artifact.directory / "gate" / "gguf-f32.jsonl").outcomes
    assert [item.messages for item in ran] == [outcome.messages for outcome in source_evaluation.outcomes]


@pytest.mark.parametrize(("format", "quant"), [("gguf", "q8_0"), ("onnx", "int8")])
def test_eight_bits_pass_and_answer_with_real_tools(
    artifact: Artifact, taught: Suite, source_evaluation: Evaluation, format: str, quant: str
) -> None:
    path = artifact.path(format, quant)
    right = next(o.task_id for o in source_evaluation.outcomes if o.correct and o.calls)
    task = next(task for task in taught.tasks if task.id == right)
    with ToolAgent.load(path, task.tools) as agent:
        trajectory = agent.run(task.prompt)
    assert trajectory.calls and trajectory.ending is Ending.ANSWERED
    results = [message.content for message in trajectory.messages if message.role == "tool"]
    call = trajectory.calls[0]
    assert results[0] == json.dumps(task.tools_by_name[call.name].function(**call.arguments))


def test_the_template_is_shipped_byte_for_byte(artifact: Artifact) -> None:
    for path in (artifact.directory / path for path in names(artifact).values()):
        if path.is_dir():
            stored = (path / "chat_template.jinja").read_text()
        else:
            stored = gguf.GGUFReader(path).get_field("tokenizer.chat_template").contents()
        assert ChatTemplate(stored, "").sha256 == artifact.manifest.template_sha256


def test_controls_are_never_shipped(artifact: Artifact) -> None:
    for quant in ("f32", "q2_k"):
        with pytest.raises(ArtifactError, match="is a control"):
            artifact.path("gguf", quant)
    require_pass(artifact)  # whatever the controls' verdicts


def test_an_unknown_model_is_reported_with_the_available_ones(artifact: Artifact) -> None:
    there = "gguf/q8_0, gguf/f16, gguf/f32, gguf/q2_k, onnx/int8"
    with pytest.raises(ArtifactError, match=rf"has no onnx/int4 \(it has {there}\)"):
        artifact.path("onnx", "int4")


def test_only_splits_that_a_nano_student_can_solve_are_gated() -> None:
    suite = evaluation_suite({"id": 3, "comb": 3, "names": 3, "irrel": 3})
    assert {task.domain for task in gate_run.gate_suite(suite).tasks} == set(GATED) & {"id", "comb"}
    assert gate_run.gate_suite(replace(suite, name="other")).tasks == suite.tasks


@pytest.mark.slow
def test_a_merged_run_exports_and_keeps_what_it_learned(nano_student: Path, taught: Suite, tmp_path: Path) -> None:
    """The adapter changes the weights that are shipped; its base is left as it was."""
    before = (nano_student / "model.safetensors").read_bytes()
    run = SFTRecipe(
        student=str(nano_student),
        output_dir=tmp_path / "run",
        tasks={"limit": 12},
        train={"steps": 30, "batch_size": 12, "learning_rate": 5e-3, "save_every": 30},
    ).fit()
    merged = merge(run.student, run.adapter, tmp_path / "merged")
    assert (nano_student / "model.safetensors").read_bytes() == before
    assert (merged / "chat_template.jinja").read_text() == TEMPLATE
    scores = [evaluate_directory(path, taught).counts().correct for path in (nano_student, merged)]
    assert scores[1] > scores[0] or scores[1] == len(taught.tasks)
    artifact = export(merged, out=tmp_path / "out", suite=taught, gguf=["f32"], margin=MARGIN)
    assert (artifact.manifest.entries[0].verdict, artifact.summary()[0].flips) == ("pass", 0)
    assert artifact.path("gguf", "f32").is_file()


def test_an_adapter_of_another_student_is_refused(nano_student: Path, tmp_path: Path) -> None:
    from helpers.tiny_models import make_student

    run = SFTRecipe(
        student=str(nano_student), output_dir=tmp_path / "run", tasks={"limit": 4}, train={"steps": 1, "batch_size": 2}
    ).fit()
    with pytest.raises(ExportError, match="does not fit the base"):
        merge(str(make_student(tmp_path / "other")), run.adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_evaluations_of_files_can_be_limited_by_the_caller(artifact: Artifact, taught: Suite) -> None:
    done: list[tuple[str, int, int]] = []
    small = suite_of(taught.tasks[:3])
    result = evaluate_file(artifact.path("gguf", "f16"), small, lambda *step: done.append(step))
    assert (result.counts().n, done[-1]) == (3, (f"evaluate on {small.name}", 3, 3))


# Verdicts that come from a real export


def test_a_source_that_solves_nothing_proves_nothing(nano_student: Path, taught: Suite, tmp_path: Path) -> None:
    hopeless = suite_of([replace(task, answer="-987654") for task in taught.tasks[:6]])
    artifact = export(nano_student, out=tmp_path / "out", suite=hopeless, gguf=["q8_0"])
    assert (artifact.manifest.entries[0].verdict, artifact.manifest.entries[0].path) == (
        "inconclusive",
        "refused/model-q8_0.gguf",
    )
    assert "solves 0 of 6" in artifact.manifest.entries[0].gate.explanation
    with pytest.raises(ArtifactError, match="did not pass the gate"):
        artifact.path("gguf", "q8_0")
    with pytest.raises(GateInconclusive, match=r"q8_0: .*too few to lose any\nthe file is kept in .*refused") as raised:
        require_pass(artifact)
    assert raised.value.exit_code == 4


def test_a_file_that_lost_the_skill_fails(nano_student: Path, taught: Suite, tmp_path: Path) -> None:
    """According to the caller, the file solves no task that the source solved."""
    hopeless = suite_of([replace(task, answer="-987654") for task in taught.tasks])
    before = evaluate_directory(nano_student, hopeless)
    claimed = replace(before, outcomes=tuple(replace(outcome, correct=True) for outcome in before.outcomes))
    artifact = export(nano_student, out=tmp_path / "out", suite=hopeless, gguf=["q8_0"], source_evaluation=claimed)
    assert (artifact.manifest.entries[0].verdict, artifact.manifest.entries[0].path) == (
        "fail",
        "refused/model-q8_0.gguf",
    )
    assert (tmp_path / "out" / "refused" / "model-q8_0.gguf").is_file()
    with pytest.raises(GateFailed, match="12 lost, 0 gained") as raised:
        require_pass(artifact)
    assert raised.value.exit_code == 3


# Failures that must leave nothing behind


def edited_copy(student: Path, directory: Path, **changes: Any) -> Path:
    copied = Path(shutil.copytree(student, directory))
    config = json.loads((copied / "config.json").read_text()) | changes
    (copied / "config.json").write_text(json.dumps(config))
    return copied


def test_an_unknown_quantization_is_named_before_any_work(nano_student: Path, taught: Suite, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"unknown quantization 'q3_x' .*; unknown .* 'int4' \(known: f32, .*q4_k_m"):
        export(nano_student, out=tmp_path / "out", suite=taught, gguf=["q8_0", "q3_x"], controls=["int4"])
    assert list(tmp_path.iterdir()) == []


def test_an_existing_directory_is_left_alone(nano_student: Path, taught: Suite, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        export(nano_student, out=tmp_path / "out", suite=taught)
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def test_unsupported_architectures_leave_nothing(nano_student: Path, taught: Suite, tmp_path: Path) -> None:
    student = edited_copy(nano_student, tmp_path / "student", architectures=["MambaForCausalLM"])
    with pytest.raises(ExportError, match="MambaForCausalLM"):
        export(student, out=tmp_path / "out", suite=taught)
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_a_missing_model_leaves_nothing(taught: Suite, tmp_path: Path) -> None:
    with pytest.raises((ExportError, StudentError), match="none"):
        export(tmp_path / "none", out=tmp_path / "out", suite=taught)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", [pytest.param(200_000, marks=pytest.mark.slow), 3_000_000])
def test_a_full_disk_is_one_error_and_leaves_nothing(nano_student: Path, tmp_path: Path, limit: int) -> None:
    """A real limit of the operating system on the size of files, in a child process."""
    script = tmp_path / "script.py"
    script.write_text("""
import resource, sys
from mentor_edge.errors import MentorEdgeError
from mentor_edge.export import export
from mentor_edge.tasks.nano.suites import evaluation_suite
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    export(sys.argv[1], out=sys.argv[2], suite=evaluation_suite({"id": 2}), gguf=["q8_0"])
except MentorEdgeError as error:
    print(type(error).__name__, error.hint)
""")
    done = run_script(script, nano_student, tmp_path / "out", limit, cwd=tmp_path)
    assert "Error free some space" in done.stdout, done.stderr[-2000:]
    assert list(tmp_path.iterdir()) == [script]


@pytest.mark.parametrize(
    "failure", [pytest.param(OSError(28, "No space left on device"), marks=pytest.mark.slow), KeyboardInterrupt()]
)
def test_failures_at_the_gate_leave_nothing_that_looks_finished(
    nano_student: Path, taught: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise failure

    few = suite_of(taught.tasks[:2])
    with monkeypatch.context() as patch:
        patch.setattr(candidates.Candidate, "open", fail)
        with pytest.raises(OutputError if isinstance(failure, OSError) else KeyboardInterrupt):
            export(nano_student, out=tmp_path / "out", suite=few, gguf=["q8_0"])
    assert [path.name for path in tmp_path.iterdir()] == [".out.gate"]  # the source's outcomes, to resume with
    evaluations: list[Any] = []
    monkeypatch.setattr("mentor_edge.engines.torch.engine.TransformersEngine.open", lambda *_: evaluations.append(_))
    export(nano_student, out=tmp_path / "out", suite=few, gguf=["q8_0"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and not evaluations


# The signatures


def test_a_misspelt_option_is_named_with_the_one_that_was_meant(taught: Suite, tmp_path: Path) -> None:
    misspelt: dict[str, Any] = {"magrin": 0.1, "ref": None}
    with pytest.raises(ConfigError, match=r"magrin: unknown setting \(did you mean 'margin'\?\)") as raised:
        export(tmp_path / "model", out=tmp_path / "out", suite=taught, **misspelt)
    assert "ref: unknown setting" in str(raised.value)
    run: Any = object()  # the arguments come first
    misspelt = {"onx": ["int4"]}
    with pytest.raises(ConfigError, match=r"onx: unknown setting .*did you mean 'onnx'"):
        Run.export(run, **misspelt)
    assert list(tmp_path.iterdir()) == []


def test_a_run_takes_the_options_of_export() -> None:
    ours, theirs = (signature(function).parameters for function in (Run.export, export))
    # A run is exported with the template that it was trained with.
    assert theirs.keys() - ours.keys() == {"model", "template", "template_arguments"}
    assert ours.keys() - theirs.keys() == {"self", "merge_base"}
    own_defaults = {"suite", "out", "calibration"}
    for name in theirs.keys() & ours.keys() - own_defaults:
        assert ours[name].default == theirs[name].default and ours[name].annotation == theirs[name].annotation, name


def test_the_options_have_the_defaults_of_export() -> None:
    defaults = {field.name: field.default for field in fields(ExportOptions)}
    for name, parameter in signature(export).parameters.items():
        if name in defaults and name not in ("overrides", "onnx_options"):
            assert parameter.default == defaults[name], name
