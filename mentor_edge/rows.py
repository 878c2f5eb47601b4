"""JSONL files read line by line, with what is wrong in them told by file and line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, PlainValidator, ValidationError

from mentor_edge.errors import TaskError

_PROBLEMS_SHOWN = 5
_Row = TypeVar("_Row")


def read_rows(path: Path, parse: Callable[[Any], _Row], *, what: str, unique: str | None = None) -> list[_Row]:
    """`parse` of the JSON value on every non-empty line of `path`, in order.

    `parse` raises ValueError for a value it refuses; the reason is told with file and line. `what` names the rows in
    the plural ("tasks"), `unique` a required field of which no two rows may hold the same value.

    Raises: TaskError when the file cannot be read, holds no rows, or has malformed lines; the first five of those are
    listed together.
    """
    return list(iter_rows(path, parse, what=what, unique=unique))


def iter_rows(path: Path, parse: Callable[[Any], _Row], *, what: str, unique: str | None = None) -> Iterator[_Row]:
    """`read_rows`, one row at a time: for files that need not fit into memory.

    Raises: what `read_rows` raises, malformed lines only after the last row.
    """
    found = False
    seen: set[str] = set()
    problems: list[str] = []
    try:
        with path.open("rb") as lines:  # bytes, so that a line that is not UTF-8 costs no other line
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                found = True
                try:
                    value = json.loads(line)
                    row = parse(value)
                    if unique is not None:
                        if str(value[unique]) in seen:
                            raise ValueError(f"{unique}: {value[unique]!r} stands on an earlier line too")
                        seen.add(str(value[unique]))
                except (ValueError, RecursionError) as error:
                    problems.append(f"{path}:{number}: {_reason(error)}")
                else:
                    yield row
    except OSError as error:
        raise TaskError(f"cannot read {what} from {path}: {error.strerror}", "give the path of a JSONL file") from error
    if problems:
        shown, hidden = problems[:_PROBLEMS_SHOWN], len(problems) - _PROBLEMS_SHOWN
        raise TaskError("\n".join(shown + ([f"and {hidden} more"] if hidden > 0 else [])))
    if not found:
        raise TaskError(f"{path} holds no {what}", "each line is one JSON object")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} (column {error.colno})"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start})"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


# Rows as pydantic models ---------------------------------------------------------------------------------------------


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair; no file or tokenizer accepts it
        raise ValueError("contains half of a surrogate pair") from None
    return text


def _identifier(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"expected a whole number or text, found {shown(value)}")
    return _encodable(str(value))


def _finite(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, found {shown(value)}")
    if not abs(value) <= sys.float_info.max:  # comparing never overflows, and NaN is not below anything
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
        raise ValueError("; ".join(_problem(one, path) for one in error.errors())) from None


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
