"""What stands around exported models: `Artifact`, the card, the lines that run them, and Ollama's Modelfile."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.paths import DATA
from helpers.small_artifacts import FILES, entry, gate, make_artifact, manifest
from mentor_edge import Message, tool
from mentor_edge.chat import ChatTemplate
from mentor_edge.engines.base import Sampling
from mentor_edge.engines.open import open_engine
from mentor_edge.errors import ArtifactError, ExportError
from mentor_edge.export.artifact import Artifact
from mentor_edge.export.package.card import license_of, model_card
from mentor_edge.export.package.ollama import ChatFormat, Conversation, modelfile, probe_conversations
from mentor_edge.export.package.run_lines import run_markdown
from mentor_edge.export.package.write import write_package
from mentor_edge.manifest import Manifest, verify
from mentor_edge.recipes.nano.student import TEMPLATE as NANO_TEMPLATE
from mentor_edge.tool_calls import parse_turn

OLLAMA = DATA / "ollama"
END = "<|im_end|>"


def trl_template(name: str) -> ChatTemplate:
    trl = pytest.importorskip("trl")
    return ChatTemplate((Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text("utf-8"), END)


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
        ("gguf", "int4", r"holds no gguf/int4 \(it holds gguf/q8_0, gguf/q2_k, gguf/q4_0, onnx/int4\)"),
    ],
)
def test_other_models_are_not(artifact: Artifact, format: str, quant: str, problem: str) -> None:
    with pytest.raises(ArtifactError, match=problem):
        artifact.path(format, quant)


@pytest.mark.parametrize(("quant", "name"), [("q8_0", "model-q8_0.gguf"), ("int4", "onnx-int4/model.onnx.data")])
def test_nor_are_damaged_ones(artifact: Artifact, tmp_path: Path, quant: str, name: str) -> None:
    copied = Artifact.load(shutil.copytree(artifact.directory, tmp_path / "copy"))
    content = FILES[name]
    (copied.directory / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=f"differs from its manifest: {name} has the SHA-256"):
        copied.path("onnx" if quant == "int4" else "gguf", quant)
    copied.path("gguf" if quant == "int4" else "onnx", "q8_0" if quant == "int4" else "int4")


def test_the_summary_has_a_row_for_every_model(artifact: Artifact) -> None:
    rows = artifact.summary()
    assert [(row["file"], row["verdict"], row["control"]) for row in rows] == [
        ("model-q8_0.gguf", "pass", False),
        ("refused/model-q2_k.gguf", "inconclusive", False),
        ("controls/model-q4_0.gguf", "fail", True),
        ("onnx-int4", "pass", False),
    ]
    first = rows[0]
    assert (first["n"], first["delta"], first["ci"], first["flips"]) == (400, -0.005, [-0.0125, 0.0025], 8)  # of "ood"
    assert (first["malformed"], first["bytes"], set(first["splits"])) == (2, 20, {"id", "ood"})
    assert all(re.fullmatch("[0-9a-f]{64}", row["sha256"]) for row in rows)
    json.dumps(rows)


# The card


def front_matter(card: str) -> dict[str, Any]:
    _, front, _ = card.split("---\n", 2)
    values: dict[str, Any] = yaml.safe_load(front)
    return values


def test_the_card_says_what_the_manifest_says(artifact: Artifact) -> None:
    card = (artifact.directory / "README.md").read_text("utf-8")
    assert front_matter(card) == {
        "base_model": "Qwen/Qwen3-0.6B",
        "pipeline_tag": "text-generation",
        "tags": ["gguf", "onnx", "function-calling", "mentor-edge"],
    }
    for line in (
        "| model-q8_0.gguf | ood | 400 | 95.0 | 94.5 | -0.50 | [-1.25, +0.25] | 5 | 3 | pass |",
        "| controls/model-q4_0.gguf | 0.0 | fail | control, made to test the gate | 2 (0) | 0.012 | 98.5 | - | ",
        "| onnx-int4 | 0.0 | pass | shipped | 2 (0) | 0.012 | 98.5 | 0.97 | ",
        "- `model-q8_0.gguf`, as written: types (q8_0 12, f32 5)",
        "- Merge: base 16-bit, correct (16-bit 380, 4-bit 371).",
        f"- Chat template: SHA-256 `{'1' * 64}`",
        "- Calibration of `onnx-int4`: tokens 4096.",
        "- Unquantized gguf against the model, before anything else: positions 200, max_difference 0.00012.",
        "Suite: nano 1, SHA-256 `2222",
        "The same 800 tasks",
    ):
        assert line in card
    assert "/home/" not in card  # paths of the machine that made it


def test_a_table_survives_any_name() -> None:
    card = model_card(manifest(suite={"name": "a|b\n# c", "version": "1", "sha256": "2"}), {})
    assert "Suite: a|b # c 1," in card
    split = gate()["splits"]["id"]
    odd = entry("q8_0", "model-q8_0.gguf", 20, gate=gate() | {"splits": {"x|y\nz": split}})
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
def test_the_license_is_what_the_base_says(tmp_path: Path, text: str | None, expected: dict[str, str]) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert license_of(tmp_path) == expected
    assert {k: v for k, v in front_matter(model_card(manifest(), expected)).items() if "license" in k} == expected


def test_a_local_base_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for base in ("runs/base", str(tmp_path / "runs" / "base"), "base"):
        source = manifest().source.model_copy(update={"base": base})
        assert "base_model" not in front_matter(model_card(manifest(source=source), {}))


# The lines that run a model


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_lines_name_what_the_gate_ran_with() -> None:
    text = run_markdown(manifest(), ollama_refusal="it has none")
    server = "llama-server -m model-q8_0.gguf --jinja -c 512 --temp 0 -ngl 0 -ctk f16 -ctv f16 -fa off --port 8080"
    assert f"OMP_WAIT_POLICY=passive {server}\n" in text
    assert "There is no Modelfile: it has none." in text
    assert "refused/" not in text and "controls/" not in text
    unquantized = entry("f32", "model-f32.gguf", 20, gate=gate(engine="llama.cpp", kv="f32", flash_attention=False))
    text = run_markdown(manifest(entries=(unquantized,)), ollama_refusal=None)
    assert "-c 0 --temp 0 -ngl 0 -ctk f32 -ctv f32 -fa off" in text and "type_k=0, type_v=0" in text
    assert "ollama create" in text and "does not cover Ollama" in text
    assert "there is none to run" in run_markdown(manifest(entries=()), ollama_refusal="it has none")


def test_commands_are_accepted_by_the_command_line() -> None:
    from typer.main import get_command

    from mentor_edge.cli.app import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    lines = re.findall(r"mentor-edge (run .*)", run_markdown(manifest(), ollama_refusal=""))
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


@pytest.mark.parametrize(("format", "export"), [("gguf", export_gguf), ("onnx", export_onnx)], ids=["gguf", "onnx"])
def test_python_lines_run_as_they_are(
    nano_student: Path, tmp_path: Path, format: str, export: Callable[[Path, Path], Path]
) -> None:
    path = export(nano_student, tmp_path)
    size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    runtime = {"engine": "llama.cpp", "kv": "f32", "flash_attention": False, "context_length": 512}
    made = entry("f32", path.name, size, format=format, gate=gate(**runtime))
    write_package(tmp_path, manifest(entries=(made,)), ChatTemplate(NANO_TEMPLATE, END))
    assert verify(tmp_path) == []
    code = blocks((tmp_path / "run.md").read_text("utf-8"), "python")
    assert len(code) == 2
    for block in code:
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.strip()

    # The last block renders and parses by hand: it must say what the agent's engine says.
    @tool
    def get_weather(city: str) -> str:
        """weather in a city"""
        return city

    with open_engine(path) as engine, engine.open(1) as batch:
        question = Message("user", "How is the weather in Rome?")
        prompt = engine.template.render([question], [get_weather.to_openai()], add_generation_prompt=True)
        (generation,) = batch.extend([0], engine.encode([prompt]), Sampling(256))
        ids = [token for token in generation.token_ids if token not in engine.end_ids]
        assert done.stdout.strip() == str(parse_turn(engine.decode([ids])[0]))


# Ollama

FITTING = ("qwen2_5", "qwen2_5_training", "qwen3", "qwen3_instruct_2507", "qwen3_vl")
KEPT = 5
"""Every how many-th probe is kept in the golden file."""
PROBES = probe_conversations()

GoRenderer = Callable[..., dict[str, Any]]
"""From a Go template, and conversations other than the probes, to the tag of calls and the texts."""


def without_json_style(text: str) -> str:
    """Lines of JSON in one spelling: that of tools and arguments is Ollama's own."""

    def restyled(line: str) -> str:
        try:
            return json.dumps(json.loads(line), sort_keys=True)
        except ValueError:
            return line

    return "\n".join(map(restyled, text.split("\n")))


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> GoRenderer:
    """Renders conversations with a Go template, as Ollama does."""
    if shutil.which("go") is None:
        pytest.skip("go is not installed")
    folder = tmp_path_factory.mktemp("go")
    environment = os.environ | {"GOCACHE": str(folder / "cache"), "GO111MODULE": "off", "GOFLAGS": "", "GOPROXY": "off"}
    build = ["go", "build", "-o", str(folder / "render"), str(OLLAMA / "render.go")]
    subprocess.run(build, check=True, env=environment, cwd=folder)

    def render(template: str, conversations: Sequence[Conversation] = PROBES) -> dict[str, Any]:
        plain = [{"messages": [m.to_openai() for m in messages], "tools": tools} for messages, tools in conversations]
        given = json.dumps({"template": template, "conversations": plain})
        done = subprocess.run([folder / "render"], input=given, capture_output=True, text=True, check=True)
        rendered: dict[str, Any] = json.loads(done.stdout)
        return rendered

    return render


@pytest.mark.parametrize("name", FITTING)
def test_go_renders_what_jinja_renders(name: str, go: GoRenderer) -> None:
    template = trl_template(name)
    rendered = go(ChatFormat.of(template).go_template())
    assert rendered["tag"].strip() == "<tool_call>"  # how Ollama will find calls
    for (messages, tools), text in zip(PROBES, rendered["texts"], strict=True):
        expected = template.render(messages, tools, add_generation_prompt=True)
        assert without_json_style(text) == without_json_style(expected)


CHATML = """\
{%- if messages[0].role == 'system' or tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}
{% endif %}{% for tool in tools or [] %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'user' %}<|im_start|>user
{{ message.content }}<|im_end|>
{% elif message.role == 'assistant' %}<|im_start|>assistant
{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% elif message.role == 'tool' %}<|im_start|>user
<tool_response>{{ message.content }}</tool_response><|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def test_the_golden_files_are_current(go: GoRenderer) -> None:
    rendered = go(ChatFormat.of(ChatTemplate(CHATML, END)).go_template(), PROBES[::KEPT])["texts"]
    assert json.loads((OLLAMA / "chatml.json").read_text("utf-8")) == rendered


def test_a_modelfile_is_what_go_was_tested_with() -> None:
    """Also where no Go is installed."""
    template = ChatTemplate(CHATML, END)
    assert modelfile(template, "model-q4_k_m.gguf", 4096) == (OLLAMA / "chatml.Modelfile").read_text("utf-8")
    kept = json.loads((OLLAMA / "chatml.json").read_text("utf-8"))
    for (messages, tools), text in zip(PROBES[::KEPT], kept, strict=True):
        expected = template.render(messages, tools, add_generation_prompt=True)
        assert without_json_style(text) == without_json_style(expected)


def test_an_open_turn_of_the_model_is_left_open(go: GoRenderer) -> None:
    """Ollama continues a last message of the assistant."""
    template, question = trl_template("qwen3"), Message("user", "Hello?")
    rendered = go(ChatFormat.of(template).go_template(), [((question, Message("assistant", "It is")), ())])
    assert rendered["texts"] == [template.render([question], add_generation_prompt=True) + "It is"]


def changed(old: str, new: str) -> ChatTemplate:
    assert old in CHATML
    return ChatTemplate(CHATML.replace(old, new), END)


def test_instructions_are_taken_as_they_are(go: GoRenderer) -> None:
    """Among them what means something in Go."""
    template = changed(
        "{{ tool | tojson }}", '{% raw %}{{ .System }}{{/* */}} "" {% endraw %}{{ tool.function | tojson }}'
    )
    rendered = go(ChatFormat.of(template).go_template())["texts"]
    for (messages, tools), text in zip(PROBES, rendered, strict=True):
        expected = template.render(messages, tools, add_generation_prompt=True)
        assert expected.count('{{ .System }}{{/* */}} ""') == text.count('{{ .System }}{{/* */}} ""') == len(tools)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (ChatTemplate(NANO_TEMPLATE, END), "the JSON of tools and arguments"),
        (ChatTemplate("{{ messages }}", END), "do not begin as its next one"),
        (changed("user\n{{ message.content }}", "user\n{{ message.content | upper }}"), "names and contents"),
        (ChatTemplate("{{ raise_exception('no') }}", END), "cannot render this conversation: no"),
        (ChatTemplate("{% if %}", END), "not valid Jinja"),
        (ChatTemplate(CHATML, "</s>"), "its turns do not end with '</s>'"),
        (ChatTemplate(CHATML, ""), "its turns do not end with ''"),
        (changed("call.function.arguments | tojson", "call.function.arguments | tojson | tojson"), "the JSON of tools"),
        (changed("message.content }}<|im_end|>", "message.content | trim }}<|im_end|>"), "the turns user"),
        (changed("assistant\n{{", "assistant\n<think></think>{{"), "do not begin as its next one"),
        (changed('{"name": "', '{"tool": "'), "its calls are no JSON objects in tags"),
        (changed("<tool_response>{{", "\N{ZERO WIDTH SPACE}{{"), "a Modelfile cannot hold its text"),
        (changed("<tool_response>{{", '"""{{'), "a Modelfile cannot hold its text"),
    ],
)
def test_other_templates_are_refused_with_the_reason(template: ChatTemplate, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="Ollama is not supported for this chat template") as raised:
        modelfile(template, "model.gguf")
    assert reason in raised.value.problem
    make_artifact(tmp_path, template.source if template.eos_token == END else "{{ messages }}")
    assert not (tmp_path / "Modelfile").exists()
    assert "There is no Modelfile: Ollama is not supported" in (tmp_path / "run.md").read_text("utf-8")


def test_a_modelfile_lies_beside_the_first_model_that_passed(tmp_path: Path) -> None:
    make_artifact(tmp_path, CHATML)
    text = (tmp_path / "Modelfile").read_text("utf-8")
    assert "\nFROM ./model-q8_0.gguf\n" in text and "does not cover Ollama" in text
    assert '\nPARAMETER stop "<|im_end|>"\nPARAMETER temperature 0\n' in text and text.endswith("num_ctx 512\n")
    assert "ollama create" in (tmp_path / "run.md").read_text("utf-8")
    assert "Modelfile" in Manifest.read(tmp_path).sha256
    refused = tuple(entry for entry in manifest().entries if entry.role == "refused")
    make_artifact(tmp_path / "none", CHATML, entries=refused)
    assert not (tmp_path / "none" / "Modelfile").exists()


def test_quotes_in_a_stop_token_are_quoted() -> None:
    template = ChatTemplate(CHATML.replace(END, '<"end">'), '<"end">')
    assert '\nPARAMETER stop """<"end">"""\n' in modelfile(template, "model.gguf")
