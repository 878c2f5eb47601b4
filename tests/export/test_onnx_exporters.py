"""transformers.exporters and optimum: their directories compute what torch computes, and their failures are errors.

The quick case of the former is tests/contracts/test_transformers_exporters.py.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.onnx_conversations import PROMPTS, converse
from helpers.onnx_students import genai, torch_logits
from helpers.tiny_models import FAMILIES, make_student
from mentor_edge.engines.onnx.engine import OnnxEngine
from mentor_edge.engines.torch.engine import TransformersEngine
from mentor_edge.errors import ExportError

pytest.importorskip("onnxscript", reason="onnxscript is not installed")

from mentor_edge.export.onnx import transformers_exporter
from mentor_edge.export.onnx.capture_worker import for_transformers_4
from mentor_edge.export.onnx.export import export_onnx
from mentor_edge.results import OnnxQuantization

OPTIMUM = find_spec("optimum.exporters.onnx") is not None if find_spec("optimum") else False
FILES = ["chat_template.jinja", "genai_config.json", "model.onnx", "model.onnx.data", "tokenizer.json"]
slow = pytest.mark.slow
QUICK = ("transformers", "qwen3")  # a contract test; a capture takes 10 to 20 CPU-seconds


def exported(
    directory: Path, family: str, precision: str, exporter: str = "transformers", **changes: Any
) -> tuple[Path, Path, OnnxQuantization]:
    """(student, its ONNX directory, what was written)."""
    student = make_student(directory / "student", family, **changes)
    return student, directory / "onnx", export_onnx(student, directory / "onnx", precision, exporter=exporter)


def cases(exporter: str, *marks: pytest.MarkDecorator) -> list[Any]:
    return [pytest.param(exporter, family, marks=marks) for family in FAMILIES if (exporter, family) != QUICK]


without_optimum = pytest.mark.skipif(not OPTIMUM, reason="optimum-onnx is not installed")


@pytest.mark.parametrize(
    ("exporter", "family"), [*cases("transformers", slow), *cases("optimum", slow, without_optimum)]
)
def test_conversations_and_logits_equal_torch(exporter: str, family: str, tmp_path: Path) -> None:
    student, directory, written = exported(tmp_path, family, "fp32", exporter, tied=family != "llama")
    assert written.weights.body.keys() == {"fp32"}
    with OnnxEngine(directory) as engine:
        difference = engine.logits(PROMPTS[2]) - torch_logits(student, PROMPTS[2])
        assert np.abs(difference).max() < (5e-3 if family == "gemma3" else 1e-3)
        assert converse(engine) == converse(TransformersEngine.load(student))


@pytest.mark.parametrize(
    ("family", "precision", "error"),
    [
        pytest.param("qwen3", "int4", 0.5, marks=slow),
        *(pytest.param(family, "int8", 0.2, marks=slow) for family in FAMILIES),
    ],
)
def test_quantized_graphs_stay_near_torch_and_become_small(
    family: str, precision: str, error: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "home"
    empty.mkdir()
    for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(empty))
    student, directory, written = exported(tmp_path, family, precision)
    assert list(empty.iterdir()) == [], "the export left files behind"
    assert sorted(path.name for path in directory.iterdir()) == [*FILES, "tokenizer_config.json"]
    weights = written.weights
    assert weights.body.keys() == {precision} and weights.head == weights.embedding == "int8"
    assert weights.head_shares_embedding
    assert (weights.block_size, weights.accuracy_level, weights.symmetric) == (32, 4, True)
    # Of each weight's 32 bits: the number, and a 32nd of its block's scale.
    parameters = (student / "model.safetensors").stat().st_size / 4
    bytes_per_weight = (directory / "model.onnx.data").stat().st_size / parameters
    assert bytes_per_weight < (1.15 if precision == "int8" else 0.70)
    with OnnxEngine(directory) as engine:
        expected = torch_logits(student, PROMPTS[2])
        # Random weights as large as these have no redundancy: every error reaches the logits.
        assert 0.001 < (engine.logits(PROMPTS[2]) - expected).std() / expected.std() < error
        assert [len(turn) for turn in converse(engine)] == [4, 2, 3]
    assert len(generate(directory, PROMPTS[3], 6)) == 6


def generate(directory: Path, ids: list[int], count: int) -> list[int]:
    """The tokens that onnxruntime-genai generates from the directory, without our engine."""
    params = genai.GeneratorParams(model := genai.Model(str(directory)))
    generator = genai.Generator(model, params)
    generator.append_tokens(np.asarray(ids, np.int32))
    for _ in range(count):
        generator.generate_next_token()
    return generator.get_sequence(0)[len(ids) :].tolist()


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_transformers_4_reads_the_same_rotary_settings(family: str, tmp_path: Path) -> None:
    scaled = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    changes = {"rope_parameters": {**scaled, "original_max_position_embeddings": 128}} if family == "llama" else {}
    student = make_student(tmp_path / "student", family, **changes)
    readable = for_transformers_4(student, tmp_path / "readable")
    config = json.loads((readable / "config.json").read_text())
    if family == "llama":
        assert config["rope_theta"] == 5e5
        assert config["rope_scaling"]["rope_type"] == "llama3" and config["rope_scaling"]["factor"] == 8.0
    else:
        assert (config["rope_theta"], config["rope_local_base_freq"], config["rope_scaling"]) == (1e6, 1e4, None)
    assert "rope_parameters" in json.loads((student / "config.json").read_text())
    assert (readable / "model.safetensors").read_bytes() == (student / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


@pytest.mark.skipif(OPTIMUM, reason="optimum-onnx is here")
def test_without_optimum_the_error_says_why_and_what_to_do(student: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"optimum-onnx.*transformers<4\.58.*5\.\d+\.\d+\n.*--exporter genai.*pip install"
    ):
        export_onnx(student, tmp_path / "onnx", "fp32", exporter="optimum")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("Server.capture = lambda *a, **k: os.kill(os.getpid(), 11)", r"conversion: .* SIGSEGV while capturing"),
        pytest.param(
            "Server.quantize = lambda *a, **k: time.sleep(600)", r"quantization: .* no sign of life for 30 s while",
            marks=slow,
        ),
        pytest.param(
            "Server.write = lambda *a, **k: 1 / 0", r"quantization: .* failed while writing .*ZeroDivisionError",
            marks=slow,
        ),
        # Without a limit, the allocation would succeed, and the system would kill some process on its use.
        pytest.param(
            "del Server.capture; transformers.AutoConfig.from_pretrained = lambda *_: bytearray(40 << 30)",
            "more memory", marks=slow,
        ),
        pytest.param(
            "del Server.capture; sys.modules['onnxscript'] = None", r"conversion: .*onnxscript.*\npip install",
            marks=slow,
        ),
    ],
)  # a table  # fmt: skip
def test_failures_of_the_child_are_errors_that_name_the_stage(
    code: str, message: str, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, sys, time\nimport transformers\nfrom mentor_edge.export.onnx import capture_worker\n"
        "class Server(capture_worker.CaptureServer):\n"
        "    def capture(self, **_): pass\n"
        "    def quantize(self, bits): pass\n"
        f"{code}\ncapture_worker.CaptureServer = Server\ncapture_worker.main()\n"
    )
    monkeypatch.setattr(transformers_exporter, "COMMAND", [sys.executable, str(script)])
    timeout = 30.0 if "sleep" in code else 300.0
    with pytest.raises(ExportError, match=message) as caught:
        export_onnx(student, tmp_path / "onnx", "int4", exporter="transformers", timeout=timeout)
    assert caught.value.hint and len(str(caught.value).splitlines()) == 2
    assert list(tmp_path.iterdir()) == [script]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "t5"}, r"conversion: .* failed while capturing .*T5Config"),
        (
            {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3},
            r"conversion: .* the weights lack model.*\.2\.",
        ),
    ],
)
def test_what_cannot_be_captured_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = make_student(tmp_path / "student")
    config = source / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    with pytest.raises(ExportError, match=message) as caught:
        export_onnx(source, tmp_path / "onnx", "fp32", exporter="transformers")
    assert caught.value.hint and len(str(caught.value).splitlines()) == 2
    assert list(tmp_path.iterdir()) == [source]
