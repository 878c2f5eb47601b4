"""Runs an MCP server and leaves none of its processes behind.

Usage: `python -m mentor_edge.tools.mcp.server_supervisor CALLER COMMAND...`.

CALLER is the process id of the program that uses the server. This process runs between the two. It ends the server when
the caller dies, forwards the server's output as long as its lines have a reasonable length, and kills every process
that the server leaves behind, daemons included. The server reads the caller's input directly.

Limitation: if the supervisor itself is killed by SIGKILL, the server dies too, but the server's children do not.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO

from mentor_edge.tools.execution.process_tree import adopt_orphans, die_with_parent, kill_children
from mentor_edge.tools.mcp.surrogates import SurrogateRepair

MARK = "mentor-edge: the server "
"""Start of the last line of the log, which records how the server ended."""

LINE_LIMIT = 4 * 1024**2
"""Bytes of one line of output. mcp's reader accepts any length, in quadratic time: 80 s for 100 MB."""

LOG_LIMIT = 1024**2
"""Bytes of standard error after which the log is emptied."""

GRACE_SECONDS = 1.0
"""Time between SIGTERM and SIGKILL. The caller (mcp.client.stdio) waits 2 s before it kills the supervisor."""


class Supervisor:
    """Starts one server and watches over it.

    Raises: OSError when the command cannot be started.
    """

    def __init__(self, caller: int, command: list[str]) -> None:
        self._end_reason = ""
        self._code: int | None = None
        self._kill_at: float | None = None
        self._line_bytes = self._logged_bytes = 0
        self._repair = SurrogateRepair()
        adopt_orphans()
        supervisor = os.getpid()
        self._server = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: die_with_parent(supervisor),
        )
        self._selector = selectors.DefaultSelector()
        self._watch_signals()
        self._watch_caller(caller)
        self._watch_pipe(self._server.stdout, self._forward)
        self._watch_pipe(self._server.stderr, self._log)

    def run(self) -> int:
        """Wait for the server and clean up after it. Returns its exit code as a shell would."""
        while (code := self._reap()) is None:
            left = None if self._kill_at is None else max(0.0, self._kill_at - time.monotonic())
            if left == 0.0:
                self._signal(signal.SIGKILL)
            self._handle_events(left or None)
        kill_children()
        while self._handle_events(0.0):  # output that is still in the pipes
            pass
        outcome = (
            f"ended with exit code {code}" if code >= 0 else f"was ended by signal {-code} ({signal.strsignal(-code)})"
        )
        write_last_line(self._end_reason or outcome)
        return code if code >= 0 else 128 - code

    def _watch_signals(self) -> None:
        awakened, self._wake = socket.socketpair()
        awakened.setblocking(False)
        self._wake.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        self._selector.register(awakened, selectors.EVENT_READ, lambda: awakened.recv(4096))

    def _watch_caller(self, caller: int) -> None:
        try:
            descriptor = os.pidfd_open(caller)
        except ProcessLookupError:
            self._stop()
            return

        def died() -> None:
            self._selector.unregister(descriptor)
            self._stop()

        self._selector.register(descriptor, selectors.EVENT_READ, died)

    def _watch_pipe(self, pipe: IO[bytes] | None, consume: Callable[[bytes], None]) -> None:
        assert pipe is not None

        def read() -> None:
            chunk = os.read(pipe.fileno(), 65536)
            if chunk:
                consume(chunk)
            else:
                self._selector.unregister(pipe)

        self._selector.register(pipe, selectors.EVENT_READ, read)

    def _handle_events(self, timeout: float | None) -> bool:
        """Wait for events and handle them. Returns False when there was none in time."""
        events = self._selector.select(timeout)
        for key, _ in events:
            key.data()
        return bool(events)

    def _reap(self) -> int | None:
        """The server's exit code, or None while it runs. Also reaps adopted daemons that have ended."""
        with suppress(ChildProcessError):
            while self._code is None:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self._server.pid:
                    self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def _stop(self) -> None:
        self._kill_at = self._kill_at or time.monotonic() + GRACE_SECONDS
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        if self._code is None:  # not Popen.send_signal, which may reap the server before `_reap` does
            os.kill(self._server.pid, number)

    def _forward(self, chunk: bytes) -> None:
        if self._end_reason:
            return
        _, newline, tail = chunk.rpartition(b"\n")
        self._line_bytes = len(tail) if newline else self._line_bytes + len(chunk)
        if self._line_bytes > LINE_LIMIT:
            self._end_reason = f"was ended: it wrote a line of more than {LINE_LIMIT} bytes"
            self._signal(signal.SIGKILL)
            return
        try:
            _write(1, self._repair(chunk))
        except BrokenPipeError:  # the caller has closed its end
            self._stop()

    def _log(self, chunk: bytes) -> None:
        if self._logged_bytes > LOG_LIMIT:
            os.ftruncate(2, 0)
            self._logged_bytes = 0
        self._logged_bytes += len(chunk)
        _write(2, chunk)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def write_last_line(outcome: str) -> None:
    """Log how the server ended."""
    _write(2, f"{MARK}{outcome}\n".encode())


def main() -> int:
    caller, command = int(sys.argv[1]), sys.argv[2:]
    try:
        supervisor = Supervisor(caller, command)
    except OSError as error:
        write_last_line(f"cannot be started: {error.strerror}: {command[0]}")
        return 127
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
