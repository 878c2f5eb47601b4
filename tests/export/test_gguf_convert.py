"""Conversion to GGUF: the file computes in llama.cpp what transformers computes, or the model is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from helpers.tiny_models import EMBEDDING_ROWS, FAMILIES, make_student
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.errors import ExportError, OutputError
from mentor_edge.export import checkpoint
from mentor_edge.export.gguf.convert import convert


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: make_student(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.fixture(scope="module")
def student(students: dict[str, Path]) -> Path:
    return students["qwen3"]


def edit_json(directory: Path, file: str, **changes: Any) -> None:
    path = directory / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def make_copy(student: Path, target: Path) -> Path:
    for file in student.glob("*.[js]*"):
        (target / file.name).write_bytes(file.read_bytes())
    return target


def logits_in_torch(directory: Path, ids: list[int]) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].numpy()


def check_logits(directory: Path, tolerance: float = 1e-3) -> None:
    """Convert, and compare the logits of 200 positions (more than Gemma's window) with transformers."""
    file = directory / "f32.gguf"
    convert(directory, file)
    ids = [int(i) for i in np.random.default_rng(0).integers(10, 390, 200)]
    expected = logits_in_torch(directory, ids)
    with LlamaCppEngine(file, kv="f32", batch_size=1) as engine:
        actual = engine.logits(ids)
    assert np.abs(actual - expected).max() < tolerance
    second, best = np.partition(expected, -2, axis=1)[:, -2:].T
    assert ((actual.argmax(1) == expected.argmax(1)) | (best - second < tolerance)).all()


def tolerance_of(family: str) -> float:
    return 5e-3 if family == "gemma3" else 2e-4  # llama.cpp reads Gemma's activation from a table of 16-bit floats


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_f32_file_computes_what_the_model_computes(tmp_path: Path, family: str, tied: bool) -> None:
    make_student(tmp_path, family, tied=tied)
    check_logits(tmp_path, tolerance_of(family))
    names = [tensor.name for tensor in gguf.GGUFReader(tmp_path / "f32.gguf").tensors]
    assert ("output.weight" in names) != tied


def rope(kind: str, **changes: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0} | changes}


ORIGINAL = {"original_max_position_embeddings": 64}
LLAMA3 = rope("llama3", low_freq_factor=1.0, high_freq_factor=4.0, **ORIGINAL)
GEMMA_LINEAR = {
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", LLAMA3),
        pytest.param("llama", rope("linear"), marks=pytest.mark.slow),
        pytest.param("qwen2", rope("linear"), marks=pytest.mark.slow),
        pytest.param("qwen2", rope("yarn", **ORIGINAL), marks=pytest.mark.slow),
        ("qwen3", rope("yarn", **ORIGINAL)),
        pytest.param("qwen3", rope("yarn", attention_factor=0.8, **ORIGINAL), marks=pytest.mark.slow),
        pytest.param("qwen3", rope("yarn", mscale=0.7, mscale_all_dim=1.1, **ORIGINAL), marks=pytest.mark.slow),
        pytest.param("smollm3", rope("yarn", **ORIGINAL), marks=pytest.mark.slow),
        ("gemma3", GEMMA_LINEAR),
    ],
)
def test_scaled_rotary_embeddings_compute_the_same(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    make_student(tmp_path, family, **changes)
    check_logits(tmp_path, tolerance_of(family))


def test_an_old_configuration_means_the_same(students: dict[str, Path], tmp_path: Path) -> None:
    make_copy(make_student(tmp_path / "new", "gemma3", **GEMMA_LINEAR), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("rope_parameters", "layer_types", "tie_word_embeddings"):
        config.pop(key)
    config |= {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    convert(tmp_path / "new", tmp_path / "new.gguf")
    convert(tmp_path, tmp_path / "old.gguf")
    assert (tmp_path / "new.gguf").read_bytes() == (tmp_path / "old.gguf").read_bytes()


def test_llama_keeps_every_bias(tmp_path: Path) -> None:
    make_student(tmp_path, "llama", attention_bias=True, mlp_bias=True)
    check_logits(tmp_path)


@pytest.mark.parametrize("family", ["qwen3", "smollm3", "gemma3"])
def test_a_bias_that_llama_cpp_does_not_load_is_refused(tmp_path: Path, family: str) -> None:
    make_student(tmp_path, family, attention_bias=True)
    with pytest.raises(ExportError, match=r"o_proj\.bias': llama\.cpp has no such tensor"):
        convert(tmp_path, tmp_path / "out.gguf")


def test_bfloat16_shards_convert_exactly(tmp_path: Path) -> None:
    make_student(tmp_path, dtype="bfloat16", shard_size="600KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    check_logits(tmp_path)


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_every_value_is_converted_as_torch_does(
    tmp_path: Path, stored: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file

    monkeypatch.setattr(checkpoint, "CHUNK", 1000)  # many pieces, the last one shorter, head boundaries in between
    make_student(tmp_path, "llama", dtype=stored)
    convert(tmp_path, tmp_path / "out.gguf", dtype)
    weights = load_file(tmp_path / "model.safetensors")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    for name, expected in (
        ("token_embd.weight", weights["model.embed_tokens.weight"]),
        ("blk.1.ffn_down.weight", weights["model.layers.1.mlp.down_proj.weight"]),
        # Each head's rows: first of the first half, first of the second half, second of the first half, ...
        ("blk.0.attn_k.weight", weights["model.layers.0.self_attn.k_proj.weight"].view(2, 2, 32, 256).transpose(1, 2)),
    ):
        kind = torch.float16 if dtype == "f16" else torch.float32
        assert np.array_equal(tensors[name].data.ravel(), expected.to(kind).numpy().ravel())
    assert tensors["output_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    assert len(tensors["token_embd.weight"].data) == EMBEDDING_ROWS


def test_a_conversion_needs_little_memory_and_no_torch(tmp_path: Path) -> None:
    make_student(tmp_path, vocab_size=40_000, hidden_size=512, dtype="bfloat16")
    script = """
import resource, sys
from pathlib import Path
from mentor_edge.export.gguf.convert import convert
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(Path(sys.argv[1]), Path(sys.argv[1]) / "f32.gguf")
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(after - before, "torch" in sys.modules, "transformers" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, timeout=120)
    grown, *loaded = result.stdout.split()
    assert loaded == ["False", "False"], result.stderr
    assert int(grown) < 60 << 10  # KiB; the embedding alone is 80 MiB in float32, and 40 in the file


ALTERNATING = ["sliding_attention", "full_attention"] * 3


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("qwen3", {"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM.*\n.*Qwen3ForCausalLM.*--converter"),
        ("qwen3", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope scaling 'dynamic'"),
        ("qwen3", rope("llama3"), "rope scaling 'llama3'"),
        ("llama", rope("llama3", low_freq_factor=1.0), "llama3 rope scaling of config.json lacks high_freq_factor"),
        ("qwen3", rope("yarn", beta_fast=16), "beta_fast = 16"),
        ("qwen3", rope("yarn", truncate=False), "truncate = False"),
        ("gemma3", {"rope_scaling": rope("yarn")["rope_parameters"]}, "rope scaling 'yarn'"),
        ("qwen3", {"partial_rotary_factor": 0.5}, "partly rotated"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "1 layers use sliding-window"),
        (
            "qwen3",
            {"layer_types": None, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0},
            "2 layers",
        ),
        ("qwen3", {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantized already"),
        ("qwen3", {"hidden_act": "gelu"}, "activation 'gelu'"),
        ("qwen3", {"tie_word_embeddings": False}, "lack output.weight"),
        ("qwen2", {"head_dim": 96}, "4 heads of size 96 in a model of width 256"),
        ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}, r"no_rope_layers = \[1, 0, 1, 0\]"),
        ("smollm3", {"no_rope_layers": None, "no_rope_layer_interval": 2}, r"no_rope_layers = \[1, 0, 1, 0\]"),
        ("gemma3", {"layer_types": ALTERNATING}, "layers sliding_attention, full_attention, sliding"),
        ("gemma3", {"sliding_window": None}, "sliding_window = None"),
        ("gemma3", {"query_pre_attn_scalar": 168}, "query_pre_attn_scalar = 168"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50"),
        ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention = True"),
        ("gemma3", {"hidden_activation": "gelu"}, "activation 'gelu'"),
    ],
)
def test_models_that_llama_cpp_would_run_differently_are_refused(
    students: dict[str, Path], tmp_path: Path, family: str, changes: dict[str, Any], message: str
) -> None:
    make_copy(students[family], tmp_path)
    edit_json(tmp_path, "config.json", **changes)
    with pytest.raises(ExportError, match=message):
        convert(tmp_path, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_directories_without_a_model_are_refused(student: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"config\.json does not exist"):
        convert(tmp_path, tmp_path / "out.gguf")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ExportError, match=r"config\.json cannot be read: it is not a JSON object"):
        convert(tmp_path, tmp_path / "out.gguf")
    make_copy(student, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ExportError, match=r"cannot load the weights of .*: there is no model\.safetensors"):
        convert(tmp_path, tmp_path / "out.gguf")
    with pytest.raises(ExportError, match="cannot convert to 'q4_0'"):
        convert(student, tmp_path / "out.gguf", "q4_0")


def damaged_header(**changes: Any) -> Any:
    def damage(content: bytes) -> bytes:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        header["model.norm.weight"] |= changes
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + content[8 + length :]

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"", "it declares a header of 0 bytes"),
        (lambda content: b"\xff" * 8 + content[8:], "it declares a header of 18446744073709551615 bytes"),
        (lambda content: content[:400], "cannot read"),
        (lambda content: content[:8] + b"x" + content[9:], "cannot read"),
        (lambda content: content[: len(content) // 2], r"bytes \d+ to \d+ of \d+"),
        (damaged_header(shape=[255]), r"shape \[255\] and type F32 has 1024 bytes"),
        (damaged_header(shape=[-256]), r"it declares a tensor of shape \[-256\] at bytes"),
        (damaged_header(shape="256"), "cannot read"),
        (damaged_header(data_offsets=[0]), "cannot read"),
        (damaged_header(data_offsets=[1024, 0]), r"it declares a tensor of shape .* at bytes 1024 to 0"),
        (damaged_header(dtype="I8"), r"model\.norm\.weight has I8 values"),
    ],
)
def test_damaged_weights_are_refused(student: Path, tmp_path: Path, damage: Any, message: str) -> None:
    weights = make_copy(student, tmp_path) / "model.safetensors"
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(ExportError, match=message):
        convert(tmp_path, tmp_path / "out.gguf")
    assert not list(tmp_path.glob("*out.gguf*"))


@pytest.mark.parametrize(
    ("value", "dtype", "hint"),
    [(float("nan"), "f32", "diverged"), (float("-inf"), "f16", "diverged"), (70_000.0, "f16", "convert to f32")],
)
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float, dtype: str, hint: str) -> None:
    from safetensors.numpy import load_file, save_file

    make_student(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][300, 7] = value
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ExportError, match=rf"up_proj\.weight has values that are not finite as float\d\d\n.*{hint}"):
        convert(tmp_path, tmp_path / "out.gguf", dtype)


def test_a_full_disk_leaves_the_old_file(student: Path, tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from mentor_edge.errors import OutputError
from mentor_edge.export.gguf.convert import convert
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    convert(*map(Path, sys.argv[1:]))
except OutputError as error:
    print(error.hint)
"""
    (tmp_path / "out.gguf").write_text("old")
    command = [sys.executable, "-c", script, student, tmp_path / "out.gguf"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "free some space" in result.stdout, result.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out.gguf", "old")]


def test_a_directory_that_cannot_be_written_is_named(student: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*file/out\.gguf"):
        convert(student, tmp_path / "file" / "out.gguf")
