"""The documents around exported models: `Artifact`, the card, and the commands that run them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.small_artifacts import FILES, entry, gate, make_artifact, manifest
from mentor_edge import Message, tool
from mentor_edge.engines.base import Sampling
from mentor_edge.engines.open import open_engine
from mentor_edge.errors import ArtifactError
from mentor_edge.export.artifact import Artifact
from mentor_edge.export.package.card import license_of, model_card
from mentor_edge.export.package.run_lines import run_markdown
from mentor_edge.export.package.write import write_package
from mentor_edge.export.source import public_name
from mentor_edge.manifest import verify
from mentor_edge.results import Runtime, SuiteRecord
from mentor_edge.tool_calls import parse_turn

# Artifact


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return Artifact.load(make_artifact(tmp_path_factory.mktemp("artifact")))


def test_models_that_passed_are_handed_out(artifact: Artifact) -> None:
    assert artifact.path("gguf", "q8_0") == artifact.directory / "model-q8_0.gguf"
    assert artifact.path("onnx", "int4") == artifact.directory / "onnx-int4"
    assert Artifact.load(str(artifact.directory)) == artifact


@pytest.mark.parametrize(
    ("format", "quant", "problem"),
    [
        ("gguf", "q4_0", "controls/model-q4_0.gguf is a control"),
        ("gguf", "q2_k", "refused/model-q2_k.gguf did not pass the gate: id: 3 lost, 1 gained"),
        ("gguf", "int4", r"has no gguf/int4 \(it has gguf/q8_0, gguf/q2_k, gguf/q4_0, onnx/int4\)"),
    ],
)
def test_models_that_did_not_pass_are_not_handed_out(artifact: Artifact, format: str, quant: str, problem: str) -> None:
    with pytest.raises(ArtifactError, match=problem):
        artifact.path(format, quant)


@pytest.mark.parametrize(("quant", "name"), [("q8_0", "model-q8_0.gguf"), ("int4", "onnx-int4/model.onnx.data")])
def test_damaged_models_are_not_handed_out(artifact: Artifact, tmp_path: Path, quant: str, name: str) -> None:
    copied = Artifact.load(shutil.copytree(artifact.directory, tmp_path / "copy"))
    content = FILES[name]
    (copied.directory / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=f"differs from its manifest: {name} has the SHA-256"):
        copied.path("onnx" if quant == "int4" else "gguf", quant)
    copied.path("gguf" if quant == "int4" else "onnx", "q8_0" if quant == "int4" else "int4")


def test_the_summary_has_a_row_for_every_model(artifact: Artifact) -> None:
    rows = artifact.summary()
    assert [(row.file, row.verdict, row.control) for row in rows] == [
        ("model-q8_0.gguf", "pass", False),
        ("refused/model-q2_k.gguf", "inconclusive", False),
        ("controls/model-q4_0.gguf", "fail", True),
        ("onnx-int4", "pass", False),
    ]
    first = rows[0]
    assert (first.n, first.delta, first.ci, first.flips) == (400, -0.005, (-0.0125, 0.0025), 8)  # of "ood"
    assert (first.malformed, first.bytes, set(first.splits)) == (2, 20, {"id", "ood"})
    assert all(re.fullmatch("[0-9a-f]{64}", row.sha256) for row in rows)
    assert [type(row).model_validate_json(row.model_dump_json()) for row in rows] == rows


# The card


def front_matter(card: str) -> dict[str, Any]:
    _, front, _ = card.split("---\n", 2)
    values: dict[str, Any] = yaml.safe_load(front)
    return values


def test_the_card_agrees_with_the_manifest(artifact: Artifact) -> None:
    card = (artifact.directory / "README.md").read_text("utf-8")
    assert front_matter(card) == {
        "base_model": "Qwen/Qwen3-0.6B",
        "pipeline_tag": "text-generation",
        "tags": ["gguf", "onnx", "function-calling", "mentor-edge"],
    }
    for line in (
        "| model-q8_0.gguf | ood | 400 | 95.0 | 94.5 | -0.50 | [-1.25, +0.25] | 5 | 3 | pass |",
        "| controls/model-q4_0.gguf | 0.0 | fail | control, made to test the gate | 2 (0) | 0.012 | 98.5 | - | ",
        "| onnx-int4 | 0.0 | pass | shipped | 2 (0) | 0.012 | 98.5 | 0.97 (noise 1.3) | ",
        "- `model-q8_0.gguf`, as written: types (q8_0 12, f32 5)",
        "- Choice of the base, by tasks solved: base 16-bit, n 400, correct (16-bit 380, 4-bit 371).",
        "- Merge: base 16-bit, modules 14, rank 4, trained_on base, delta 0.02,",
        f"- Chat template: SHA-256 `{'1' * 64}`",
        f"- Calibration of `onnx-int4`: sha256 {'3' * 64}, tokens 4096, conversations 64.",
        "- `onnx-int4`, as written: exporter genai, precision int4, weights (body int4 13, head int8, ",
        "- Unquantized gguf compared with the model: text (",
        "positions 200, max_difference 0.00012, ",
        "Suite: nano 1, SHA-256 `2222",
        "The same 800 tasks",
    ):
        assert line in card


def test_a_table_survives_any_name() -> None:
    card = model_card(manifest(suite=SuiteRecord(name="a|b\n# c", version="1", sha256="2")), {})
    assert "Suite: a|b # c 1," in card
    odd = entry("q8_0", "model-q8_0.gguf", 20, gate=gate(splits={"x|y\nz": gate().splits["id"]}))
    assert r"| model-q8_0.gguf | x\|y z | 400 |" in model_card(manifest(entries=(odd,)), {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: apache-2.0\ntags: [x]\n---\n# Model", {"license": "apache-2.0"}),
        ("---\nlicense: other\nlicense_name: qwen\nlicense_link: L\n---\n", {
            "license": "other", "license_name": "qwen", "license_link": "L"
        }),
        ("---\nlicense: [a, b]\n---\n", {}), ("# Model\nlicense: mit", {}), ("---\n{", {}), ("---", {}),
        ("---\n- license\n---\n", {}), (None, {}),
    ],
)  # a table  # fmt: skip
def test_the_license_is_that_of_the_base(tmp_path: Path, text: str | None, expected: dict[str, str]) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert license_of(tmp_path) == expected
    assert {k: v for k, v in front_matter(model_card(manifest(), expected)).items() if "license" in k} == expected


def test_a_local_base_is_not_listed_as_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for base in ("runs/base", str(tmp_path / "runs" / "base"), "/somewhere/else/base"):
        source = manifest().source.model_copy(update={"base": public_name(base)})
        card = model_card(manifest(source=source), {})
        assert source.base == "base" and "base_model" not in front_matter(card)
    assert public_name("owner/name") == "owner/name"


# The lines that run a model


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_commands_have_the_settings_of_the_gate() -> None:
    text = run_markdown(manifest())
    server = "llama-server -m model-q8_0.gguf --jinja -c 512 --temp 0 -ngl 0 -ctk f16 -ctv f16 -fa off --port 8080"
    assert f"OMP_WAIT_POLICY=passive {server}\n" in text
    assert "## Ollama\n\nNot supported." in text and "its verdicts do not cover Ollama" in text
    assert "refused/" not in text and "controls/" not in text
    unquantized = entry(
        "f32", "model-f32.gguf", 20, runtime=Runtime(engine="llama.cpp", kv="f32", flash_attention=False)
    )
    text = run_markdown(manifest(entries=(unquantized,)))
    assert "-c 0 --temp 0 -ngl 0 -ctk f32 -ctv f32 -fa off" in text and "type_k=0, type_v=0" in text
    assert "there is none to run" in run_markdown(manifest(entries=()))


def test_commands_are_accepted_by_the_command_line() -> None:
    from typer.main import get_command

    from mentor_edge.cli.app import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    lines = re.findall(r"mentor-edge (run .*)", run_markdown(manifest()))
    assert len(lines) == 2
    for line in lines:
        name, *arguments = shlex.split(line)
        commands[name].make_context(name, arguments)


def export_gguf(student: Path, directory: Path) -> Path:
    from mentor_edge.export.gguf.convert import convert

    convert(student, directory / "model-f32.gguf")
    return directory / "model-f32.gguf"


def export_onnx(student: Path, directory: Path) -> Path:
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    pytest.importorskip("onnx_ir", reason="onnxruntime-genai's model builder needs onnx_ir")
    from mentor_edge.export.onnx.export import export_onnx

    export_onnx(student, directory / "onnx-fp32", "fp32")
    return directory / "onnx-fp32"


@pytest.mark.parametrize(
    ("format", "export"),
    [("gguf", export_gguf), pytest.param("onnx", export_onnx, marks=pytest.mark.slow)],
    ids=["gguf", "onnx"],
)
def test_the_python_blocks_run_unchanged(
    nano_student: Path, tmp_path: Path, format: str, export: Callable[[Path, Path], Path]
) -> None:
    path = export(nano_student, tmp_path)
    size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    runtime = Runtime(engine="llama.cpp", kv="f32", flash_attention=False, context_length=512)
    built = entry("f32", path.name, size, format=format, runtime=runtime)
    write_package(tmp_path, manifest(entries=(built,)), tmp_path)
    assert verify(tmp_path) == []
    code = blocks((tmp_path / "run.md").read_text("utf-8"), "python")
    assert len(code) == 2
    for block in code:
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.strip()

    # The last block renders and parses by hand: it must print what the agent's engine generates.
    @tool
    def get_weather(city: str) -> str:
        """weather in a city"""
        return city

    with open_engine(path) as engine, engine.open(1) as batch:
        question = Message("user", "How is the weather in Rome?")
        prompt = engine.template.render([question], [get_weather.to_openai()], add_generation_prompt=True)
        (generation,) = batch.extend([0], engine.encode([prompt]), Sampling(256))
        ids = [token for token in generation.token_ids if token not in engine.end_ids]
        assert done.stdout.strip() == str(parse_turn(engine.decode([ids])[0], [get_weather.to_openai()]))
