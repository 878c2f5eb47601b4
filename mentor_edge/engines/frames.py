"""What goes over the pipes between a runtime's child process and its parent: JSON values, each behind its length.

A request is `{"op": name, ...arguments}`; its reply is `{"result": ...}` or `{"error": text, "hint": text or null}`,
and before it any number of `{"alive": true}`, so that slow work can be told from a hang.
"""

from __future__ import annotations

import json
from typing import IO, Any


def read_frame(stream: IO[bytes]) -> Any:
    """The next JSON value of a pipe, or None when the other side is gone."""
    header = stream.read(8)
    if len(header) < 8:
        return None
    length = int.from_bytes(header, "little")
    body = stream.read(length)
    return json.loads(body) if len(body) == length else None


def write_frame(stream: IO[bytes], value: Any) -> None:
    """Send a JSON value: 8 bytes of length, little-endian, then the text. Raises: BrokenPipeError."""
    body = json.dumps(value).encode()
    stream.write(len(body).to_bytes(8, "little") + body)
    stream.flush()
