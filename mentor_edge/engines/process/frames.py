"""What goes over the pipes between a runtime's child process and its parent: JSON objects, each behind its length.

A request is `{"op": name, ...arguments}`; its reply is `{"result": ...}` or `{"error": text, "hint": text or null}`,
and before it any number of `{"alive": true}`, so that slow work can be told from a hang.
"""

from __future__ import annotations

import json
from typing import IO, Any

FRAME_LIMIT = 2 << 30
"""Bytes of one frame. The largest are logits: 5.4 bytes for each of 2048 positions of 151,936 tokens are 1.7 GB."""


class FrameError(Exception):
    """What a pipe holds is no frame, or a value is too large for one."""


def read_frame(stream: IO[bytes]) -> dict[str, Any] | None:
    """The next JSON object of a pipe, or None when the other side is gone.

    Raises: FrameError when something else was written to the pipe; nothing after it can be read.
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
        raise FrameError(f"a frame of {length} bytes is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise FrameError(f"a frame holds a {type(value).__name__} instead of an object")
    return value


def write_frame(stream: IO[bytes], value: dict[str, Any]) -> None:
    """Send a JSON object: 8 bytes of length, little-endian, then the text.

    Raises: BrokenPipeError; FrameError, with nothing written, when it is larger than `FRAME_LIMIT`.
    """
    body = json.dumps(value).encode()
    if len(body) > FRAME_LIMIT:
        raise FrameError(f"{len(body)} bytes do not fit a frame of at most {FRAME_LIMIT}")
    stream.write(len(body).to_bytes(8, "little"))
    stream.write(body)
    stream.flush()
