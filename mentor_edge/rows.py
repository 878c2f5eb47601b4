"""Reading JSONL files line by line. Errors name file, line, field and value."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, PlainValidator, ValidationError

from mentor_edge.errors import TaskError
from mentor_edge.readable import has_surrogates

_PROBLEMS_SHOWN = 5
_LONGEST_LINE = 16 * 2**20
"""Bytes; a row as JSON takes up to twenty times as much memory."""
_Row = TypeVar("_Row")


def read_rows(path: Path, parse: Callable[[Any], _Row], *, what: str, unique: str | None = None) -> list[_Row]:
    """Parse the JSON value on every non-empty line of a file, in order.

    `parse` raises ValueError for a value it refuses; its message is reported with file and line. `what` names the rows
    in the plural ("tasks"). `unique` names a required field whose values must all differ.

    Raises: TaskError when the file cannot be read, contains no rows, or has malformed lines; the first five of those
    are listed together.
    """
    return list(iter_rows(path, parse, what=what, unique=unique))


def iter_rows(path: Path, parse: Callable[[Any], _Row], *, what: str, unique: str | None = None) -> Iterator[_Row]:
    """Like `read_rows`, but one row at a time, for files that need not fit into memory.

    Raises: what `read_rows` raises. Malformed lines are reported only after the last row.
    """
    empty = True
    used: set[str] = set()
    problems: list[str] = []
    try:
        with path.open("rb") as lines:  # bytes, so that a line that is not UTF-8 affects no other line
            for number, line in enumerate(iter(partial(lines.readline, _LONGEST_LINE + 1), b""), start=1):
                if len(line) > _LONGEST_LINE:
                    raise TaskError(f"{path}:{number}: the line has more than {_LONGEST_LINE >> 20} MiB")
                if not line.strip():
                    continue
                empty = False
                try:
                    value = json.loads(line)
                    row = parse(value)
                    if unique is not None:
                        if str(value[unique]) in used:
                            raise ValueError(f"{unique}: {value[unique]!r} is already used on an earlier line")
                        used.add(str(value[unique]))
                except (ValueError, RecursionError) as error:
                    problems.append(f"{path}:{number}: {_reason(error)}")
                else:
                    yield row
    except OSError as error:
        raise TaskError(f"cannot read {what} from {path}: {error.strerror}", "give the path of a JSONL file") from error
    if problems:
        listed, hidden = problems[:_PROBLEMS_SHOWN], len(problems) - _PROBLEMS_SHOWN
        raise TaskError("\n".join(listed + ([f"and {hidden} more"] if hidden > 0 else [])))
    if empty:
        raise TaskError(f"{path} contains no {what}", "each line is one JSON object")


def require_file(path: Path, wanted: str) -> None:
    """Check that a file of a directory exists; `wanted` describes the right directory for the hint.

    Raises: TaskError.
    """
    if not path.is_file():
        raise TaskError(f"{path.parent} has no file {path.name}", f"give the path of {wanted}")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} (column {error.colno})"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start})"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


# Rows as pydantic models ---------------------------------------------------------------------------------------------


def _encodable(text: str) -> str:
    if has_surrogates(text):
        raise ValueError("contains half of a surrogate pair")
    return text


def _identifier(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"expected a whole number or text, found {shown(value)}")
    return _encodable(str(value))


def _finite(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, found {shown(value)}")
    if not abs(value) <= sys.float_info.max:  # a comparison never overflows, and is false for NaN
        raise ValueError(f"expected a finite number, found {shown(value)}")
    return value


Text = Annotated[str, AfterValidator(_encodable)]
"""Text that can be written to a file."""
Identifier = Annotated[str, PlainValidator(_identifier)]
"""Text, or a whole number that is read as text."""
Number = Annotated[int | float, PlainValidator(_finite)]
"""A finite number, as exact as JSON wrote it."""

_Model = TypeVar("_Model", bound=BaseModel)
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
}
"""What a field should contain, by pydantic's name of the error."""


def parse_row(model: type[_Model], row: Any, *path: str | int) -> _Model:
    """Validate the JSON value of a line, or the part of it at `path`, without converting any types.

    Raises: ValueError naming every bad field, what was expected and what was found.
    """
    try:
        return model.model_validate(row, strict=True)
    except ValidationError as error:
        raise ValueError("; ".join(_problem(mistake, path) for mistake in error.errors())) from None


def _problem(error: Mapping[str, Any], outer: Sequence[str | int]) -> str:
    kind, path = error["type"], field_path([*outer, *error["loc"]])
    if kind == "missing":
        reason = "missing"
    elif kind == "too_short":
        reason = "the list is empty"
    elif kind == "value_error":
        reason = str(error["ctx"]["error"])
    elif kind in _EXPECTED:
        reason = f"expected {_EXPECTED[kind]}, found {shown(error['input'])}"
    else:
        reason = error["msg"]
    return f"{path}: {reason}" if path else reason


def field_path(parts: Sequence[str | int]) -> str:
    """The path to a field as messages write it: "steps[0].calls[1].name"."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")


def shown(value: Any) -> str:
    """`value` as JSON of at most 60 characters, for messages."""
    text = json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace").decode()
    return text if len(text) <= 60 else f"{text[:57]}..."
