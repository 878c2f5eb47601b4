"""The caller's conversation with one worker: messages behind their lengths over a socket that is never waited for.

A socket takes a message in as many parts as it likes and hands it over in as many. What it has not taken, and what has
not come in full, is kept here.
"""

from __future__ import annotations

import selectors
import socket
from contextlib import suppress

from mentor_edge.tools.execution.tool_worker import HEADER


class Channel:
    """One end of a conversation over `connection`, which belongs to the channel from now on.

    While it is open, `selector` watches it and hands out `name` when `receive` should be called. A message from the
    other end has at most `longest` bytes.
    """

    def __init__(self, connection: socket.socket, longest: int, selector: selectors.BaseSelector, name: int) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._longest = longest
        self._selector = selector
        self._name = name
        self._inbox = bytearray()
        self._outbox = bytearray()
        selector.register(connection, selectors.EVENT_READ, name)

    def send(self, message: bytes) -> None:
        """Send a message that stands behind its length already; what the socket does not take yet goes out later."""
        self._outbox += message
        self._flush()

    def receive(self) -> bytes | None:
        """The next message, without its length, or None while it has not come in full. Also sends what is left to send.

        Raises: OSError when the other end is closed, or when it announces more than `longest` bytes.
        """
        if self._outbox:
            self._flush()
        try:
            data = self._connection.recv(65536)
        except BlockingIOError:
            return None
        if not data:
            raise ConnectionResetError("the worker closed its end")
        self._inbox += data
        size = int.from_bytes(self._inbox[:HEADER], "little")
        if size > self._longest:
            raise ConnectionAbortedError(f"the worker announced {size} bytes (limit {self._longest})")
        end = HEADER + size
        if len(self._inbox) < end:
            return None
        message = bytes(self._inbox[HEADER:end])
        del self._inbox[:end]
        return message

    def close(self) -> None:
        """Close the socket; the other end notices. May be called again."""
        if self._connection.fileno() >= 0:
            self._selector.unregister(self._connection)
            self._connection.close()

    def _flush(self) -> None:
        with suppress(BlockingIOError):
            try:
                sent = self._connection.send(self._outbox)
            except (BrokenPipeError, ConnectionResetError):
                sent = len(self._outbox)  # nobody will read it, and `receive` will tell
            del self._outbox[:sent]
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox else 0)
        if self._selector.get_key(self._connection).events != wanted:
            self._selector.modify(self._connection, wanted, self._name)
