"""The manifest of an artifact: read without trust, written last, compared with the files before every load."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.paths import ROOT
from helpers.small_artifacts import FILES, make_artifact, manifest
from mentor_edge.agent import ToolAgent
from mentor_edge.engines.open import open_engine
from mentor_edge.errors import ArtifactError, EngineError, MentorEdgeWarning
from mentor_edge.manifest import MANIFEST, Manifest, verify, verify_entry


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def artifact(whole: Path, tmp_path: Path) -> Path:
    """An artifact to damage."""
    return Path(shutil.copytree(whole, tmp_path / "artifact"))


def rewrite(artifact: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit manifest.json like somebody who knows the format: with a matching digest."""
    values = json.loads((artifact / MANIFEST).read_text())
    edit(values)
    values.pop("digest")
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    values["digest"] = hashlib.sha256(text.encode()).hexdigest()
    (artifact / MANIFEST).write_text(json.dumps(values))


# Reading


def test_what_was_written_is_read(whole: Path) -> None:
    read = Manifest.read(whole)
    assert read == manifest(sha256=read.sha256)
    assert set(read.sha256) == {*FILES, "README.md", "run.md"}
    assert all(hashlib.sha256((whole / name).read_bytes()).hexdigest() == found for name, found in read.sha256.items())
    assert verify(whole) == []
    assert json.loads((whole / MANIFEST).read_text())["digest"] == read.digest


def test_the_layout_of_the_file_does_not_matter(artifact: Path) -> None:
    rewrite(artifact, lambda values: None)  # one line instead of many
    assert verify(artifact) == []


def test_an_entry_has_one_digest(whole: Path) -> None:
    read = Manifest.read(whole)
    file, directory = read.entries[0], read.entries[-1]
    assert read.content_digest(file) == hashlib.sha256(FILES["model-q8_0.gguf"]).hexdigest()
    own = {name: found for name, found in read.sha256.items() if name.startswith("onnx-int4/")}
    assert read.files_of(directory) == own and len(own) == 3
    renamed = read.model_copy(update={"sha256": {name.replace(".data", ".d"): it for name, it in own.items()}})
    assert renamed.content_digest(directory) != read.content_digest(directory)


@pytest.mark.parametrize("figure", [float("nan"), float("inf")])
def test_figures_that_json_cannot_hold_are_refused(figure: float) -> None:
    report = manifest().entries[0].gate
    with pytest.raises(ValueError, match="finite number"):
        type(report).model_validate(report.model_dump() | {"margin": figure})


def test_a_figure_too_large_for_a_float_is_refused(artifact: Path) -> None:
    """JSON's 1e999 is read as infinity."""
    rewrite(artifact, lambda values: values.update(margin=1e999))
    path = artifact / MANIFEST
    path.write_text(path.read_text().replace("Infinity", "1e999"))
    with pytest.raises(ArtifactError, match="margin: Input should be a finite number"):
        Manifest.read(artifact)


@pytest.mark.parametrize(
    "outside", ["/etc/passwd", "../a", "a/../b", "a//b", "./a", ".", "", "a\\b", "c:a", "a\0", "a\nb"]
)
def test_paths_must_lie_in_the_artifact(artifact: Path, outside: str) -> None:
    def point_outside(values: dict[str, Any]) -> None:
        values["entries"][0]["path"] = outside

    def list_outside(values: dict[str, Any]) -> None:
        values["sha256"][outside] = "0" * 64

    for edit in (point_outside, list_outside):
        rewrite(artifact, edit)
        with pytest.raises(ArtifactError, match="is not the path of a file in the artifact"):
            Manifest.read(artifact)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda m: m.update(schema_version=3), "has schema version 3; this mentor-edge reads 2\nupgrade"),
        (lambda m: m.update(schema_version=1), "was made by an early version of mentor-edge\nexport it again"),
        (lambda m: m.update(schema_version=0), "schema_version is 0"),
        (lambda m: m.update(schema_version=True), "schema_version is True"),
        (lambda m: m.update(schema_version="1"), "schema_version is '1'"),
        (lambda m: m.pop("schema_version"), "schema_version is None"),
        (lambda m: m.pop("suite"), "suite: Field required"),
        (lambda m: m.update(surprise=1), "surprise: Extra inputs are not permitted"),
        (lambda m: m["entries"][0].update(format="exe"), "entries.0.format: Input should be 'gguf' or 'onnx'"),
        (lambda m: m["entries"][0].update(bytes=-1), "entries.0.bytes"),
        (lambda m: m["entries"][0]["gate"].update(splits={}), "entries.0.gate.splits"),
        (lambda m: m["entries"][0]["gate"].update(verdict="fail"), "is shipped with the verdict 'fail'"),
        (lambda m: m["entries"][0]["gate"].update(verdict="good"), "entries.0.gate.verdict: Input should be 'pass'"),
        (lambda m: m["entries"][0]["gate"].pop("malformed"), "entries.0.gate.malformed: Field required"),
        (lambda m: m["entries"][0]["quantization"].pop("types"), "entries.0.quantization.gguf.types: Field required"),
        (lambda m: m["entries"][0]["quantization"].update(format="exe"), "entries.0.quantization: Input tag 'exe'"),
        (lambda m: m["entries"][0]["parity"].update(kl_mean="low"), "entries.0.parity.quantized.kl_mean"),
        (lambda m: m["parity"]["gguf"].update(surprise=1), "parity.gguf.surprise: Extra inputs are not permitted"),
        (lambda m: m["entries"][0]["gate"]["splits"]["id"].update(n=0), "entries.0.gate.splits.id.n"),
        (lambda m: m["entries"].append(m["entries"][0]), "two entries have the same format and quantization"),
        (lambda m: m["entries"][1].update(path="model-q8_0.gguf"), "belongs to two entries"),
        (lambda m: m["entries"][1].update(path="onnx-int4/model.onnx"), "belongs to two entries"),
        (lambda m: m["entries"][0].update(path="gone.gguf"), "sha256 lists no file of gone.gguf"),
        (lambda m: m["entries"][0].update(path="gate"), "sha256 lists no file of gate"),
        (lambda m: m["sha256"].update({"run.md": "abc"}), "sha256.run.md"),
        (lambda m: m["sha256"].update({MANIFEST: "0" * 64}), "is not the path of a file in the artifact"),
    ],
)  # a table  # fmt: skip
def test_a_manifest_that_makes_no_sense_is_refused(artifact: Path, edit: Any, problem: str) -> None:
    rewrite(artifact, edit)
    with pytest.raises(ArtifactError) as raised:
        Manifest.read(artifact)
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "Expecting value"),
        (b"[]", "it is not a JSON object"),
        (b"{}", "schema_version is None"),
        (b'{"schema_version": 2', "delimiter"),
        (b'{"schema_version": 2}', "digest"),
        (b'{"schema_version": 1, "schema_version": 1}', "a key occurs twice"),
        (b'{"schema_version": NaN}', "NaN is not a number"),
        (b'{"schema_version": ' + b"9" * 5000 + b"}", "limit"),
        (b'{"schema_version": "\xff"}', "'utf-8' codec"),
        (b"\xff\xfe{\x00}\x00", "'utf-8' codec"),
        *((b'{"schema_version": 2, "a": ' + b"[" * n + b"]" * n + b"}", "") for n in (400, 900, 990, 100_000)),
        (b" " * (16 * 2**20) + b"{}", "more than 16 MiB"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, bytes) else "",
)
def test_a_file_that_is_not_a_manifest_is_one_clear_error(artifact: Path, content: bytes, problem: str) -> None:
    (artifact / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactError) as raised:
        Manifest.read(artifact)
    assert "manifest.json is damaged" in str(raised.value) and problem in str(raised.value)


def test_directories_without_a_manifest_are_distinguished(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not an artifact"):
        Manifest.read(tmp_path)
    (tmp_path / "artifact.json").write_text("{}")
    with pytest.raises(ArtifactError, match="early version of mentor-edge\nexport it again"):
        Manifest.read(tmp_path)
    os.mkfifo(tmp_path / MANIFEST)  # reading it would wait forever
    with pytest.raises(ArtifactError, match="it is not a regular file"):
        Manifest.read(tmp_path)


# Verifying


@given(data=st.data())
def test_any_changed_byte_is_detected(whole: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([*sorted(Manifest.read(whole).sha256), MANIFEST]))
    before = (whole / name).read_bytes()
    offset, change = data.draw(st.integers(0, len(before) - 1)), data.draw(st.integers(1, 255))
    after = bytearray(before)
    after[offset] ^= change
    (whole / name).write_bytes(after)
    try:
        problems = verify(whole)
        # Other white space or another spelling of a number changes nothing in the manifest's values.
        assert problems or (name == MANIFEST and json.loads(after) == json.loads(before))
    except ArtifactError:
        assert name == MANIFEST
    finally:
        (whole / name).write_bytes(before)


def swap(artifact: Path) -> None:
    first, second = artifact / "model-q8_0.gguf", artifact / "refused/model-q2_k.gguf"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def link_out(artifact: Path) -> None:
    shutil.copy(artifact / "model-q8_0.gguf", artifact.parent / "same")
    (artifact / "model-q8_0.gguf").unlink()
    (artifact / "model-q8_0.gguf").symlink_to(artifact.parent / "same")


def link_directory_out(artifact: Path) -> None:
    (artifact / "onnx-int4").rename(artifact.parent / "elsewhere")
    (artifact / "onnx-int4").symlink_to(artifact.parent / "elsewhere")


def replace_by_pipe(artifact: Path) -> None:
    (artifact / "model-q8_0.gguf").unlink()
    os.mkfifo(artifact / "model-q8_0.gguf")


def replace_by_directory(artifact: Path) -> None:
    (artifact / "model-q8_0.gguf").unlink()
    (artifact / "model-q8_0.gguf").mkdir()


def make_huge(artifact: Path) -> None:
    os.truncate(artifact / "model-q8_0.gguf", 2**40)  # a hole: hashing it would take an hour


def loop(artifact: Path) -> None:
    (artifact / "model-q8_0.gguf").unlink()
    (artifact / "model-q8_0.gguf").symlink_to("model-q8_0.gguf")


DAMAGE: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "truncated": (lambda a: os.truncate(a / "model-q8_0.gguf", 7), ["model-q8_0.gguf has the SHA-256"]),
    "missing": (lambda a: (a / "model-q8_0.gguf").unlink(), ["model-q8_0.gguf is missing"]),
    "missing weights": (
        lambda a: (a / "onnx-int4/model.onnx.data").unlink(), ["onnx-int4/model.onnx.data is missing"]
    ),
    "missing directory": (
        lambda a: shutil.rmtree(a / "onnx-int4"), [f"{name} is missing" for name in FILES if "onnx" in name]
    ),
    "missing card": (lambda a: (a / "README.md").unlink(), ["README.md is missing"]),
    "changed items": (lambda a: (a / "gate/gguf-q8_0.jsonl").write_text("{}"), ["gate/gguf-q8_0.jsonl has the"]),
    "swapped": (swap, ["model-q8_0.gguf has the SHA-256", "refused/model-q2_k.gguf has the SHA-256"]),
    "link": (link_out, ["model-q8_0.gguf is a symbolic link"]),
    "linked directory": (
        link_directory_out,
        [*(f"{name} is a symbolic link, or below one" for name in FILES if "onnx" in name), "onnx-int4 is not in"],
    ),
    "loop": (loop, ["model-q8_0.gguf cannot be read"]),
    "pipe": (replace_by_pipe, ["model-q8_0.gguf is not a regular file"]),
    "directory": (replace_by_directory, ["model-q8_0.gguf is not a regular file"]),
    "huge": (make_huge, ["model-q8_0.gguf has 1099511627776 bytes, not 20"]),
    "wrong size": (
        lambda a: rewrite(a, lambda m: m["entries"][0].update(bytes=21)), ["model-q8_0.gguf has 20 bytes, not 21"]
    ),
    "extra": (lambda a: (a / "model-q6_k.gguf").touch(), ["model-q6_k.gguf is not in the manifest"]),
    "extra in a directory": (lambda a: (a / "onnx-int4/more.json").touch(), ["onnx-int4/more.json is not in"]),
    "left over": (lambda a: (a / ".run.md.12.partial").touch(), [".run.md.12.partial is not in the manifest"]),
    "link to a directory": (lambda a: (a / "more").symlink_to("/"), ["more is not in the manifest"]),
}  # a table  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(artifact: Path, damage: str) -> None:
    change, expected = DAMAGE[damage]
    change(artifact)
    problems = verify(artifact)
    assert len(problems) == len(expected)
    assert all(problem.startswith(start) for problem, start in zip(sorted(problems), sorted(expected), strict=True))


# Before a load


def test_models_of_an_artifact_are_known(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in Manifest.read(whole).entries:  # refused models and controls too
        assert verify_entry(whole / each.path) == each
    monkeypatch.chdir(whole / "refused")
    with pytest.warns(MentorEdgeWarning, match="model-q2_k.gguf did not pass its gate"):
        assert verify_entry(Path("model-q2_k.gguf")) == verify_entry(Path("../refused/model-q2_k.gguf"))
    (tmp_path / "link.gguf").symlink_to(whole / "model-q8_0.gguf")
    (tmp_path / "artifact").symlink_to(whole)
    for path in (tmp_path / "link.gguf", tmp_path / "artifact" / "model-q8_0.gguf"):
        entry = verify_entry(path)
        assert entry is not None and entry.quant == "q8_0"


def test_models_outside_a_manifest_are_not_verified(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "alone.gguf").touch()
    (artifact / "mine.gguf").touch()
    for path in (tmp_path / "alone.gguf", artifact / "mine.gguf", tmp_path / "none.gguf", artifact):
        assert verify_entry(path) is None
    (tmp_path / MANIFEST).write_text('{"name": "a web application"}')
    assert verify_entry(tmp_path / "alone.gguf") is None


@pytest.mark.parametrize(
    ("damage", "model"),
    [
        *((name, "model-q8_0.gguf") for name in (
            "truncated", "missing", "swapped", "link", "pipe", "directory", "huge", "wrong size", "loop",
        )),
        *((name, "onnx-int4") for name in (
            "missing weights", "missing directory", "linked directory", "extra in a directory",
        )),
    ],
)  # a table  # fmt: skip
def test_no_damaged_model_is_opened(artifact: Path, damage: str, model: str) -> None:
    DAMAGE[damage][0](artifact)
    with pytest.raises(ArtifactError, match="differs from its manifest"), open_engine(artifact / model):
        pass
    with pytest.raises(ArtifactError, match="differs from its manifest"):
        ToolAgent.load(artifact / model, [])


def test_damage_elsewhere_does_not_keep_a_model_from_loading(artifact: Path) -> None:
    (artifact / "model-q8_0.gguf").unlink()
    (artifact / "README.md").unlink()
    entry = verify_entry(artifact / "onnx-int4")
    assert entry is not None and entry.quant == "int4"


def test_an_intact_model_reaches_its_runtime(whole: Path) -> None:
    """The runtime then refuses it: it is not a GGUF file."""
    with pytest.raises(EngineError, match=r"model-q8_0\.gguf"), open_engine(whole / "model-q8_0.gguf"):
        pass


def test_no_model_is_opened_beside_a_damaged_manifest(artifact: Path) -> None:
    content = (artifact / MANIFEST).read_text()
    for damaged in (content[:-3], content.replace("inconclusive", "pass"), content.replace("schema_version", "x", 1)):
        (artifact / MANIFEST).write_text(damaged)
        with (
            pytest.raises(ArtifactError, match=r"manifest\.json is damaged"),
            open_engine(artifact / "model-q8_0.gguf"),
        ):
            pass


# Writing


@pytest.mark.parametrize("finished", [0, 1, 2])
def test_a_killed_export_leaves_nothing_that_looks_finished(tmp_path: Path, finished: int) -> None:
    """The child is killed when `finished` documents are in their place and the next one is written."""
    script = f"""
import os, pathlib, signal, sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from helpers.small_artifacts import make_artifact
places, replace = iter(range(9)), pathlib.Path.replace
def die_at_last(path, target):
    if next(places) == {finished}:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(path, target)
pathlib.Path.replace = die_at_last
make_artifact(pathlib.Path(sys.argv[1]))
"""
    out = tmp_path / "out"
    assert subprocess.run([sys.executable, "-c", script, str(out)]).returncode == -signal.SIGKILL
    assert [name for name in ("run.md", "README.md", MANIFEST) if (out / name).exists()] == (
        ["run.md", "README.md"][:finished]
    )
    with pytest.raises(ArtifactError, match="is not an artifact"):
        verify(out)
