"""Whether quantization keeps what a fine-tune changed."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import gguf
import pytest
from safetensors.torch import save_file

from helpers.changed_students import moved, weights
from helpers.tiny_models import make_student
from mentor_edge.errors import ExportError
from mentor_edge.export.gguf.convert import convert
from mentor_edge.export.gguf.quantize import quantize
from mentor_edge.export.survival import measure_survival, require_survival
from mentor_edge.results import Survival

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("students") / "base")


def on_the_grid(source: Path, target: Path) -> Path:
    """The student with its linear weights rounded to q4_0's grid, as in a dequantized model."""
    q4_0 = gguf.GGMLQuantizationType.Q4_0
    student = make_student(target)
    tensors = weights(source)
    for name in tensors:
        if "_proj" in name:
            tensors[name] = torch.from_numpy(
                gguf.quants.dequantize(gguf.quants.quantize(tensors[name].numpy(), q4_0), q4_0)
            )
    save_file(tensors, student / "model.safetensors", metadata={"format": "pt"})
    return student


def survival_of(tuned: Path, base: Path, kind: str, work: Path) -> Survival:
    paths = []
    for name, model in (("tuned", tuned), ("base", base)):
        paths += [work / f"{name}.gguf", work / f"{name}-{kind}.gguf"]
        convert(model, paths[-2])
        quantize(paths[-2], paths[-1], kind)
    return measure_survival(*paths)


@pytest.mark.parametrize(("size", "survived"), [(1e-5, False), (3e-2, True)])
def test_a_light_change_of_a_dequantized_model_is_erased(
    student: Path, size: float, survived: bool, tmp_path: Path
) -> None:
    base = on_the_grid(student, tmp_path / "base")
    result = survival_of(moved(base, tmp_path / "tuned", size), base, "q4_0", tmp_path)
    assert (result.touched, result.survived) == (14, survived)
    assert result.projection == pytest.approx(1.0 if survived else 0.0, abs=0.05)
    assert (result.changed_share < 0.05) is not survived


@pytest.mark.parametrize(
    "kind", ["q8_0", "q4_k_m", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("q4_0", "iq4_xs"))]
)
def test_a_light_change_of_other_weights_arrives_in_noise(student: Path, kind: str, tmp_path: Path) -> None:
    result = survival_of(moved(student, tmp_path / "tuned", 1e-3), student, kind, tmp_path)
    assert result.survived and result.projection == pytest.approx(1, abs=0.1)
    assert result.alignment is not None and result.projection is not None and result.alignment < result.projection


@pytest.mark.slow
@pytest.mark.parametrize("exporter", ["genai", "transformers"])
def test_a_change_is_measured_in_graphs_of_every_exporter(student: Path, exporter: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    from mentor_edge.export.onnx.export import export_onnx

    models = {"tuned": moved(student, tmp_path / "tuned", 3e-3), "base": student}
    for name, precision in product(models, ("fp32", "int8", "int4")):
        export_onnx(models[name], tmp_path / f"{name}-{precision}", precision, exporter=exporter)
    for precision in ("int8", "int4"):
        paths = [tmp_path / f"{name}-{kind}" for name, kind in product(models, ("fp32", precision))]
        result = measure_survival(*paths)
        assert (result.touched, result.unchanged, result.survived) == (10 if exporter == "genai" else 8, (), True)
        assert result.projection == pytest.approx(1, abs=0.02)


def test_nothing_left_is_an_error_that_names_the_stage(student: Path, tmp_path: Path) -> None:
    convert(student, tmp_path / "base.gguf")
    convert(moved(student, tmp_path / "tuned", 1e-3), tmp_path / "tuned.gguf")
    quantize(tmp_path / "base.gguf", tmp_path / "same.gguf", "q8_0")
    result = measure_survival(
        tmp_path / "tuned.gguf", tmp_path / "same.gguf", tmp_path / "base.gguf", tmp_path / "same.gguf"
    )
    assert (result.changed_share, result.projection, result.survived, len(result.unchanged)) == (0, 0, False, 14)
    with pytest.raises(
        ExportError, match=r"quantization: nothing is left of the fine-tune in same\.gguf: all 14 tensors"
    ):
        require_survival(result, tmp_path / "same.gguf")


def test_a_model_equal_to_its_base_has_nothing_to_lose(student: Path, tmp_path: Path) -> None:
    result = survival_of(student, student, "q8_0", tmp_path)
    assert result == Survival(
        touched=0, unchanged=(), changed_share=0.0, projection=None, alignment=None, survived=True
    )
    require_survival(result, tmp_path)


@pytest.mark.parametrize("kind", ["q2_0", "q1_0"])
def test_types_that_gguf_cannot_read_are_compared_by_their_bytes(student: Path, kind: str, tmp_path: Path) -> None:
    result = survival_of(moved(student, tmp_path / "tuned", 3e-2), student, kind, tmp_path)
    assert (result.touched, result.survived) == (14, True) and result.changed_share > 0
    assert result.projection is None or kind == "q1_0"


def test_another_models_files_cannot_be_compared(student: Path, tmp_path: Path) -> None:
    other = make_student(tmp_path / "other", num_hidden_layers=1)
    with pytest.raises(ExportError, match="does not have the same tensors as the tuned model"):
        survival_of(student, other, "q8_0", tmp_path)
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF, but not really")
    with pytest.raises(ExportError, match=r"damaged.gguf cannot be read"):
        measure_survival(*[tmp_path / "damaged.gguf"] * 4)
