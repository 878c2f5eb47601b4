"""Merging: the resulting weights, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
from safetensors.torch import load_file, save_file

from helpers.changed_students import moved, weights
from helpers.tiny_models import TEMPLATE, make_student
from mentor_edge.engines.open import identity_of
from mentor_edge.errors import ExportError, StudentError
from mentor_edge.export.merge import dequantized_base, merge, merge_report

torch = pytest.importorskip("torch")
RANK, SCALE = 4, 2.0
STRONG, LIGHT = 1e-2, 3e-4
"""Sizes of B's entries: a change of about 2 % of the weights, and of 0.07 %."""


def make_adapter(student: Path, directory: Path, size: float = STRONG, **changes: Any) -> Path:
    """A LoRA adapter with random weights; `changes` are settings of PEFT's LoraConfig."""
    from peft import LoraConfig, get_peft_model

    from mentor_edge.engines.torch.loading import load_student

    settings = {"r": RANK, "lora_alpha": SCALE * RANK, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    model = get_peft_model(load_student(student)[0], LoraConfig(**(settings | changes)))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=size)
    model.save_pretrained(directory)
    return directory


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def deltas(adapter: Path) -> dict[str, Any]:
    """B A x scale, read from the adapter's file, by the name of the weight that it changes."""
    stored = load_file(adapter / "adapter_model.safetensors")
    prefix, end = "base_model.model.", ".lora_A.weight"
    return {
        name.removeprefix(prefix).removesuffix(end) + ".weight": stored[name.replace("lora_A", "lora_B")] @ a * SCALE
        for name, a in stored.items()
        if name.endswith(end)
    }


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("students") / "base")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student in bfloat16, with generation settings that transformers refuses to save unless sampling is on."""
    directory = make_student(tmp_path_factory.mktemp("students") / "half", dtype="bfloat16")
    edit_json(directory / "generation_config.json", temperature=0.6, top_p=0.9, eos_token_id=[2, 0])
    return directory


@pytest.fixture(scope="module")
def adapter(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(student, tmp_path_factory.mktemp("adapters") / "adapter")


# The weights


def test_the_delta_is_added_in_float32_and_rounded_once(half: Path, tmp_path: Path) -> None:
    adapter = make_adapter(half, tmp_path / "adapter")
    merged, before, change = weights(merge(str(half), adapter, tmp_path / "merged")), weights(half), deltas(adapter)
    assert len(change) == 14 and merged.keys() == before.keys()
    for name, weight in merged.items():
        expected = (before[name].float() + change[name]).bfloat16() if name in change else before[name]
        assert torch.equal(weight, expected), name
    report = merge_report(tmp_path / "merged")
    assert report is not None
    assert (report.base, report.modules, report.rank, report.trained_on) == ("16-bit", 14, RANK, str(half))
    assert (report.base_dtype, report.dtype) == ("bfloat16", "bfloat16")
    norms = [sum(float((d.double() ** 2).sum()) for d in d) ** 0.5 for d in (change.values(), map(before.get, change))]
    assert report.delta == pytest.approx(norms[0] / norms[1], rel=1e-5)


def test_a_change_that_bfloat16_would_round_away_is_saved_in_float32(half: Path, tmp_path: Path) -> None:
    adapter = make_adapter(half, tmp_path / "adapter", LIGHT)
    merged, before, change = weights(merge(str(half), adapter, tmp_path / "merged")), weights(half), deltas(adapter)
    assert all(torch.equal(merged[name], before[name].float() + change[name]) for name in change)
    report = merge_report(tmp_path / "merged")
    assert report is not None and report.kept is not None
    assert (report.base_dtype, report.dtype) == ("bfloat16", "float32")
    left = [(before[name].float() + change[name]).bfloat16().float() - before[name].float() for name in change]
    lost = 1 - sum(float((q * d).sum()) for q, d in zip(left, change.values(), strict=True)) / sum(
        float((d * d).sum()) for d in change.values()
    )
    assert 1 - report.kept == pytest.approx(lost, rel=1e-3) and lost > 0.3
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize(("name", "share"), [("student", 1e-4), ("half", 0.05)])
def test_the_4_bit_base_is_what_qlora_training_sees(
    request: pytest.FixtureRequest, name: str, share: float, tmp_path: Path
) -> None:
    """In quantized layers, the merged weights are bitsandbytes' dequantized ones plus the adapter, bit for bit. The
    logits therefore differ from those of training only by the rounding to the base's dtype: by at most `share` of the
    difference that the other base makes."""
    import bitsandbytes
    from peft import PeftModel

    from mentor_edge.engines.torch.loading import load_student

    student = request.getfixturevalue(name)
    adapter = make_adapter(student, tmp_path / "adapter")
    paths = {base: merge(str(student), adapter, tmp_path / base, base) for base in ("4-bit", "16-bit")}
    merged, before, change = weights(paths["4-bit"]), weights(student), deltas(adapter)
    live = load_student(student, four_bit=True)[0]
    dequantized = {
        f"{name}.weight": bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        for name, layer in live.named_modules()
        if isinstance(layer, bitsandbytes.nn.Linear4bit)
    }
    assert dequantized.keys() == change.keys()  # not the head
    for name, weight in merged.items():
        expected = dequantized[name] + change[name] if name in change else before[name]
        assert torch.equal(weight, expected.to(before[name].dtype)), name
    alone = weights(dequantized_base(str(student), tmp_path / "alone"))
    assert all(torch.equal(weight, dequantized.get(name, before[name].float())) for name, weight in alone.items())
    # With gradients, bitsandbytes multiplies as in training; without, some CPUs use a coarser kernel.
    ids = torch.arange(5, 45)[None]
    trained = PeftModel.from_pretrained(live, str(adapter), is_trainable=True).train()(input_ids=ids).logits.detach()
    off = {
        base: float((load_student(path)[0](input_ids=ids).logits.detach() - trained).abs().max())
        for base, path in paths.items()
    }
    assert off["4-bit"] < share * off["16-bit"]


def test_an_untrained_adapter_changes_nothing(student: Path, tmp_path: Path) -> None:
    merged = merge(str(student), make_adapter(student, tmp_path / "adapter", 0.0), tmp_path / "merged")
    assert all(torch.equal(weight, weights(student)[name]) for name, weight in weights(merged).items())
    report = merge_report(merged)
    assert report is not None and (report.delta, report.kept, report.rounding) == (0, None, None)


@pytest.mark.parametrize("base", ["16-bit", "4-bit"])
def test_tokenizer_template_and_generation_settings_are_copied(half: Path, base: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    merged = merge(str(half), make_adapter(half, tmp_path / "adapter"), tmp_path / "merged", base)
    assert (merged / "chat_template.jinja").read_text() == TEMPLATE
    settings = [json.loads((path / "generation_config.json").read_text()) for path in (half, merged)]
    assert [settings[1][key] for key in ("temperature", "top_p", "eos_token_id")] == [0.6, 0.9, [2, 0]]
    text = '<|im_start|>assistant\n<tool_call>{"a": "Ölmühle 🜲"}</tool_call><|im_end|>'
    ids = [AutoTokenizer.from_pretrained(path)(text)["input_ids"] for path in (half, merged)]
    assert ids[0] == ids[1]
    shapes = [{name: tuple(w.shape) for name, w in weights(path).items()} for path in (half, merged)]
    assert shapes[0] == shapes[1]
    assert "quantization_config" not in json.loads((merged / "config.json").read_text())


# What does not fit


def rewritten(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change the adapter's tensors."""

    def apply(adapter: Path) -> None:
        tensors = load_file(adapter / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, adapter / "adapter_model.safetensors")

    return apply


def configured(**changes: Any) -> Callable[[Path], None]:
    return lambda adapter: edit_json(adapter / "adapter_config.json", **changes)


def cut(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


_FIRST = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
_EMBEDDING = "base_model.model.model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda a: (a / "adapter_config.json").unlink(), "adapter_config.json is missing"),
        (lambda a: (a / "adapter_model.safetensors").rename(a / "adapter_model.bin"), "safetensors is missing"),
        (lambda a: (a / "adapter_config.json").write_text("{"), "adapter_config.json is damaged"),
        (lambda a: (a / "adapter_config.json").write_text("[]"), "adapter_config.json is damaged"),
        (cut, r"cannot read .*adapter_model\.safetensors: it declares a tensor of shape .* at bytes"),
        (configured(peft_type="IA3"), "is IA3 for CAUSAL_LM, not LORA"),
        (configured(task_type="SEQ_CLS"), "is LORA for SEQ_CLS"),
        (configured(modules_to_save=["embed_tokens"]), "changes more than LoRA can .*embed_tokens"),
        (configured(trainable_token_indices=[3]), "changes more than LoRA can .*trainable_token_indices"),
        (configured(use_newlora=True), r"PEFT .* does not know \(use_newlora: True\)"),
        (configured(newlora_config={"k": 1}, use_other=False, other_rank=4), r"not know \(newlora_config: .*\)\n"),
        (configured(new_share=0.5, peft_version="9.9"), r"not know \(new_share: 0.5\)\n.*that made it \(9.9\)"),
        (configured(new_share=0.5, peft_version=peft.__version__), "PEFT .* made it, so another program added them"),
        (configured(lora_alpha=None), "states r = 4 and lora_alpha = null"),
        (configured(lora_alpha=10**400), "states r = 4 and lora_alpha = 1000"),
        (configured(rank_pattern=True), "states rank_pattern = true"),
        (configured(alpha_pattern=[1]), r"states alpha_pattern = \[1\]"),
        (configured(r="4"), 'states r = "4" and lora_alpha = '),
        (configured(use_qalora=True), "changes more than LoRA can .*use_qalora"),
        (configured(megatron_config={"a": 1}), "changes more than LoRA can .*megatron_config"),
        (configured(init_lora_weights="pissa_niter_4"), r"a changed base \(init_lora_weights: pissa_niter_4\)"),
        (configured(init_lora_weights="loftq"), r"a changed base \(init_lora_weights: loftq\)"),
        (configured(target_modules=["query_key_value"]), "query_key_value.* not found in the base model"),
        (configured(target_modules=["q_proj"]), "the base has no layer for .* and .* more"),
        (configured(r=8), "size mismatch for .*lora_A"),
        (rewritten(lambda t: t.pop(_FIRST)), "it lacks .*up_proj.lora_B"),
        (rewritten(lambda t: t.update({_EMBEDDING: torch.zeros(450, 256)})), r"own .*\[450, 256\], .*\[448, 256\]"),
        (rewritten(lambda t: t[_FIRST].fill_(float("nan"))), "NaNs detected"),
    ],
)
def test_a_wrong_adapter_is_refused_with_the_reason(
    student: Path, adapter: Path, damage: Callable[[Path], object], reason: str, tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    damage(damaged)
    with pytest.raises(ExportError, match=reason):
        merge(str(student), damaged, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_settings_that_are_off_are_ignored(student: Path, adapter: Path, tmp_path: Path) -> None:
    """A newer version of PEFT writes the defaults of methods that this one does not know."""
    newer = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    off = {"use_newlora": False, "newlora_group_size": 16, "next_config": None, "next_core": "a.b", "modes": [], "x": 0}
    edit_json(newer / "adapter_config.json", **off, peft_version="9.9")
    merged = merge(str(student), newer, tmp_path / "merged")
    expected = merge(str(student), adapter, tmp_path / "expected")
    assert all(torch.equal(weight, weights(expected)[name]) for name, weight in weights(merged).items())


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 32}},
        {"bias": "all"},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_settings_that_are_on_merge_as_peft_computes_them(tmp_path: Path, settings: dict[str, Any]) -> None:
    from peft import PeftModel

    from mentor_edge.engines.torch.loading import load_student

    base = make_student(tmp_path / "base", "qwen2", num_hidden_layers=1)
    adapter = make_adapter(base, tmp_path / "adapter", **settings)
    ids = torch.arange(5, 45)[None]
    live = PeftModel.from_pretrained(load_student(base)[0], str(adapter)).eval()
    plain = load_student(base)[0](input_ids=ids).logits
    expected = live(input_ids=ids).logits
    merged = load_student(merge(str(base), adapter, tmp_path / "merged"))[0](input_ids=ids).logits
    assert float((merged - expected).detach().abs().max()) < 1e-4 < float((expected - plain).detach().abs().max())


def test_a_head_that_differs_from_the_embedding_is_kept(student: Path, adapter: Path, tmp_path: Path) -> None:
    """The flag says that they are tied. transformers computes with both; other programs would drop the head."""
    base = Path(shutil.copytree(student, tmp_path / "base"))
    tensors = weights(base)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 0.25
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    merged = merge(str(base), adapter, tmp_path / "merged")
    assert torch.equal(weights(merged)["lm_head.weight"], tensors["lm_head.weight"])
    assert json.loads((merged / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize("base", ["16-bit", "4-bit"])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_size": 512}, "size mismatch"),
        ({"num_hidden_layers": 1}, r"no layer for .*layers\.1\."),
    ],
)
def test_an_adapter_of_another_base_is_refused(
    adapter: Path, changes: dict[str, Any], reason: str, base: str, tmp_path: Path
) -> None:
    other = make_student(tmp_path / "other", **changes)
    with pytest.raises(ExportError, match=rf"does not fit the base .*other: .*{reason}"):
        merge(str(other), adapter, tmp_path / "merged", base)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_an_adapter_of_fewer_layers_is_refused(student: Path, tmp_path: Path) -> None:
    """PEFT would initialize the missing layers."""
    adapter = make_adapter(student, tmp_path / "adapter", target_modules=["q_proj", "up_proj"])
    with pytest.raises(ExportError, match=r"it lacks .*layers\.2\..* and 3 more"):
        merge(str(make_student(tmp_path / "other", num_hidden_layers=3)), adapter, tmp_path / "merged")


def test_a_base_that_has_changed_is_refused(student: Path, adapter: Path, tmp_path: Path) -> None:
    """Its shapes fit; only its content differs from that of the base that was trained on."""
    other = moved(student, tmp_path / "other", STRONG)
    assert merge(str(other), adapter, tmp_path / "merged", base_identity=identity_of(other)).is_dir()
    with pytest.raises(ExportError, match=r"the base .*other has changed since the training: sha256:"):
        merge(str(other), adapter, tmp_path / "again", base_identity=identity_of(student))
    assert not (tmp_path / "again").exists()


def test_a_change_of_the_head_alone_is_refused_if_the_head_is_tied(tmp_path: Path) -> None:
    for tied in (True, False):
        student = make_student(tmp_path / f"student-{tied}", tied=tied)
        adapter = make_adapter(student, tmp_path / f"adapter-{tied}", target_modules=["lm_head", "q_proj"])
        if tied:
            with pytest.raises(ExportError, match="which the base ties to each other"):
                merge(str(student), adapter, tmp_path / "merged")
        else:
            merged = weights(merge(str(student), adapter, tmp_path / "merged"))
            assert not torch.equal(merged["lm_head.weight"], weights(student)["lm_head.weight"])


def test_other_bases_and_quantized_ones_are_refused(student: Path, adapter: Path, tmp_path: Path) -> None:
    from mentor_edge.engines.torch.loading import load_student

    with pytest.raises(ExportError, match="cannot merge onto '8-bit'\nknown bases: 16-bit, 4-bit"):
        merge(str(student), adapter, tmp_path / "merged", "8-bit")
    with pytest.raises(StudentError):
        merge(str(tmp_path / "nothing"), adapter, tmp_path / "merged")
    model, tokenizer = load_student(student, four_bit=True)
    model.save_pretrained(tmp_path / "quantized")
    tokenizer.save_pretrained(tmp_path / "quantized")
    with pytest.raises(ExportError, match="is stored quantized"):
        merge(str(tmp_path / "quantized"), adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
