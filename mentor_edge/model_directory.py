"""What a Hugging Face directory states about conversations: the tokens that end a turn, and the chat template.

Every runtime and every exporter derives both here, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mentor_edge.errors import StudentError

TEMPLATE_FILE = "chat_template.jinja"


def end_ids(*stated: int | Iterable[int] | None) -> frozenset[int]:
    """The token ids that end a turn.

    Each argument is what one source states: the tokenizer's `eos_token_id`, or the `eos_token_id` of
    generation_config.json or genai_config.json, which may be one id, several or null.
    """
    ids: set[int] = set()
    for value in stated:
        ids |= set() if value is None else {value} if isinstance(value, int) else set(value)
    return frozenset(ids)


def stored_template(directory: Path, entry: Any) -> str | None:
    """The chat template of a directory, as transformers finds it; None if it has none.

    chat_template.jinja takes precedence over `entry`, the `chat_template` of tokenizer_config.json. An entry may be a
    list of named templates; a single one counts as the template.

    Raises: StudentError when the file cannot be read or the entry names several templates.
    """
    file = directory / TEMPLATE_FILE
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StudentError(f"cannot read {file}: {error}", "copy the model again") from error
    if isinstance(entry, list):
        if len(entry) != 1:
            raise several_templates([str(template.get("name")) for template in entry])
        entry = entry[0].get("template")
    if not isinstance(entry, str | None):
        raise StudentError(f"{directory} has a chat_template that is not text", "copy the model again")
    return entry


def several_templates(names: Iterable[str]) -> StudentError:
    """The error about a model with several chat templates: nothing tells which one it was trained with."""
    listed = ", ".join(names)
    return StudentError(
        f"the tokenizer has several chat templates ({listed})", "keep the one that the model was trained with"
    )
