"""Runs a server and leaves none of its processes behind.

Usage: `python -m mentor_edge.tools.mcp.server_supervisor CALLER COMMAND...`.

CALLER is the process id of the program that wants the server. This process stands between the two: it ends the server
when the caller dies, passes its output on as long as the lines are of a sane length, and when the server has ended,
kills every process that it leaves behind, daemons included. The server reads the caller's input directly.

What it cannot do: a supervisor that is itself killed by SIGKILL takes the server along, but not the server's children.
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

MARK = "mentor-edge: the server "
"""Begins the last line of the log, which says how the server ended."""

LINE_LIMIT = 4 * 1024**2
"""Bytes of one line of output. mcp's reader takes any length, in quadratic time: 80 s for 100 MB."""

LOG_LIMIT = 1024**2
"""Bytes of standard error after which the log starts again."""

GRACE = 1.0
"""Seconds between SIGTERM and SIGKILL. The caller (mcp.os.posix) waits 2 before it kills the supervisor."""


class Supervisor:
    """One server. Raises: OSError when the command cannot be started."""

    def __init__(self, caller: int, command: list[str]) -> None:
        self._ending = ""
        self._code: int | None = None
        self._kill_at: float | None = None
        self._line = self._logged = 0
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
        self._watch_pipe(self._server.stdout, self._pass_on)
        self._watch_pipe(self._server.stderr, self._log)

    def run(self) -> int:
        """Wait for the server and clean up after it; returns its exit code as a shell would."""
        while (code := self._reap()) is None:
            left = None if self._kill_at is None else max(0.0, self._kill_at - time.monotonic())
            if left == 0.0:
                self._signal(signal.SIGKILL)
            self._handle(left or None)
        kill_children()
        while self._handle(0.0):  # what the pipes still hold
            pass
        how = (
            f"ended with exit code {code}" if code >= 0 else f"was ended by signal {-code} ({signal.strsignal(-code)})"
        )
        say(self._ending or how)
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
            ending = os.pidfd_open(caller)
        except ProcessLookupError:
            self._stop()
            return

        def died() -> None:
            self._selector.unregister(ending)
            self._stop()

        self._selector.register(ending, selectors.EVENT_READ, died)

    def _watch_pipe(self, pipe: IO[bytes] | None, take: Callable[[bytes], None]) -> None:
        assert pipe is not None

        def read() -> None:
            chunk = os.read(pipe.fileno(), 65536)
            if chunk:
                take(chunk)
            else:
                self._selector.unregister(pipe)

        self._selector.register(pipe, selectors.EVENT_READ, read)

    def _handle(self, timeout: float | None) -> bool:
        """Wait for an event and deal with it; False when there was none in time."""
        events = self._selector.select(timeout)
        for key, _ in events:
            key.data()
        return bool(events)

    def _reap(self) -> int | None:
        """The server's exit code, None while it runs. Adopted daemons that have ended are reaped as well."""
        with suppress(ChildProcessError):
            while self._code is None:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self._server.pid:
                    self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def _stop(self) -> None:
        self._kill_at = self._kill_at or time.monotonic() + GRACE
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        if self._code is None:  # not Popen.send_signal, which may reap the server before `_reap` does
            os.kill(self._server.pid, number)

    def _pass_on(self, chunk: bytes) -> None:
        if self._ending:
            return
        _, newline, tail = chunk.rpartition(b"\n")
        self._line = len(tail) if newline else self._line + len(chunk)
        if self._line > LINE_LIMIT:
            self._ending = f"was ended: it wrote a line of more than {LINE_LIMIT} bytes"
            self._signal(signal.SIGKILL)
            return
        try:
            _write(1, chunk)
        except BrokenPipeError:  # nobody reads any more
            self._stop()

    def _log(self, chunk: bytes) -> None:
        if self._logged > LOG_LIMIT:
            os.ftruncate(2, 0)
            self._logged = 0
        self._logged += len(chunk)
        _write(2, chunk)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def say(ending: str) -> None:
    """Write the last line of the log."""
    _write(2, f"{MARK}{ending}\n".encode())


def main() -> int:
    caller, command = int(sys.argv[1]), sys.argv[2:]
    try:
        supervisor = Supervisor(caller, command)
    except OSError as error:
        say(f"cannot be started: {error.strerror}: {command[0]}")
        return 127
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
