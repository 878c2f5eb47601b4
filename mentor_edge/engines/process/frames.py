"""The messages between a runtime's child process and its parent: JSON objects on pipes, each preceded by its length.

A request is `{"op": name, ...arguments}`. Its reply is `{"result": ...}` or `{"error": text, "hint": text or null}`.
Before the reply, the child may send any number of `{"alive": true}`, so that the parent can tell slow work from a hang.
A result may be a dataclass, which travels as an object; the parent's typed methods build it again.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

FRAME_LIMIT = 2 << 30
"""Bytes of one frame. The largest are logits: 5.4 bytes for each of 2048 positions of 151,936 tokens are 1.7 GB."""


class FrameError(Exception):
    """The other side wrote something that is not a frame, or a value is too large for one."""


@dataclass(frozen=True, slots=True)
class EncodedLogits:
    """Float32 logits `[positions, vocabulary]` in a frame: the shape, and the values as base64."""

    shape: list[int]
    float32: str

    @classmethod
    def of(cls, rows: Sequence[npt.NDArray[np.float32]]) -> Self:
        values = np.stack(rows)
        return cls(list(values.shape), base64.b64encode(values.tobytes()).decode())

    def array(self) -> npt.NDArray[np.float32]:
        return np.frombuffer(base64.b64decode(self.float32), np.float32).reshape(self.shape)


def read_frame(stream: IO[bytes]) -> dict[str, Any] | None:
    """The next JSON object from a pipe, or None when the other side is gone.

    Raises: FrameError when the pipe contains something else; nothing after it can be read.
    """
    header = stream.read(8)
    if len(header) < 8:
        return None
    length = int.from_bytes(header, "little")
    if length > FRAME_LIMIT:
        raise FrameError(f"a frame of {length} bytes was announced, more than {FRAME_LIMIT}")
    body = stream.read(length)
    if len(body) < length:
        return None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a frame of {length} bytes is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise FrameError(f"a frame contains a {type(value).__name__} instead of an object")
    return value


def write_frame(stream: IO[bytes], value: dict[str, Any]) -> None:
    """Send a JSON object: 8 bytes of length, little-endian, then the text.

    Raises: BrokenPipeError; FrameError, with nothing written, when it is larger than `FRAME_LIMIT`.
    """
    body = json.dumps(value, default=_fields).encode()
    if len(body) > FRAME_LIMIT:
        raise FrameError(f"{len(body)} bytes do not fit a frame of at most {FRAME_LIMIT}")
    stream.write(len(body).to_bytes(8, "little"))
    stream.write(body)
    stream.flush()


def _fields(value: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(value):
        raise TypeError(f"a {type(value).__name__} cannot be sent")
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
