"""Reading YAML: recipe files, settings on the command line, the first lines of a model card."""

from __future__ import annotations

from typing import Any

import yaml


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises: ValueError with the reason, on one line. PyYAML itself raises almost anything for a value that does not fit
    its type, such as the date 2026-13-45 or `!!bool x`.
    """
    try:
        return yaml.safe_load(text)
    except Exception as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
