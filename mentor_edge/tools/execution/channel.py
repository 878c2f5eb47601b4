"""The caller's end of a conversation with one worker: length-prefixed messages over a non-blocking socket.

A socket may accept or deliver a message in several parts. What is not sent yet, and what is not complete yet, is
buffered here.
"""

from __future__ import annotations

import selectors
import socket
from contextlib import suppress

from mentor_edge.tools.execution.tool_worker import HEADER_BYTES


class Channel:
    """Sends and receives messages over `connection`, which the channel owns from now on.

    While the channel is open, `selector` watches the socket; its key carries `worker_id` when `receive` should be
    called. An incoming message may have at most `max_message_bytes`.
    """

    def __init__(
        self, connection: socket.socket, max_message_bytes: int, selector: selectors.BaseSelector, worker_id: int
    ) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._max_message_bytes = max_message_bytes
        self._selector = selector
        self._worker_id = worker_id
        self._inbox = bytearray()
        self._outbox = bytearray()
        selector.register(connection, selectors.EVENT_READ, worker_id)

    def send(self, message: bytes) -> None:
        """Send a message that already has its length prefix. What the socket does not accept now is sent later."""
        self._outbox += message
        self._flush()

    def receive(self) -> bytes | None:
        """Return the next message without its prefix, or None while it is incomplete. Also sends what is buffered.

        Raises: OSError when the other end is closed, or announces more than `max_message_bytes`.
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
        size = int.from_bytes(self._inbox[:HEADER_BYTES], "little")
        if size > self._max_message_bytes:
            raise ConnectionAbortedError(f"the worker announced {size} bytes (limit {self._max_message_bytes})")
        end = HEADER_BYTES + size
        if len(self._inbox) < end:
            return None
        message = bytes(self._inbox[HEADER_BYTES:end])
        del self._inbox[:end]
        return message

    def close(self) -> None:
        """Close the socket, which the other end notices. Safe to call twice."""
        if self._connection.fileno() >= 0:
            self._selector.unregister(self._connection)
            self._connection.close()

    def _flush(self) -> None:
        with suppress(BlockingIOError):
            try:
                sent = self._connection.send(self._outbox)
            except (BrokenPipeError, ConnectionResetError):
                sent = len(self._outbox)  # it cannot arrive; the next `receive` reports that
            del self._outbox[:sent]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox else 0)
        if self._selector.get_key(self._connection).events != events:
            self._selector.modify(self._connection, events, self._worker_id)
