"""`mentor-edge export` and `mentor-edge verify` as they are typed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer import BadParameter
from typer.main import get_command

from helpers.command_line import run_command as run
from helpers.small_artifacts import make_artifact
from mentor_edge.cli.app import app
from mentor_edge.cli.export import newest_run
from mentor_edge.errors import MentorEdgeError, RunError
from mentor_edge.export import Artifact
from mentor_edge.recipes import SFTRecipe
from mentor_edge.results import QuantizedParity


@pytest.mark.parametrize(
    ("typed", "gguf", "onnx", "target"),
    [
        (["--gguf"], "q8_0,q4_k_m", None, None),
        (["--gguf", "--onnx", "int8"], "q8_0,q4_k_m", "int8", None),
        (["--gguf", "--onnx"], "q8_0,q4_k_m", "int4", None),
        (["--onnx", ".", "--gguf"], "q8_0,q4_k_m", "int4", "."),
        ([".", "--gguf", "q6_k"], "q6_k", None, "."),
        (["--gguf", "q6_k", "."], "q6_k", None, "."),
        ([".", "--gguf"], "q8_0,q4_k_m", None, "."),
        (["--gguf=q6_k", "--json"], "q6_k", None, None),
        ([], None, None, None),
    ],
)
def test_a_format_without_a_value_means_its_default_kinds(
    typed: list[str], gguf: str | None, onnx: str | None, target: str | None
) -> None:
    command = get_command(app).commands["export"]  # type: ignore[attr-defined]
    parameters = command.make_context("export", typed).params
    assert (parameters["gguf"], parameters["onnx"]) == (gguf, onnx)
    assert parameters["target"] == (None if target is None else Path(target))


def test_other_commands_do_not_accept_a_format(tmp_path: Path) -> None:
    done = run("evaluate", "--gguf", cwd=tmp_path)
    assert done.returncode == 2 and "No such option" in done.stderr


def test_the_newest_run_is_the_one_that_was_finished_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="no finished run in runs/"):
        newest_run()
    for age, name in enumerate(("runs/a", "runs/quickstart/mentor", "runs/unfinished", "runs/b")):
        Path(name).mkdir(parents=True)
        if name != "runs/unfinished":
            (Path(name) / "run.json").touch()
            os.utime(Path(name) / "run.json", (1000 + age, 1000 + age))
    os.utime("runs/quickstart/mentor/run.json", (2000, 2000))
    assert newest_run() == Path("runs/quickstart/mentor")


@pytest.mark.slow
def test_export_alone_takes_the_newest_run_through_both_formats(nano_student: Path, tmp_path: Path) -> None:
    """With the adapter's survival in the manifest, an importance matrix from the run's own tasks, and exit code 4: too
    few tasks for any verdict."""
    SFTRecipe(
        student=str(nano_student),
        output_dir=tmp_path / "runs" / "a",
        tasks={"limit": 12},
        train={"steps": 4, "batch_size": 12, "learning_rate": 5e-3},
    ).fit()
    done = run(
        "export",
        "--gguf",
        "q4_k_m,q2_k_s",
        "--onnx",
        "--limit",
        "2",
        "--override",
        "attn_v=q8_0",
        "--json",
        cwd=tmp_path,
    )
    assert done.returncode == 4, done.stderr
    assert "exporting the newest run, runs/a" in done.stderr and "of the fine-tune left" in done.stderr
    report = json.loads(done.stdout)
    assert [(row["format"], row["quant"]) for row in report["files"]] == [
        ("gguf", "q4_k_m"),
        ("gguf", "q2_k_s"),
        ("onnx", "int4"),
    ]
    manifest = Artifact.load(tmp_path / report["artifact"]).manifest
    assert manifest.source.base == nano_student.name and manifest.source.merged_onto == "16-bit"
    assert "adapter_model.safetensors" in manifest.source.adapter_files
    for entry in manifest.entries:
        assert entry.survival is not None and entry.survival.survived and entry.survival.projection is not None
        assert 0.5 < entry.survival.projection < 1.5
        assert isinstance(entry.parity, QuantizedParity) and entry.parity.kl_mean < entry.parity.kl_guess
    plain, matrix = manifest.entries[:2]
    assert plain.calibration is None and plain.quantization.format == "gguf"
    assert plain.quantization.types["q8_0"] == 2  # of each layer, by the override
    assert matrix.calibration is not None and matrix.calibration.conversations == 12
    verified = run("verify", tmp_path / "runs" / "a" / "artifact", "--json", cwd=tmp_path)
    assert (verified.returncode, json.loads(verified.stdout)["ok"]) == (0, True)


def test_verify_names_what_differs_and_exits_with_1(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "artifact")
    assert run("verify", artifact, cwd=tmp_path).returncode == 0
    (artifact / "model-q8_0.gguf").write_bytes(b"GGUF with other bits")
    (artifact / "stranger").touch()
    done = run("verify", artifact, "--json", cwd=tmp_path)
    assert done.returncode == 1 and "model-q8_0.gguf has the SHA-256" in done.stderr
    problems = json.loads(done.stdout)["problems"]
    assert len(problems) == 2 and problems[1] == "stranger is not in the manifest"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gguf", "q4_k"], r"unknown quantization 'q4_k' \(did you mean 'q4_k_"),
        (["--onnx", "int3", "--exporter", "tvm"], "unknown ONNX precision 'int3'.*unknown exporter 'tvm'"),
        (["--override", "attn_v"], "takes NAME=VALUE"),
        (["--override", "attn_q=q9_9"], "q9_9"),
        (["--override", "attn_zz=q8_0"], "attn_zz"),
        (["--gguf", "iq2_m", "--imatrix", "never"], "without an importance matrix"),
        (["--imatrix", "sometimes"], "'sometimes', not one of auto, always, never"),
        pytest.param(
            ["--onnx", "int4", "--onnx-option", "int4_block_size=32"], "int4_block_size", marks=pytest.mark.slow
        ),  # only the builder knows its options
        (["--converter", "no/such/convert_hf_to_gguf.py"], "convert_hf_to_gguf.py"),
        (["--suite", "bfcl"], "needs its data"),
        (["--margin", "2"], "less than or equal to 0.5"),
    ],
)
def test_wrong_options_are_one_error_and_leave_nothing(
    nano_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((MentorEdgeError, BadParameter), match=message):
        app(["export", str(nano_student), "--limit", "1", "--out", "out", *arguments], standalone_mode=False)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_directory_is_named_before_any_work(nano_student: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    done = run("export", nano_student, "--out", "out", cwd=tmp_path)
    assert done.returncode == 1 and "out exists already" in done.stderr
    assert not list((tmp_path / "out").iterdir())
