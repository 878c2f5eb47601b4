"""Reading a JSON file that may come from anywhere: a regular file of bounded size that contains one object."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

LARGEST = 16 * 2**20
"""Largest file in bytes. Configurations and manifests have some thousands."""
LARGEST_TOKENIZER = 256 * 2**20
"""Largest tokenizer.json or tokenizer_config.json in bytes; with 262,144 tokens, it has 33 million."""
_BYTES_PER_VALUE = 32
"""A tokenizer.json of 33 million bytes has two million values; eight million take half a gigabyte of memory."""


def read_bounded(path: Path, largest: int = LARGEST) -> bytes:
    """The content of a regular file, or of one that a link leads to. A pipe or a device would never end.

    Raises:
        OSError: It is missing or cannot be read.
        ValueError: It is not a regular file, or has more than `largest` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer would otherwise block here
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(largest + 1)
    finally:
        os.close(descriptor)
    if len(content) > largest:
        raise ValueError(f"it has more than {largest >> 20} MiB")
    return content


def read_json(path: Path, *, largest: int = LARGEST, strict: bool = False) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: The file.
        largest: As in `read_bounded`. It may contain one value, on average, for each `_BYTES_PER_VALUE` of them.
        strict: Refuse what readers of JSON understand differently: a key that occurs twice, NaN and infinity.

    Raises:
        OSError: As `read_bounded`.
        ValueError: As `read_bounded`, or the content is not such an object.
    """
    content = read_bounded(path, largest)
    check_values(content, largest // _BYTES_PER_VALUE)
    options: dict[str, Any] = {"object_pairs_hook": _unique_keys, "parse_constant": _refuse_constant} if strict else {}
    try:
        value = json.loads(content.decode("utf-8"), **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def check_values(content: bytes, most: int) -> None:
    """Refuse JSON with more than `most` values, about: an empty list takes 3 bytes there, and 64 in memory.

    Raises: ValueError.
    """
    if (count := sum(map(content.count, (b",", b"[", b"{")))) > most:
        raise ValueError(f"it has {count:,} values; the limit is {most:,}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key occurs twice")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
