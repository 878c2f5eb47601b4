"""A student with another chat template: a model directory whose weights are links to the student's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from mentor_edge.chat.setting import TemplateSetting
from mentor_edge.engines.torch.loading import RECORD, closing_ids, load_tokenizer, template_record
from mentor_edge.errors import StudentError
from mentor_edge.files import atomic_directory, write_json
from mentor_edge.model_directory import TEMPLATE_FILE, end_ids

_WRITTEN = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json", TEMPLATE_FILE, RECORD)
_FOR_TRANSFORMERS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def templated_directory(student: str, target: Path, template: TemplateSetting) -> Path:
    """Save the student with the template that `template` means, its arguments, and the end tokens that belong to it.

    Everything that reads a model directory then agrees about them: transformers, the exporters, other programs. Weights
    and the other files are links to those of the student.

    Args:
        student: a Hugging Face directory, or a hub id if a hub can be reached.
        target: the directory to make; one that exists is kept as it is.
        template: the template.

    Returns:
        `target`.

    Raises:
        StudentError: when the student cannot be read, or the template does not suit it.
        OutputError: when the directory cannot be written.
    """
    if target.is_dir():
        return target
    source = _local(student)
    tokenizer = load_tokenizer(source, template)
    record = template_record(source, template)
    with atomic_directory(target) as work:
        for file in sorted(source.iterdir()):
            if file.is_file() and file.name not in _WRITTEN:
                _link(file.resolve(), work / file.name)
        settings = _object(source / "tokenizer_config.json")
        settings.pop("chat_template", None)
        _set_end(settings, tokenizer.eos_token)
        write_json(work / "tokenizer_config.json", settings)
        if special := _object(source / "special_tokens_map.json"):
            _set_end(special, tokenizer.eos_token)
            write_json(work / "special_tokens_map.json", special)
        generation = _object(source / "generation_config.json")
        stated = generation.get("eos_token_id", _object(source / "config.json").get("eos_token_id"))
        generation["eos_token_id"] = sorted(end_ids(stated, tokenizer.eos_token_id, closing_ids(tokenizer)))
        write_json(work / "generation_config.json", generation)
        (work / TEMPLATE_FILE).write_bytes(tokenizer.chat_template.encode())
        write_json(work / RECORD, record.model_dump())
    return target


def _local(student: str) -> Path:
    if Path(student).is_dir():
        return Path(student).resolve()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(student, allow_patterns=_FOR_TRANSFORMERS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise StudentError(
            f"cannot load the student {student!r}: {str(error).splitlines()[0]}",
            "give a directory with config.json, model.safetensors and a tokenizer (a hub id needs a reachable hub)",
        ) from error


def _link(file: Path, target: Path) -> None:
    try:
        target.symlink_to(file)
    except OSError:  # a file system without links
        shutil.copyfile(file, target)


def _object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file. Raises: StudentError."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudentError(f"cannot read {path}: {error}", "copy the model again") from error
    if not isinstance(value, dict):
        raise StudentError(f"{path} does not contain a JSON object", "copy the model again")
    return value


def _set_end(settings: dict[str, Any], token: str) -> None:
    known = settings.get("eos_token")
    settings["eos_token"] = known | {"content": token} if isinstance(known, dict) else token
