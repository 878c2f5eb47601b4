"""Finding the model behind a command's TARGET argument."""

from __future__ import annotations

from pathlib import Path

from mentor_edge.errors import RunError
from mentor_edge.manifest import MANIFEST
from mentor_edge.path_kind import kind_of


def resolve_target(target: Path, quant: str | None) -> Path:
    """The GGUF file, ONNX directory or model directory that TARGET means: a run, a quickstart directory, an artifact, a
    file or a model directory.

    The files of an artifact are verified against its manifest. Only files that passed the gate are used.

    Raises: RunError when TARGET is something else, ArtifactError.
    """
    from mentor_edge.export import Artifact

    if target.is_file():
        return target
    if is_run := (target / "run.json").is_file():
        from mentor_edge.recipes import Run

        Run.load(target)  # refuses a run that was never trained, even if an older version exported it
    for directory in (target, target / "artifact"):
        if (directory / MANIFEST).is_file():
            artifact = Artifact.load(directory)
            entries = [entry for entry in artifact.manifest.entries if quant in (None, entry.quant)]
            shipped = [entry for entry in entries if entry.role == "shipped"]
            if quant is None and not shipped:
                raise RunError(f"no file of {directory} passed the gate", "its refused/ folder contains the others")
            # `Artifact.path` refuses a file that was named and is not shipped, with the reason.
            chosen = next(iter(shipped or entries), None)
            return artifact.path("gguf" if chosen is None else chosen.format, quant or shipped[0].quant)
    if any((target / name).is_file() for name in ("config.json", "genai_config.json")):
        return target
    if is_run:
        raise RunError(f"{target} has no exported file yet", f"make one with: mentor-edge export {target}")
    kind = kind_of(target)
    raise RunError(
        f"{target} is not a run, an artifact, a GGUF file, or an ONNX or Hugging Face directory; it is {kind.name}",
        kind.advice or None,
    )


def evaluation_target(target: str, quant: str | None) -> str | Path:
    """What to evaluate: an endpoint's URL, or what `resolve_target` returns. For a run that was not exported yet, its
    merged student.

    Raises: RunError, ArtifactError, ExportError, StudentError, EngineError (not the URL of an endpoint).
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
