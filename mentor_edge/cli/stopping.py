"""Ending a command by a signal: SIGTERM and SIGHUP do what Ctrl-C does.

Without a handler, Python ends at once: temporary directories stay, and so do child processes. With one, the command
leaves through its context managers, which remove what is unfinished and end the children.
"""

from __future__ import annotations

import signal
import time
from types import FrameType

_REPEATED = 5.0
"""Seconds in which a second signal is ignored: `timeout` sends two, and the second must not stop the cleaning up."""


class Stopping:
    """Remembers which signal ended the command."""

    def __init__(self) -> None:
        self._last = -_REPEATED
        self.exit_code: int | None = None
        """128 + the signal, as shells report it; None while there was none."""

    def listen(self) -> None:
        """Handle the signals from now on, unless they are ignored, as SIGHUP is under `nohup`."""
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.exit_code = 128 + number
        now = time.monotonic()
        repeated, self._last = now - self._last < _REPEATED, now
        if not repeated:
            raise SystemExit(self.exit_code)
