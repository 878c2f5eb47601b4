"""Artifacts that somebody forged, damaged or padded: what a manifest may list, and what nobody vouches for."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.contained import contained
from helpers.small_artifacts import make_artifact
from mentor_edge.engines.open import open_engine
from mentor_edge.errors import ArtifactError, MentorEdgeError, MentorEdgeWarning
from mentor_edge.files import sha256_of
from mentor_edge.manifest import MANIFEST, verify, verify_entry
from mentor_edge.manifest.reader import digest_of

Attack = Callable[[Path], object]


def forged(edit: Callable[[dict[str, Any]], object]) -> Attack:
    """A manifest that somebody wrote who knows the format."""

    def attack(artifact: Path) -> None:
        values = json.loads((artifact / MANIFEST).read_text())
        edit(values)
        values.pop("digest")
        (artifact / MANIFEST).write_text(json.dumps(values | {"digest": digest_of(values)}))

    return attack


def listing(name: str) -> Attack:
    """A file that the manifest lists with its hash, and counts."""

    def attack(artifact: Path) -> None:
        file = artifact / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"\x7fELF")

        def edit(values: dict[str, Any]) -> None:
            values["sha256"][name] = sha256_of(file)
            values["entries"][3]["bytes"] += 4 if name.startswith("onnx-int4/") else 0

        forged(edit)(artifact)

    return attack


def naming(name: str) -> Attack:
    return forged(lambda values: values["sha256"].update({name: "0" * 64}))


def replaced(make: Callable[[Path], object]) -> Attack:
    """Something else in place of the manifest."""

    def attack(artifact: Path) -> None:
        (artifact / MANIFEST).rename(artifact.parent / "moved.json")
        make(artifact / MANIFEST)

    return attack


def content(text: bytes) -> Attack:
    return lambda artifact: (artifact / MANIFEST).write_bytes(text)


def nested(artifact: Path) -> None:
    """1,100 folders, each inside the one before."""
    before = os.getcwd()
    os.chdir(artifact)
    for _ in range(1100):
        os.mkdir("d")
        os.chdir("d")
    Path("library.so").touch()
    os.chdir(before)


def added(name: str) -> Attack:
    def attack(artifact: Path) -> None:
        (artifact / name).parent.mkdir(parents=True, exist_ok=True)
        (artifact / name).write_bytes(b"GGUF")

    return attack


KIND = "is not a kind of file that belongs in an artifact"
OUTSIDE = "is not the path of a file in the artifact"
UNKNOWN = "is not in the manifest"
ATTACKS: dict[str, tuple[Attack, str]] = {
    "library in a model": (listing("onnx-int4/library.so"), KIND),
    "library of a version": (listing("onnx-int4/library.so.1"), KIND),
    "library for a Mac": (listing("onnx-int4/library.dylib"), KIND),
    "library for Windows": (listing("onnx-int4/LIBRARY.DLL"), KIND),
    "library beside the models": (listing("libonnxruntime_providers_ryzenai.so"), KIND),
    "Python in a model": (listing("onnx-int4/modeling.py"), KIND),
    "Python extension": (listing("onnx_int4.pyd"), KIND),
    "bytecode": (listing("__pycache__/x.pyc"), KIND),
    "path file": (listing("site.pth"), KIND),
    "pickle": (listing("onnx-int4/pytorch_model.bin"), KIND),
    "pickle of torch": (listing("model.pt"), KIND),
    "program": (listing("run.sh"), KIND),
    "program without suffix": (listing("run"), KIND),
    "page with scripts": (listing("index.html"), KIND),
    "archive": (listing("more.zip"), KIND),
    "graph in another format": (listing("onnx-int4/model.ort"), KIND),
    "part of a file": (listing("model-00002-of-00003.gguf"), KIND),
    "absolute path": (naming("/etc/passwd.json"), OUTSIDE),
    "path in a parent": (naming("../model.json"), OUTSIDE),
    "path through a parent": (naming("gate/../../model.json"), OUTSIDE),
    "path with a backslash": (naming("..\\model.json"), OUTSIDE),
    "path on another drive": (naming("C:model.json"), OUTSIDE),
    "path with a line break": (naming("a\n.json"), OUTSIDE),
    "path with a control character": (naming("\x1b[2J.json"), OUTSIDE),
    "path with a zero": (naming("a\0.json"), OUTSIDE),
    "the manifest itself": (naming(MANIFEST), OUTSIDE),
    "entry in a parent": (forged(lambda v: v["entries"][0].update(path="../model.gguf")), OUTSIDE),
    "entry twice": (forged(lambda v: v["entries"].append(v["entries"][0])), "two entries"),
    "entry in an entry": (forged(lambda v: v["entries"][0].update(path="onnx-int4/model.onnx")), "two entries"),
    "entry a thousand times": (forged(lambda v: v["entries"].extend(v["entries"][:1] * 1000)), "at most 200 items"),
    "10,001 files": (
        forged(lambda v: v["sha256"].update({f"gate/{number}.json": "0" * 64 for number in range(10_001)})),
        "at most 10000 items",
    ),
    "a terabyte of outcomes": (lambda artifact: os.truncate(artifact / "gate/gguf-q8_0.jsonl", 2**40), "any document"),
    "manifest that is a pipe": (replaced(os.mkfifo), "it is not a regular file"),
    "manifest that is a directory": (replaced(os.mkdir), "it is not a regular file"),
    "manifest that is a link": (
        replaced(lambda path: path.symlink_to(path.parent.parent / "moved.json")),
        "it is a symbolic link",
    ),
    "manifest that never ends": (replaced(lambda path: path.symlink_to("/dev/zero")), "it is not a regular file"),
    "manifest that is a loop": (replaced(lambda path: path.symlink_to(MANIFEST)), "symbolic links"),
    "manifest of 20 MB": (content(b" " * 20_000_000), "more than 16 MiB"),
    "100,000 brackets": (content(b'{"schema_version": ' + b"[" * 100_000), "nested too deeply"),
    "key twice": (content(b'{"schema_version": 2, "schema_version": 2}'), "a key occurs twice"),
    "not a number": (content(b'{"schema_version": NaN}'), "NaN is not a number"),
    "version of 5,000 digits": (content(b'{"schema_version": ' + b"9" * 5000 + b"}"), "limit"),
    "unknown model": (added("more.gguf"), f"more.gguf {UNKNOWN}"),
    "unknown library": (added("onnx-int4/library.so"), f"onnx-int4/library.so {UNKNOWN}"),
    "unknown hidden file": (added(".hidden/library.so"), f".hidden/library.so {UNKNOWN}"),
    "unknown name with a control character": (added("\x1b[2J.so"), rf"'\x1b[2J.so' {UNKNOWN}"),
    "unknown name with a line break": (added("a\nb.so"), rf"'a\nb.so' {UNKNOWN}"),
    "unknown name that is not text": (added("\udcff.so"), rf"'\udcff.so' {UNKNOWN}"),
    "unknown pipe": (lambda artifact: os.mkfifo(artifact / "pipe"), f"pipe {UNKNOWN}"),
    "unknown link": (lambda artifact: (artifact / "etc").symlink_to("/etc"), f"etc {UNKNOWN}"),
    "unknown link to nothing": (lambda artifact: (artifact / "x").symlink_to("/gone"), f"x {UNKNOWN}"),
    "1,100 folders": (nested, ""),
}
"""What was done to an artifact, and what `verify` must say."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def artifact(whole: Path) -> Iterator[Path]:
    """An artifact that every user may read: pytest's own directories are closed to others."""
    directory = Path(tempfile.mkdtemp(prefix="mentor-edge-artifact-"))
    directory.chmod(0o755)
    yield Path(shutil.copytree(whole, directory / "artifact"))
    os.system(f"rm -rf {directory}")  # shutil.rmtree cannot remove 1,100 folders


def found(artifact: Path) -> str:
    """What `verify` reports; empty if nothing."""
    try:
        return "; ".join(verify(artifact))
    except ArtifactError as error:
        return error.problem


@pytest.mark.parametrize("name", ATTACKS)
def test_verify_says_what_is_wrong(artifact: Path, name: str) -> None:
    attack, message = ATTACKS[name]
    attack(artifact)
    outcome = contained(lambda: found(artifact))
    assert outcome.error is None and outcome.value and message in outcome.value


def load(path: Path) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with open_engine(path):
                pass
        except MentorEdgeError as error:
            return "; ".join([type(error).__name__, *(str(each.message) for each in caught), error.problem])
    return "opened"


@pytest.mark.parametrize("name", [name for name in ATTACKS if "manifest that" in name or "in a model" in name])
def test_no_model_is_loaded_past_such_a_manifest(artifact: Path, name: str) -> None:
    attack, message = ATTACKS[name]
    attack(artifact)
    for model in ("model-q8_0.gguf", "onnx-int4"):
        outcome = contained(lambda model=model: load(artifact / model))
        assert "ArtifactError" in outcome.value and message in outcome.value


def test_what_cannot_be_read_is_a_failure(artifact: Path) -> None:
    hidden = artifact / "gate" / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "library.so").touch()

    def as_nobody() -> str:
        os.setgid(65534)
        os.setuid(65534)
        return found(artifact)

    artifact.chmod(0o700)
    assert "not readable (Permission denied)" in contained(as_nobody).value
    artifact.chmod(0o755)
    assert contained(as_nobody).value == "gate/hidden cannot be read (Permission denied)"
    (artifact / "onnx-int4").chmod(0o700)
    assert "onnx-int4/model.onnx cannot be read" in contained(as_nobody).value
    (artifact / "model-q8_0.gguf").chmod(0o600)
    assert "model-q8_0.gguf cannot be read" in contained(as_nobody).value


@pytest.mark.parametrize("name", ["more", "refused/more"])
def test_a_model_that_no_manifest_lists_is_reported_loudly(artifact: Path, name: str) -> None:
    added(f"{name}/genai_config.json")(artifact)
    assert f"{name} is not in the manifest of the artifact {artifact}: nobody vouches for it" in load(artifact / name)
    assert "vouches" not in load(artifact / "onnx-int4")
    added(f"{name}.gguf")(artifact)
    with pytest.warns(MentorEdgeWarning, match=r"more.gguf is not in the manifest"):
        assert verify_entry(artifact / f"{name}.gguf") is None
