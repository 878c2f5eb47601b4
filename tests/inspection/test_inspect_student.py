"""`inspect_student` states the facts of every kind of student without loading its weights, and damage in one line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from helpers.changed_templates import REFUSED
from helpers.small_artifacts import make_artifact
from helpers.tiny_models import TEMPLATE, make_student, make_tokenizer
from mentor_edge import inspect_student
from mentor_edge.chat.setting import TemplateSetting
from mentor_edge.engines.torch.loading import end_ids_of, load_student, load_tokenizer
from mentor_edge.errors import ExportError, MentorEdgeError, StudentError
from mentor_edge.export.checkpoint import configured_end_ids
from mentor_edge.export.gguf.convert import convert
from mentor_edge.inspection.student_report import Ability, StudentReport
from mentor_edge.recipes import Run, TaskCounts

SIZES = {"num_hidden_layers": 1, "intermediate_size": 256}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student") / "model", "llama", **SIZES)


@pytest.fixture
def student(original: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(original, tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in (values | changes).items() if value is not ...}))


def onnx_directory(student: Path, directory: Path) -> Path:
    """What onnxruntime-genai's builder leaves besides a real graph."""
    directory.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (student / name).is_file():
            shutil.copy(student / name, directory / name)
    decoder = {"filename": "model.onnx", "head_size": 64, "num_hidden_layers": 1, "num_key_value_heads": 2}
    model = {"type": "llama", "context_length": 512, "eos_token_id": 2, "decoder": decoder}
    (directory / "genai_config.json").write_text(json.dumps({"model": model}))
    (directory / "model.onnx").write_bytes(b"graph")
    return directory


def test_a_directory(original: Path) -> None:
    from transformers import AutoModelForCausalLM

    report = inspect_student(original)
    model = AutoModelForCausalLM.from_pretrained(original)
    assert (report.kind, report.directory, report.architecture) == (
        "Hugging Face directory", str(original), "LlamaForCausalLM",
    )  # fmt: skip
    assert report.parameters == model.num_parameters() and report.dtypes == {"F32": report.parameters}
    assert report.bytes == (original / "model.safetensors").stat().st_size
    assert (report.context_length, report.tied, report.own_head) == (512, True, False)
    assert [token.text for token in report.end_tokens] == ["<|im_end|>"]
    assert report.template is not None and report.template.problems == () and report.notes == ()
    assert [(each.format, each.supported, each.detail) for each in report.formats] == [
        ("gguf", True, "Llama"),
        ("onnx", True, "Llama"),
    ]
    assert {report.train.ability, report.evaluate.ability, report.export.ability} == {Ability.YES}
    assert report.usable
    assert StudentReport.model_validate_json(report.model_dump_json()) == report
    assert report.to_json()["template"]["problems"] == []


def test_a_gguf_file(original: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    convert(original, file)
    report, source = inspect_student(file), inspect_student(original)
    assert (report.kind, report.architecture, report.formats) == ("GGUF file", "llama", ())
    assert report.template == source.template and report.end_tokens == source.end_tokens
    assert (report.context_length, report.own_head, report.bytes) == (512, False, file.stat().st_size)
    assert report.usable and report.evaluate.ability is report.train.ability is Ability.YES
    assert report.export.reason == "it is exported already"


def test_an_onnx_directory(original: Path, tmp_path: Path) -> None:
    report = inspect_student(onnx_directory(original, tmp_path / "onnx"))
    assert (report.kind, report.architecture, report.context_length) == ("ONNX directory", "llama", 512)
    assert report.template == inspect_student(original).template
    assert report.usable and report.parameters is None


def test_a_run(student: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    counts = TaskCounts(suite="sums", sha256="0" * 64, used=1, rejected=0)
    (directory / "config.yaml").write_text("recipe: sft\n")
    with pytest.raises(MentorEdgeError, match=r"run\.json is missing"):
        inspect_student(directory)
    (directory / "metrics.jsonl").write_text('{"step": 1}\n')
    Run(directory, "sft", str(student), 0, counts, 1.0).save()
    report = inspect_student(directory)
    assert (report.kind, report.directory) == ("run", str(student))
    assert any("not merged yet" in note for note in report.notes)
    shutil.copytree(student, directory / "merged")
    report = inspect_student(directory)
    assert report.directory == str(directory / "merged") and report.notes == () and report.usable


def test_a_template_without_tools_is_refused_or_marked(student: Path, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = REFUSED["tools"]
    tokenizer.save_pretrained(student)
    report = inspect_student(student)
    abilities = (report.train.ability, report.evaluate.ability, report.export.ability)
    assert abilities == (Ability.NO, Ability.WARNS, Ability.NO) and not report.usable
    assert all("drops the offered tools" in use.reason for use in (report.train, report.evaluate, report.export))
    assert "hermes" in report.train.hint
    exported = inspect_student(onnx_directory(student, tmp_path / "onnx"))
    assert exported.evaluate.ability is Ability.WARNS and not exported.usable


@pytest.mark.parametrize(
    ("entry", "file", "replaceable"),
    [
        (5, None, True),
        (True, None, True),
        ([{"name": "rag", "template": "x"}], None, True),
        ({"default": 3}, None, True),
        ([{"name": "default", "template": None}], None, True),
        (None, b"", True),
        (None, b"{% if %}", True),
        (["x"], None, False),
        ([{"name": "default"}], None, False),
        (None, b"\xff", False),
    ],
)
def test_a_broken_template_can_be_replaced_if_transformers_loads_the_rest(
    student: Path, entry: Any, file: bytes | None, replaceable: bool
) -> None:
    """Inspecting and training agree; a hint to replace the template alone is only given where it helps."""
    (student / "chat_template.jinja").unlink()
    edit(student / "tokenizer_config.json", chat_template=entry)
    if file is not None:
        (student / "chat_template.jinja").write_bytes(file)
    with pytest.raises(StudentError) as refused:
        inspect_student(student)
    assert ("remove" in (refused.value.hint or "")) is not replaceable
    hermes = TemplateSetting("hermes")
    if replaceable:
        assert inspect_student(student, template="hermes").usable
        assert load_tokenizer(student, hermes).chat_template == hermes.named().source
    else:
        for use in (lambda: inspect_student(student, template="hermes"), lambda: load_tokenizer(student, hermes)):
            with pytest.raises(StudentError, match=re.escape(refused.value.problem)):
                use()


def test_templates_may_be_a_mapping(student: Path) -> None:
    (student / "chat_template.jinja").unlink()
    edit(student / "tokenizer_config.json", chat_template={"default": REFUSED["tools"], "tool_use": TEMPLATE})
    report = inspect_student(student)
    assert (report.templates, report.template_name, report.usable) == (("default", "tool_use"), "tool_use", True)
    assert load_tokenizer(student).chat_template == TEMPLATE


def test_a_student_without_a_template_names_a_template_that_fits(student: Path) -> None:
    (student / "chat_template.jinja").unlink()
    report = inspect_student(student)
    assert report.template is None and not report.usable
    assert report.train.reason == "it has no chat template" and "template: hermes" in report.train.hint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["Phi3ForCausalLM"]}, "cannot convert the architecture Phi3ForCausalLM"),
        ({"hidden_act": "gelu"}, "cannot convert the activation 'gelu'"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "rope scaling 'dynamic'"),
        ({"rms_norm_eps": "four"}, "rms_norm_eps = 'four'"),
        ({"architectures": []}, "cannot convert the architecture none"),
    ],
)
def test_what_cannot_be_exported_is_known_from_the_configuration(student: Path, changes: Any, words: str) -> None:
    edit(student / "config.json", **changes)
    gguf = inspect_student(student).formats[0]
    assert not gguf.supported and words in gguf.detail and "--converter" in gguf.hint


def test_an_unknown_architecture_can_be_trained_but_not_exported(student: Path) -> None:
    edit(student / "config.json", architectures=["Phi3ForCausalLM"])
    report = inspect_student(student)
    assert (report.train.ability, report.export.ability) == (Ability.YES, Ability.NO)
    assert "--converter" in report.export.hint and "--exporter transformers" in report.export.hint


def test_a_quantized_student_cannot_be_exported_or_loaded_without_its_library(student: Path) -> None:
    edit(student / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    report = inspect_student(student)
    assert report.export.ability is Ability.NO and "quantized already" in report.export.reason
    with pytest.raises(StudentError, match="cannot load the student"):
        load_student(student)


def test_an_unstated_tie_is_the_familys_everywhere(student: Path, tmp_path: Path) -> None:
    edit(student / "config.json", tie_word_embeddings=...)
    assert "lack lm_head.weight" in inspect_student(student).train.reason
    with pytest.raises(StudentError, match=r"lm_head\.weight"):
        load_student(student)
    with pytest.raises(ExportError, match=r"output\.weight"):
        convert(student, tmp_path / "model.gguf")


def test_a_head_that_contradicts_the_flag_is_noted(tmp_path: Path) -> None:
    own = make_student(tmp_path / "own", tied=False, **SIZES, head_dim=64)
    edit(own / "config.json", tie_word_embeddings=True)
    report = inspect_student(own)
    assert (report.tied, report.own_head) == (True, True) and "a head of their own" in report.notes[0]
    edit(own / "config.json", tie_word_embeddings=False)
    assert inspect_student(own).notes == ()


def test_the_token_with_which_the_template_closes_a_turn_ends_it(student: Path) -> None:
    template = student / "chat_template.jinja"
    source = template.read_text()
    template.write_text(source.replace("<|im_end|>", "<|endoftext|>"))
    report = inspect_student(student)
    assert [token.text for token in report.end_tokens] == ["<|im_end|>", "<|endoftext|>"] and report.notes == ()
    template.write_text(source.replace("<|im_end|>", "END"))
    report = inspect_student(student)
    assert "ends turns with 'END', but the end tokens are <|im_end|>" in report.notes[0]
    assert report.train.ability is Ability.NO and "cannot be taught" in report.train.reason


def test_further_end_tokens_are_those_of_the_generation_configuration(student: Path) -> None:
    tokens = json.loads((student / "tokenizer.json").read_text())["added_tokens"]
    numbers = {token["content"]: token["id"] for token in tokens}
    edit(student / "generation_config.json", eos_token_id=[numbers["<|endoftext|>"], numbers["<|im_end|>"]])
    ends = inspect_student(student).end_tokens
    assert [(end.id, end.text) for end in ends] == [
        (numbers["<|im_end|>"], "<|im_end|>"),
        (numbers["<|endoftext|>"], "<|endoftext|>"),
    ]


@pytest.mark.parametrize("generation", [None, {}, {"eos_token_id": None}, {"eos_token_id": [5, 6]}])
def test_end_tokens_are_those_that_transformers_and_the_exporters_use(
    student: Path, generation: dict[str, Any] | None
) -> None:
    edit(student / "config.json", eos_token_id=7)
    path = student / "generation_config.json"
    path.unlink(missing_ok=True)
    if generation is not None:
        path.write_text(json.dumps(generation))
    model, tokenizer = load_student(student)
    found = {token.id for token in inspect_student(student).end_tokens}
    assert found == end_ids_of(model, tokenizer)
    assert found == {tokenizer.eos_token_id, *configured_end_ids(student)}
    assert (7 in found, 5 in found) == (generation is None, bool(generation and generation["eos_token_id"]))


def test_sharded_weights_are_counted_and_a_missing_shard_is_named(tmp_path: Path) -> None:
    sharded = make_student(tmp_path / "sharded", shard_size="600KB", **SIZES, head_dim=64)
    whole = inspect_student(sharded)
    shards = sorted(sharded.glob("model-*.safetensors"))
    assert len(shards) > 1 and whole.train.ability is Ability.YES
    shards[0].unlink()
    report = inspect_student(sharded)
    assert f"lists {shards[0].name}, which is missing" in report.train.reason and report.train.ability is Ability.NO


def broken_for_tools(student: Path) -> None:
    (student / "additional_chat_templates").mkdir()
    (student / "additional_chat_templates" / "tool_use.jinja").write_text("{% if %}")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no configuration": (lambda path: (path / "config.json").unlink(), "config.json is missing"),
    "configuration cut off": (lambda path: (path / "config.json").write_text('{"a": '), "config.json is damaged"),
    "configuration is a list": (lambda path: (path / "config.json").write_text("[]"), "not a JSON object"),
    "no tokenizer": (lambda path: (path / "tokenizer.json").unlink(), "has no tokenizer"),
    "tokenizer cut off": (lambda path: (path / "tokenizer.json").write_text("{"), "tokenizer.json is damaged"),
    "tokenizer settings cut off": (lambda path: (path / "tokenizer_config.json").write_text("{"), "is damaged"),
    "end token is text": (lambda path: edit(path / "generation_config.json", eos_token_id=["x"]), "end token"),
    "end token is negative": (lambda path: edit(path / "generation_config.json", eos_token_id=-1), "end token -1"),
    "end token is a fraction": (lambda path: edit(path / "generation_config.json", eos_token_id=2.0), "end token 2.0"),
    "tokenizer settings are a list": (
        lambda path: (path / "tokenizer_config.json").write_text("[]"), "not a JSON object",
    ),
    "unknown type": (lambda path: edit(path / "config.json", dtype="float7"), "the dtype 'float7'"),
    "the flag of tied weights is null": (
        lambda path: edit(path / "config.json", tie_word_embeddings=None), "states tie_word_embeddings = None",
    ),
    "length is a fraction": (lambda path: edit(path / "config.json", max_position_embeddings=512.0), "= 512.0"),
    "template is not text": (
        lambda path: (path / "chat_template.jinja").write_bytes(b"\xff\xfe"), "cannot read",
    ),
    "template is not Jinja": (
        lambda path: (path / "chat_template.jinja").write_text("{% if %}"), "'default' is not valid Jinja",
    ),
    "template for tools is not Jinja": (lambda path: broken_for_tools(path), "'tool_use' is not valid Jinja"),
}  # a table  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_clear_error(student: Path, name: str) -> None:
    damage, words = DAMAGE[name]
    damage(student)
    with pytest.raises(MentorEdgeError, match=words) as raised:
        inspect_student(student)
    assert "\n" not in raised.value.problem and str(student) in raised.value.problem
    with pytest.raises(StudentError, match="'tool_use'" if "tools" in name else None):
        load_student(student)


WEIGHTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "none": (lambda path: (path / "model.safetensors").unlink(), "there is no model.safetensors"),
    "cut off": (lambda path: (path / "model.safetensors").write_bytes(b"\x10\x00"), "is damaged"),
    "pickles": (
        lambda path: (path / "model.safetensors").rename(path / "pytorch_model.bin"), "may run code",
    ),
    "index": (
        lambda path: (path / "model.safetensors").rename(path / "model.safetensors.index.json"), "cannot read",
    ),
    "end token without an embedding": (
        lambda path: edit(path / "generation_config.json", eos_token_id=99999), "uses a token 99999",
    ),
    "no end token": (lambda path: edit(path / "tokenizer_config.json", eos_token=None), "no end-of-turn token"),
}  # a table  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_student_that_cannot_be_loaded_is_refused_with_the_reason(student: Path, name: str) -> None:
    damage, words = WEIGHTS[name]
    damage(student)
    report = inspect_student(student)
    assert report.train.ability is report.evaluate.ability is report.export.ability is Ability.NO
    assert words in report.train.reason and len(report.train.reason) < 400 and not report.usable


@pytest.mark.parametrize("wrapper", ["base_model.model.", "_orig_mod.", "module."])
def test_weights_saved_with_their_wrapper_are_refused_as_loading_refuses_them(tmp_path: Path, wrapper: str) -> None:
    student = make_student(tmp_path / "wrapped", **SIZES, head_dim=64)
    weights = student / "model.safetensors"
    tensors = {f"{wrapper}{name}": tensor for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    report = inspect_student(student)
    assert report.train.ability is report.evaluate.ability is report.export.ability is Ability.NO
    assert f"begin with {wrapper!r}" in report.train.reason
    with pytest.raises(StudentError, match="the weights of the student"):
        load_student(student)


def test_what_is_not_a_student_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("hello")
    for target, words in {
        "nowhere": "there is no file or directory",
        str(tmp_path / "empty"): "config.json is missing",
        str(adapter): "an adapter without its base",
        str(tmp_path / "notes.txt"): "not a GGUF file",
        str(make_artifact(tmp_path / "artifact")): "an artifact with several models",
    }.items():
        with pytest.raises(MentorEdgeError, match=words):
            inspect_student(target)
