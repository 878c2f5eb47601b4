"""What a command's TARGET argument may be."""

from __future__ import annotations

from pathlib import Path

from mentor_edge.errors import RunError
from mentor_edge.manifest import MANIFEST


def resolve_target(target: Path, quant: str | None) -> Path:
    """The GGUF file, ONNX directory or model directory behind a run, a quickstart directory, an artifact, a file or a
    model.

    Files of an artifact are verified against its manifest, and only those that passed the gate are taken.

    Raises: RunError when TARGET is none of these, ArtifactError.
    """
    from mentor_edge.export import Artifact

    if target.is_file():
        return target
    for directory in (target, target / "artifact"):
        if (directory / MANIFEST).is_file():
            artifact = Artifact.load(directory)
            entries = [entry for entry in artifact.manifest.entries if quant in (None, entry.quant)]
            shipped = [entry for entry in entries if entry.role == "shipped"]
            if quant is None and not shipped:
                raise RunError(f"no file of {directory} passed the gate", "its refused/ folder holds the others")
            # What was asked for by name and is not shipped is refused there, with the reason.
            chosen = next(iter(shipped or entries), None)
            return artifact.path("gguf" if chosen is None else chosen.format, quant or shipped[0].quant)
    if any((target / name).is_file() for name in ("config.json", "genai_config.json")):
        return target
    if (target / "run.json").is_file():
        raise RunError(f"{target} has no exported file yet", f"make one with: mentor-edge export {target}")
    raise RunError(f"{target} is no run, artifact, GGUF file, ONNX or Hugging Face directory")


def evaluation_target(target: str, quant: str | None) -> str | Path:
    """What to evaluate: an endpoint's URL as it is, or what `resolve_target` finds; of a run that was not exported yet,
    its merged student.

    Raises: RunError, ArtifactError, ExportError, StudentError, EngineError (no URL of an endpoint).
    """
    from mentor_edge.engines.open import is_endpoint

    if is_endpoint(target):
        from mentor_edge.engines.endpoint import checked_url

        return checked_url(target)
    path = Path(target)
    if (path / "run.json").is_file() and not (path / "artifact" / MANIFEST).is_file():
        if quant is not None:
            raise RunError(f"{path} has no exported file yet", f"make one with: mentor-edge export {path}")
        from mentor_edge.recipes import Run

        return Run.load(path).merged()
    return resolve_target(path, quant)
