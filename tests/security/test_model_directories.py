"""Hugging Face directories whose files name code, other files and impossible sizes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.contained import contained
from helpers.tiny_models import make_student
from helpers.tiny_onnx import make_onnx
from mentor_edge.dequantized import Dequantized
from mentor_edge.engines.open import identity_of
from mentor_edge.engines.torch.engine import TransformersEngine
from mentor_edge.engines.torch.loading import load_student
from mentor_edge.errors import EngineError, ExportError, MentorEdgeError, StudentError
from mentor_edge.export import adapter_settings
from mentor_edge.export.adapter_settings import check_patterns, lora_settings
from mentor_edge.export.gguf.convert import convert
from mentor_edge.export.package.card import license_of
from mentor_edge.preflight import inspect_student
from mentor_edge.recipes.student import check_student
from mentor_edge.template_record import TemplateRecord
from mentor_edge.weight_files import INDEX, WEIGHTS

Attack = Callable[[Path], object]


def stating(file: str = "config.json", **changes: Any) -> Attack:
    def attack(directory: Path) -> None:
        path = directory / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return attack


def content(text: bytes, file: str = "config.json") -> Attack:
    return lambda directory: (directory / file).write_bytes(text)


def indexed(*shards: object) -> Attack:
    def attack(directory: Path) -> None:
        (directory / "shards").mkdir()
        shutil.copy(directory / WEIGHTS, directory / "shards" / "a.safetensors")
        (directory / WEIGHTS).rename(directory.parent / "outside.safetensors")
        (directory / INDEX).write_text(json.dumps({"weight_map": dict(enumerate(shards))}))

    return attack


PRECOMPILED = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
TOKENIZER, BILLION = "tokenizer_config.json", 10**9
ATTACKS: dict[str, tuple[Attack, str]] = {
    "attention from the hub": (stating(attn_implementation="owner/kernel"), "attn_implementation"),
    "attention of a version": (stating(attn_implementation="owner/kernel@v1:f"), "attn_implementation"),
    "attention with a prefix": (stating(attn_implementation="paged|owner/kernel"), "attn_implementation"),
    "attention in private": (stating(_attn_implementation="owner/kernel"), "_attn_implementation"),
    "attention inside": (stating(_attn_implementation_internal="owner/k"), "_attn_implementation_internal"),
    "attention by part": (stating(attn_implementation={"": "owner/kernel"}), "attn_implementation"),
    "attention of a part": (stating(text_config={"attn_implementation": "owner/k"}), "attn_implementation"),
    "attention deep inside": (stating(a={"b": {"attn_implementation": "owner/k"}}), "attn_implementation"),
    "attention as a list": (stating(attn_implementation=["owner/k"]), "attn_implementation"),
    "experts from the hub": (stating(experts_implementation="owner/kernel"), "experts_implementation"),
    "weights in a parent": (stating(transformers_weights="../outside.safetensors"), "transformers_weights"),
    "pickled weights": (stating(transformers_weights="pytorch_model.bin"), "transformers_weights"),
    "shard in a folder": (indexed("shards/a.safetensors"), "as a shard"),
    "shard in a parent": (indexed("../outside.safetensors"), "as a shard"),
    "shard anywhere": (indexed("/tmp/outside.safetensors"), "as a shard"),
    "shard with a backslash": (indexed("..\\outside.safetensors"), "as a shard"),
    "shard that is a pickle": (indexed("a.bin"), "as a shard"),
    "shard that is a number": (indexed(7), "as a shard"),
    "tokenizer out of a GGUF file": (stating(TOKENIZER, gguf_file="../model.gguf"), "gguf_file"),
    "positional arguments": (stating(TOKENIZER, init_inputs=["/etc/passwd"]), "init_inputs"),
    "tokenizer in a parent": (stating(TOKENIZER, fast_tokenizer_files=["../tokenizer.4.0.json"]), "fast_tokenizer"),
    "tokenizer of a version": (stating(TOKENIZER, fast_tokenizer_files=["tokenizer.4.0.json"]), "fast_tokenizer"),
    "a billion labels": (stating(num_labels=BILLION), "num_labels"),
    "a billion experts": (stating(num_experts=BILLION), "num_experts"),
    "architecture as a number": (stating(architectures=5), "architectures"),
    "architecture as an object": (stating(architectures=[{}]), "architectures"),
    "no heads": (stating(num_attention_heads=0), "num_attention_heads"),
    "no key heads": (stating(num_key_value_heads=0), "num_key_value_heads"),
    "heads of 0": (stating(head_dim=0), "head_dim"),
    "layers as a switch": (stating(num_hidden_layers=True), "num_hidden_layers"),
    "context of 0": (stating(max_position_embeddings=0), "max_position_embeddings"),
    "100,000 brackets": (content(b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "nested too deeply"),
    "5,000 objects": (content(b'{"text_config": ' * 5000 + b"{}" + b"}" * 5000), "nested too deeply"),
    "a list": (content(b"[]"), "it is not a JSON object"),
    "no text": (content(b"\xff\xfe{\0}\0"), "damaged"),
    "5,000 digits": (content(b'{"vocab_size": ' + b"9" * 5000 + b"}"), "damaged"),
    "300,000 lists": (content(b'{"a": [' + b"[], " * 300_000 + b"1]}"), "values"),
    "a million settings of the tokenizer": (content(b'{"a": [' + b"[]," * 10**7 + b"1]}", TOKENIZER), "values"),
    "1,001 end tokens": (stating("generation_config.json", eos_token_id=[1] * 1001), "end tokens"),
    "weights with a long name": (stating(transformers_weights="a" * 250 + ".safetensors"), "transformers_weights"),
    "shard with a long name": (indexed("é" * 130 + ".safetensors"), "as a shard"),
    "10,001 shards": (indexed(*(f"{number}.safetensors" for number in range(10_001))), "10,001 files"),
    "tokenizer that its library fails on": (stating("tokenizer.json", normalizer=PRECOMPILED), "precompiled_charsmap"),
    "tokenizer settings too deep": (content(b'{"a": ' + b"[" * 100_000, TOKENIZER), "nested too deeply"),
}
for _size in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim"):
    for _value in (-1, BILLION, "x"):
        ATTACKS[f"{_size} = {_value!r}"] = (stating(**{_size: _value}), _size)
"""What the files of a directory state, and what the message must name."""


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


@pytest.fixture
def directory(student: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(student, tmp_path / "student", copy_function=_copy))


def _copy(source: str, target: str) -> None:
    """The weights are links, so that a copy costs nothing."""
    (os.link if source.endswith(".safetensors") else shutil.copy)(source, target)


def refusals(directory: Path) -> list[str]:
    """What inspecting, loading and converting a directory report."""
    found = []
    for action in (_inspect, load_student, lambda path: convert(path, path / "model.gguf")):
        try:
            action(directory)
        except MentorEdgeError as error:
            found.append(error.problem)
    return found


def _inspect(directory: Path) -> None:
    report = inspect_student(directory)
    if report.train.ability == "no":  # weights that cannot be read are reported, not raised
        raise StudentError(report.train.reason)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_reader_names_the_setting(directory: Path, name: str) -> None:
    attack, named = ATTACKS[name]
    attack(directory)
    outcome = contained(lambda: refusals(directory))
    assert outcome.error is None
    # The converter reads no tokenizer_config.json before the weights, and no implementation of attention.
    assert len(outcome.value) == 3 or named in ("gguf_file", "init_inputs", "fast_tokenizer")
    assert all(named in problem and len(problem) < 400 for problem in outcome.value[:2])


def test_no_text_is_padded_to_a_trillion_tokens(directory: Path) -> None:
    padding = {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": ""}
    stating("tokenizer.json", padding={**padding, "pad_to_multiple_of": None})(directory)
    assert contained(lambda: inspect_student(directory).train.ability).value == "yes"


def test_a_pattern_of_a_tokenizer_that_backtracks_too_much_is_an_error(directory: Path) -> None:
    pattern = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    stating("tokenizer.json", pre_tokenizer=pattern)(directory)
    model, tokenizer = load_student(directory)
    with pytest.raises(EngineError, match=r"the model's tokenizer fails: .*retry-limit"):
        TransformersEngine(model, tokenizer).encode(["a" * 60 + "!"])


def test_more_weights_than_are_stored_are_not_allocated(directory: Path) -> None:
    stating(vocab_size=10**6, hidden_size=10**5)(directory)
    outcome = contained(lambda: load_student(directory))
    assert isinstance(outcome.error, StudentError)
    assert "config.json describes at least 100,2" in outcome.error.problem


PATHS = (
    "./missing",
    "../missing",
    "/missing/model",
    "~/missing",
    "a/b/c",
    "runs/a/b",
    "a//b",
    "a/",
    ".hidden/a",
    "a\nb/c",
)


@pytest.mark.parametrize("path", PATHS)
def test_a_mistyped_path_asks_no_hub(path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for action in (inspect_student, load_student, check_student):
        with pytest.raises(StudentError, match=r"not a directory|no file or directory"):
            action(path)


@pytest.mark.parametrize("action", [inspect_student, load_student, check_student])
def test_a_mistyped_path_in_the_form_of_a_hub_id_is_looked_up_once(
    action: Callable[[str], object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    asked: list[object] = []

    def refuse(*host: object) -> None:
        asked.append(host)
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(StudentError, match="there is no such directory, and the hub does not provide it"):
        action("runs/a")
    assert len(asked) == 1


FROM_THE_HUB = (
    "attention from the hub",
    "a billion labels",
    "context of 0",
    "positional arguments",
    "shard in a parent",
)


@pytest.mark.parametrize("name", FROM_THE_HUB)
def test_files_from_the_hub_are_checked_like_all_others(
    directory: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack, named = ATTACKS[name]
    attack(directory)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(directory))
    outcome = contained(lambda: load_student("owner/name"))
    assert isinstance(outcome.error, StudentError) and named in outcome.error.problem


def test_a_model_from_the_hub_keeps_its_name(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(directory))
    model, _ = load_student("owner/name")
    assert model.name_or_path == model.config.name_or_path == "owner/name"


# Which file is which


def test_paths_of_the_machine_that_saved_a_tokenizer_are_not_read(student: Path, directory: Path) -> None:
    """Old tokenizers name such files; transformers reads the directory's own."""
    other = directory.parent / "other.json"
    other.write_text("{}")
    paths = dict.fromkeys(("tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file"), str(other))
    stating(TOKENIZER, **paths)(directory)
    _, tokenizer = load_student(directory)
    assert tokenizer.get_vocab() == load_student(student)[1].get_vocab()


def test_an_identity_covers_every_file_that_is_loaded(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "onnx" / "folder").mkdir(parents=True)
    onnx = make_onnx(tmp_path / "onnx")
    part = tmp_path / "model-00001-of-00002.gguf"
    part.write_bytes(b"GGUF 1")
    for target, changed in ((onnx, onnx / "weights.bin"), (onnx, onnx / "folder" / "w"), (part, tmp_path / "x")):
        file = changed if target is onnx else tmp_path / "model-00002-of-00002.gguf"
        seen = [identity_of(target)]
        for text in (b"1", b"2"):
            file.write_bytes(text)
            seen.append(identity_of(target))
        assert len(set(seen)) == 3
    indexed("../outside.safetensors")(directory)
    with pytest.raises(StudentError, match="as a shard"):
        identity_of(directory)


RECORDS: dict[str, Callable[[Path], object]] = {
    "template.json": TemplateRecord.of,
    "dequantized.json": Dequantized.of,
    "README.md": license_of,
}


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize(
    "content",
    [None, b"---\na: " + b"[" * 100_000 + b"\n---\n", b"\xff", b" " * 20_000_000],
    ids=["pipe", "brackets", "bytes", "20 MB"],
)
def test_what_was_recorded_beside_a_model_is_read_with_bounds(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is None:
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    outcome = contained(lambda: RECORDS[name](tmp_path))
    assert outcome.error is None and not outcome.value


@pytest.mark.parametrize(
    "text",
    [b"[]", b'{"peft_type": ' + b"[" * 100_000, b"\xff", b'{"peft_type": "LORA", "megatron_config": {"a": 1}}'],
    ids=["list", "brackets", "bytes", "modules"],
)
def test_settings_of_an_adapter_are_data(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "adapter_config.json").write_bytes(text)
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(ExportError):
        lora_settings(tmp_path)


SLOW = "([a-z_.0-9]+)+X"


@pytest.mark.parametrize("setting", [{"target_modules": SLOW}, {"exclude_modules": SLOW}, {"rank_pattern": {SLOW: 1}}])
def test_patterns_of_an_adapter_cannot_take_forever(setting: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(100)]
    monkeypatch.setattr(adapter_settings, "_SECONDS", 0.5)
    with pytest.raises(ValueError, match=r"take more than 0.5 s"):
        check_patterns(setting, names)
    with pytest.raises(ValueError, match="is wrong"):
        check_patterns({"target_modules": "("}, names)
    check_patterns({"target_modules": r".*\.(q|v)_proj", "rank_pattern": {"q_proj": 1}, "exclude_modules": None}, names)


def test_nothing_reports_usage() -> None:
    """The switches are set by the package, not only by the command line."""
    names = ("HF_HUB_DISABLE_TELEMETRY", "ORT_DISABLE_TELEMETRY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    code = f"import mentor_edge, os; print([os.environ.get(name) for name in {names}])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "['1', '1']\n"
