"""ONNX directories whose files name libraries, paths and sizes: the runtime is given only what describes the graph."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.contained import contained
from helpers.tiny_onnx import make_onnx, with_external_weights
from mentor_edge.engines.base import Sampling
from mentor_edge.engines.onnx.engine import OnnxEngine, start_worker
from mentor_edge.engines.onnx.genai_config import CONFIG, GenaiConfig
from mentor_edge.engines.open import open_engine
from mentor_edge.errors import EngineError
from mentor_edge.preflight import inspect_student

pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
Edit = Callable[[dict[str, Any]], object]


def model(**changes: Any) -> Edit:
    return lambda config: config["model"].update(changes)


def decoder(**changes: Any) -> Edit:
    return lambda config: config["model"]["decoder"].update(changes)


def session(**options: Any) -> Edit:
    return decoder(session_options=options)


def provider(**providers: Any) -> Edit:
    return session(provider_options=[providers])


LIBRARY = {"custom_ops_library": "library.so"}
ATTACKS: dict[str, tuple[Edit | bytes, str]] = {
    "library": (session(**LIBRARY), "model.decoder.session_options.custom_ops_library"),
    "library elsewhere": (session(custom_ops_library="/tmp/library.so"), "session_options.custom_ops_library"),
    "library of an embedding": (
        model(embedding={"filename": "model.onnx", "session_options": LIBRARY}),
        "model.embedding.session_options.custom_ops_library",
    ),
    "library of an encoder": (model(encoder={"session_options": LIBRARY}), "model.encoder.session_options.custom_ops"),
    "library of a stage": (
        decoder(pipeline=[{"first": {"filename": "model.onnx", "session_options": LIBRARY}}]),
        "model.decoder.pipeline.0.first.session_options.custom_ops_library",
    ),
    "library of a stage in an object": (
        decoder(pipeline={"first": {"filename": "model.onnx", "session_options": LIBRARY}}),
        "model.decoder.pipeline.0.first.session_options.custom_ops_library",
    ),
    "library of a vision model": (model(vision={"session_options": LIBRARY}), "model.vision"),
    "library of a speech model": (model(speech={"session_options": LIBRARY}), "model.speech"),
    "library of a draft": (model(draft={"session_options": LIBRARY}), "model.draft"),
    "library at the top": (lambda config: config.update(session_options=LIBRARY), "session_options"),
    "library in the search": (lambda config: config["search"].update(LIBRARY), "search.custom_ops_library"),
    "provider with a library": (provider(RyzenAI={}), "model.decoder.session_options.provider_options"),
    "provider cuda": (provider(cuda={}), "execution provider"),
    "provider in odd case": (provider(QnN={"backend_path": "library.so"}), "execution provider"),
    "provider after the processor": (session(provider_options=[{"cpu": {}}, {"OpenVINO": {}}]), "execution provider"),
    "options of the processor": (provider(cpu={"library": "library.so"}), "execution provider"),
    "provider not an object": (session(provider_options=["RyzenAI"]), "model.decoder.session_options.provider_options"),
    "providers by another name": (session(providers=["RyzenAI"]), "model.decoder.session_options.providers"),
    "profile written": (session(enable_profiling="profile"), "model.decoder.session_options.enable_profiling"),
    "graph written": (session(**{"session.optimized_model_filepath": "out"}), "session.optimized_model_filepath"),
    "weights elsewhere": (
        session(**{"session.model_external_initializers_file_folder_path": "/etc"}),
        "session.model_external_initializers_file_folder_path",
    ),
    "another format": (session(**{"session.load_model_format": "ORT"}), "session.load_model_format"),
    "library by an entry": (session(**{"ep.library_path": "library.so"}), "ep.library_path"),
    "options of a run": (decoder(run_options={"a": "b"}), "model.decoder.run_options"),
    "100,000 threads": (session(intra_op_num_threads=100_000), "model.decoder.session_options.intra_op_num_threads"),
    "100,000 more threads": (session(inter_op_num_threads=100_000), "session_options.inter_op_num_threads"),
    "tokenizer elsewhere": (model(tokenizer_dir="/etc"), "model.tokenizer_dir"),
    "graph in a parent": (decoder(filename="../model.onnx"), "model.decoder.filename is '../model.onnx'"),
    "graph anywhere": (decoder(filename="/tmp/model.onnx"), "model.decoder.filename is '/tmp/model.onnx'"),
    "graph in a folder": (decoder(filename="folder/model.onnx"), "model.decoder.filename"),
    "graph on another drive": (decoder(filename="C:model.onnx"), "model.decoder.filename"),
    "graph with a backslash": (decoder(filename="..\\model.onnx"), "model.decoder.filename"),
    "graph with a line break": (decoder(filename="a\n.onnx"), r"model.decoder.filename is 'a\n.onnx'"),
    "graph as a list": (decoder(filename=["model.onnx"]), "model.decoder.filename"),
    "graph in another format": (decoder(filename="model.ort"), "model.decoder.filename"),
    "graph that is a library": (decoder(filename="library.so"), "model.decoder.filename"),
    "stage in a parent": (decoder(pipeline=[{"first": {"filename": "../m.onnx"}}]), "pipeline.0.first.filename"),
    "embedding in a parent": (model(embedding={"filename": "../m.onnx"}), "model.embedding.filename"),
    "format of a name": (decoder(inputs={"past_key_names": "%s%s%n"}), "model.decoder.inputs.past_key_names"),
    "two numbers in a name": (decoder(inputs={"past_key_names": "%d%d"}), "model.decoder.inputs.past_key_names"),
    "long name": (decoder(outputs={"logits": "x" * 100_000}), "model.decoder.outputs.logits"),
    "name with a control character": (model(type="\x1b[2J"), r"model.type is '\x1b[2J'"),
    "a billion layers": (decoder(num_hidden_layers=10**9), "model.decoder.num_hidden_layers"),
    "heads of a billion": (decoder(head_size=10**9), "model.decoder.head_size"),
    "no heads": (decoder(num_key_value_heads=0), "model.decoder.num_key_value_heads"),
    "context of 0": (model(context_length=0), "model.context_length"),
    "context of 10^30": (model(context_length=10**30), "model.context_length"),
    "context as text": (model(context_length="16"), "model.context_length"),
    "end token of -1": (model(eos_token_id=-1), "model.eos_token_id"),
    "end token as a switch": (model(eos_token_id=True), "model.eos_token_id"),
    "a billion rows": (model(vocab_size=10**9), "model.vocab_size"),
    "search without end": (lambda config: config["search"].update(max_length=10**20), "search.max_length"),
    "infinity": (lambda config: config["search"].update(top_p=float("inf")), "Infinity is not a number"),
    "not a number": (lambda config: config["search"].update(top_p=float("nan")), "NaN is not a number"),
    "a number beyond all": (lambda config: config["search"].update(top_p=10**400), "search.top_p"),
    "other section": (lambda config: config.update(engine={"dynamic_batching": {}}), "sets engine to"),
    "key twice": (b'{"model": {}, "model": {}}', "a key occurs twice"),
    "100,000 brackets": (b'{"model": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    "990 brackets": (b'{"model": ' + b"[" * 990 + b"]" * 990 + b"}", "cannot be used"),
    "20 MB": (b" " * 20_000_000 + b"{}", "more than 16 MiB"),
    "5,000 digits": (b'{"model": ' + b"9" * 5000 + b"}", "limit"),
    "a list": (b"[]", "it is not a JSON object"),
    "no text": (b"\xff\xfe", "cannot be used"),
}
"""What a genai_config.json states, and what the message must name."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_onnx(tmp_path_factory.mktemp("onnx"))


@pytest.fixture
def directory(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "onnx"))


def write(directory: Path, edit: Edit | bytes) -> None:
    content = edit
    if not isinstance(edit, bytes):
        config = json.loads((directory / CONFIG).read_text())
        edit(config)
        content = json.dumps(config).encode()
    (directory / CONFIG).write_bytes(content)


def opened(directory: Path) -> None:
    with open_engine(directory):
        pass


def refusals(directory: Path) -> list[str]:
    """The messages of all that opens or reads a directory."""
    problems = []
    for action in (opened, inspect_student):
        with pytest.raises(EngineError) as refused:
            action(directory)
        problems.append(refused.value.problem)
    return problems


@pytest.mark.parametrize("name", ATTACKS)
def test_no_setting_reaches_the_runtime_unread(directory: Path, name: str) -> None:
    edit, named = ATTACKS[name]
    write(directory, edit)
    before = sorted(directory.rglob("*"))
    outcome = contained(lambda: refusals(directory))
    for refusal in outcome.value:
        assert named in refusal and CONFIG in refusal and refusal.isprintable() and len(refusal) < 600
    assert sorted(directory.rglob("*")) == before


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", CONFIG, "model.onnx"]
)
def test_no_file_can_make_it_wait(directory: Path, name: str) -> None:
    (directory / name).unlink()
    os.mkfifo(directory / name)
    assert isinstance(contained(lambda: opened(directory)).error, EngineError)
    (directory / name).unlink()
    (directory / name).symlink_to("/dev/zero")
    assert isinstance(contained(lambda: opened(directory)).error, EngineError)


def test_the_runtime_sees_links_to_regular_files_and_a_configuration_of_our_own(directory: Path) -> None:
    write(directory, session(log_id="x", provider_options=[{"CPUExecutionProvider": {}}], enable_mem_pattern=None))
    (directory / "folder").mkdir()
    (directory / "folder" / "weights.bin").write_bytes(b"1")
    (directory / ".hidden").write_bytes(b"1")
    os.mkfifo(directory / "pipe")
    (directory / "away").symlink_to("/etc")
    with GenaiConfig.read(directory).opened(directory) as private:
        files = {str(path.relative_to(private)) for path in private.rglob("*") if not path.is_dir()}
        assert files == {CONFIG, "model.onnx", "chat_template.jinja", "folder/weights.bin"}
        written = json.loads((private / CONFIG).read_text())
        assert written["model"]["decoder"]["session_options"] == {"log_id": "x", "provider_options": []}
        assert private.stat().st_mode & 0o077 == 0
    assert not private.exists()


def test_a_directory_that_only_describes_its_graph_runs(directory: Path) -> None:
    write(directory, session(log_id="x", intra_op_num_threads=1, provider_options=[{"cpu": {}}]))
    with_external_weights(directory, "sub/the.data")
    (directory / "sub").mkdir()
    (directory / "weights.data").rename(directory / "sub/the.data")
    with OnnxEngine(directory) as engine, engine.open(1) as batch:
        assert batch.extend([0], [[1, 2, 3]], Sampling(2))[0].token_ids == [3, 3]


def test_weights_outside_the_directory_are_refused(plain: Path, tmp_path: Path) -> None:
    """onnxruntime checks this itself: one process tries all."""
    outside = tmp_path / "this.data"
    with start_worker(10) as worker:
        for place in ("../this.data", "x/y/out.data", f"/tmp/{os.getpid():07d}"[:12]):
            directory = Path(shutil.copytree(plain, tmp_path / place.replace("/", "_")))
            with_external_weights(directory, place)
            shutil.move(directory / "weights.data", outside)
            if place.startswith("x"):  # a link in the directory that leads out of it
                (directory / "x/y").mkdir(parents=True)
                (directory / place).symlink_to(outside)
            with (
                GenaiConfig.read(directory).opened(directory) as private,
                pytest.raises(EngineError, match=r"xternal data|out of bounds|No such file"),
            ):
                worker.request("load", "loading", path=str(private), context_length=16, end_ids=[0])
