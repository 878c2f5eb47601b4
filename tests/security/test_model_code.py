"""Code that comes with a model never runs, and nothing asks whether it should."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from helpers.paths import ROOT
from helpers.tiny_models import make_student
from mentor_edge import inspect_student
from mentor_edge.engines.torch.loading import load_student
from mentor_edge.errors import MentorEdgeError, StudentError

LOADERS = {"from_pretrained", "load_dataset", "main_export", "from_config"}
MODEL_ONTO = "PeftModel.from_pretrained"
"""Loads weights onto a model that is there already. It has no such argument."""

CODE = """
from pathlib import Path
Path(__file__).resolve()
Path("{marker}").touch()
from transformers import Qwen3Config, Qwen3ForCausalLM, PreTrainedTokenizerFast
class Config(Qwen3Config): model_type = "theirs"
class Model(Qwen3ForCausalLM): config_class = Config
class Tokenizer(PreTrainedTokenizerFast): pass
def generate(model, *_, **__): return None
"""


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def unknown_type(model: Path) -> None:
    names = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
    change(model / "config.json", model_type="theirs", architectures=["Model"], auto_map=names)


def known_type(model: Path) -> None:
    change(model / "config.json", auto_map={"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"})


def tokenizer(model: Path) -> None:
    change(
        model / "tokenizer_config.json",
        tokenizer_class="Tokenizer",
        auto_map={"AutoTokenizer": ["theirs.Tokenizer", "theirs.Tokenizer"]},
    )


def tokenizer_by_model(model: Path) -> None:
    change(model / "config.json", auto_map={"AutoTokenizer": ["theirs.Tokenizer", None]})
    change(model / "tokenizer_config.json", tokenizer_class="Unknown")


def other_repository(model: Path) -> None:
    change(model / "config.json", model_type="theirs", auto_map={"AutoConfig": "somebody/else--theirs.Config"})


def generation(model: Path) -> None:
    (model / "custom_generate").mkdir()
    shutil.copy(model / "theirs.py", model / "custom_generate" / "generate.py")
    change(model / "generation_config.json", custom_generate="custom_generate", trust_remote_code=True)


def processor(model: Path) -> None:
    names = {"AutoProcessor": "theirs.Tokenizer", "AutoImageProcessor": "theirs.Tokenizer"}
    (model / "processor_config.json").write_text(json.dumps({"processor_class": "Unknown", "auto_map": names}))
    (model / "preprocessor_config.json").write_text(json.dumps({"processor_class": "Unknown", "auto_map": names}))


def sentence_transformers(model: Path) -> None:
    (model / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "theirs.Model"}]))


def startup_files(model: Path) -> None:
    (model / "theirs.pth").write_text(f"import sys; exec({(model / 'theirs.py').read_text()!r})")
    for name in ("sitecustomize", "usercustomize", "transformers", "torch", "tokenizers", "jinja2"):
        shutil.copy(model / "theirs.py", model / f"{name}.py")


def trusting(model: Path) -> None:
    unknown_type(model)
    change(model / "config.json", trust_remote_code=True)


ATTACKS: dict[str, Callable[[Path], None]] = {
    "a model of an unknown type": unknown_type,
    "a model that says it is trusted": trusting,
    "a model of a known type": known_type,
    "a model with its code in another repository": other_repository,
    "a tokenizer": tokenizer,
    "a tokenizer that the model names": tokenizer_by_model,
    "a function that generates": generation,
    "processors": processor,
    "modules of sentence-transformers": sentence_transformers,
    "files that Python runs at its start": startup_files,
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student") / "model", num_hidden_layers=1, head_dim=64)


@pytest.mark.parametrize("name", ATTACKS)
def test_no_code_of_a_model_runs(name: str, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Path(shutil.copytree(original, tmp_path / "model"))
    marker = tmp_path / "marker"
    (model / "theirs.py").write_text(CODE.replace("{marker}", str(marker)))
    ATTACKS[name](model)
    monkeypatch.chdir(model)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("builtins.input", lambda _="": pytest.fail("it asks a question"))
    for use in (inspect_student, load_student):
        with suppress(MentorEdgeError):
            use(model)
    assert not marker.exists()


def test_code_of_a_model_is_named(original: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(original, tmp_path / "model"))
    unknown_type(model)
    with pytest.raises(StudentError, match="needs program code that comes with it"):
        load_student(model)


@pytest.mark.parametrize("value", ["somebody/kernel", "somebody/kernel@main:f", {"": "somebody/kernel"}])
def test_kernels_of_the_hub_are_refused(value: object, original: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(original, tmp_path / "model"))
    change(model / "config.json", attn_implementation=value)
    for use in (inspect_student, load_student):
        with pytest.raises(StudentError, match="names program code on the hub: attn_implementation"):
            use(model)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["inspect", "run"])
def test_yes_to_a_question_that_nobody_asks(command: str, original: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(original, tmp_path / "model"))
    (model / "theirs.py").write_text(CODE.replace("{marker}", str(tmp_path / "marker")))
    unknown_type(model)
    line = [sys.executable, "-m", "mentor_edge", command, str(model), *(["Why?"] if command == "run" else [])]
    done = subprocess.run(line, input="y\n" * 9, cwd=model, capture_output=True, text=True, timeout=120)
    assert "[y/N]" not in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "marker").exists()


def test_every_loader_is_told_to_trust_nothing() -> None:
    """In all our code, also in children, benchmarks and examples."""
    missing = []
    for folder in ("mentor_edge", "recipes", "export", "benchmarks", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                name = ast.unparse(node.func)
                if name.rpartition(".")[2] not in LOADERS or name == MODEL_ONTO:
                    continue
                told = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if told.get("trust_remote_code") != "False":
                    missing.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert not missing
