"""A student with another chat template: a model directory whose weights are links to the student's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mentor_edge.chat.setting import TemplateSetting
from mentor_edge.engines.torch.loading import FILES_AND_WEIGHTS, closing_ids, load_tokenizer, template_record
from mentor_edge.files import atomic_directory, write_json
from mentor_edge.model_directory import (
    TEMPLATE_FILE,
    TOKENIZER_CONFIG,
    end_ids,
    from_hub,
    read_optional_json_object,
    stated_end_ids,
)
from mentor_edge.template_record import TEMPLATE_RECORD

_WRITTEN = (TOKENIZER_CONFIG, "special_tokens_map.json", "generation_config.json", TEMPLATE_FILE, TEMPLATE_RECORD)


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
    source = Path(student).resolve() if Path(student).is_dir() else from_hub(student, FILES_AND_WEIGHTS)
    tokenizer = load_tokenizer(source, template)
    record = template_record(source, template)
    with atomic_directory(target) as work:
        for file in sorted(source.iterdir()):
            if file.is_file() and file.name not in _WRITTEN:
                _link(file.resolve(), work / file.name)
        settings = read_optional_json_object(source / TOKENIZER_CONFIG)
        settings.pop("chat_template", None)
        _set_end(settings, tokenizer.eos_token)
        write_json(work / TOKENIZER_CONFIG, settings)
        if special := read_optional_json_object(source / "special_tokens_map.json"):
            _set_end(special, tokenizer.eos_token)
            write_json(work / "special_tokens_map.json", special)
        generation = read_optional_json_object(source / "generation_config.json")
        ends = end_ids(stated_end_ids(source), tokenizer.eos_token_id, closing_ids(tokenizer))
        generation["eos_token_id"] = sorted(ends)
        write_json(work / "generation_config.json", generation)
        (work / TEMPLATE_FILE).write_bytes(tokenizer.chat_template.encode())
        write_json(work / TEMPLATE_RECORD, record.model_dump())
    return target


def _link(file: Path, target: Path) -> None:
    try:
        target.symlink_to(file)
    except OSError:  # a file system without links
        shutil.copyfile(file, target)


def _set_end(settings: dict[str, Any], token: str) -> None:
    known = settings.get("eos_token")
    settings["eos_token"] = known | {"content": token} if isinstance(known, dict) else token
