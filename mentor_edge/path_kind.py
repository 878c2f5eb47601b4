"""What a path contains, for the errors of commands that were given something else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_GGUF_MAGIC = b"GGUF"
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class PathKind:
    """What a path contains, and what can be done with it."""

    name: str
    """With its article: "a GGUF file"."""
    advice: str = ""
    """The commands that take it; empty if none does."""


def kind_of(path: str | Path) -> PathKind:
    """Look at a path. Reads four bytes of a file, and no more of a directory than its names. Never raises."""
    path = Path(path)
    try:
        return _kind_of_file(path) if path.is_file() else _kind_of_directory(path)
    except OSError as error:
        return PathKind(f"not readable ({error.strerror})")


def is_other_file(path: Path) -> bool:
    """Whether a path is a file that is known not to be a model. A damaged GGUF file may look like anything else."""
    return path.is_file() and kind_of(path).name not in ("a GGUF file", "a file")


def wrong_kind(path: str | Path, wanted: str) -> tuple[str, str]:
    """The problem and the hint of an error: `path` contains something else than `wanted`."""
    kind = kind_of(path)
    return f"{path} is {kind.name}, not {wanted}", kind.advice


def _kind_of_file(path: Path) -> PathKind:
    with path.open("rb") as file:
        begin = file.read(len(_GGUF_MAGIC))
    if begin == _GGUF_MAGIC:
        return PathKind(
            "a GGUF file",
            f"use `mentor-edge run {path} QUESTION`, `evaluate {path}` or `inspect {path}`; to train it, set `student: "
            f"{path}` in a recipe file; to export again, name the run or directory that it was made from",
        )
    if path.suffix == ".json" and (path.parent / "config.json").is_file():
        return PathKind("one file of a Hugging Face directory", f"name its directory, {path.parent}")
    if path.suffix == ".onnx":
        return PathKind("one file of an ONNX model", f"name its directory, {path.parent}")
    if path.suffix == ".safetensors":
        return PathKind("one file of a Hugging Face directory", f"name its directory, {path.parent}")
    if path.suffix in (".yaml", ".yml"):
        return PathKind("a recipe file", f"train with it: mentor-edge fit {path}")
    return PathKind("a file")


def _kind_of_directory(path: Path) -> PathKind:
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else None
    if names is None:
        return PathKind("missing")
    use = f"use `mentor-edge run {path} QUESTION` or `evaluate {path}`"
    if "manifest.json" in names:
        return PathKind("an exported artifact", f"{use}, or `verify {path}`")
    if "run.json" in names:
        return PathKind("a run", f"{use}, or `export {path}`")
    if "genai_config.json" in names:
        return PathKind("an ONNX directory", f"it is exported already: {use}")
    if "config.json" in names:
        return PathKind("a Hugging Face directory", f"{use}, or `export {path}`")
    if "adapter_config.json" in names:
        return PathKind("a PEFT adapter", "name the run that contains it, or merge it into its base first")
    if (path / "mentor" / "run.json").is_file():
        return PathKind("a quickstart directory", f"its runs are {path / 'mentor'} and {path / 'sft'}")
    if "comparison.json" in names:
        return PathKind("a comparison", f"show it again: mentor-edge report {path / 'comparison.json'}")
    files = sorted(name for name in names if name.endswith(".gguf"))
    if files:
        shown = ", ".join(files[:_SHOWN]) + (f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else "")
        return PathKind("a directory with GGUF files", f"name one of them: {shown}")
    inside = sorted(
        name for name in names if any((path / name / file).is_file() for file in ("config.json", "run.json"))
    )
    if inside:
        return PathKind("a directory of directories", f"name one inside it, such as {path / inside[0]}")
    return PathKind("an empty directory" if not names else "a directory without a model")
