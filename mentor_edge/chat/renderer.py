"""Compiling and rendering chat templates in a child process with limits (`render_worker`).

All threads of a program share one child. It starts with the first template, is replaced after it died, and ends with
the program. A process that was forked starts its own.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from functools import cache, lru_cache
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from mentor_edge.chat.limits import REASON, SECONDS
from mentor_edge.chat.own_templates import own_templates
from mentor_edge.errors import ConfigError, StudentError
from mentor_edge.model_directory import TEMPLATE_LIMIT
from mentor_edge.readable import has_surrogates, one_line

if TYPE_CHECKING:
    from mentor_edge.chat.environment import Template

_CACHED = 32_768
"""Bytes of a conversation up to which its rendering is kept: the rollouts of a group have the same prompt."""
_SECONDS_IN_ALL = 60.0
"""Seconds to wait for a reply, besides ten times the processor seconds of a template: the process may be stopped."""
_VARIABLE = "MENTOR_EDGE_TEMPLATE_SECONDS"
_HINT = "use a template of a source that you trust, or set template: hermes or neutral"


class TemplateFault(Exception):
    """A template cannot be used. `stage` is "read", "compiled", "rendered" or "stopped"; the text is the reason."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage

    def error(self, name: str, conversation: str = "") -> StudentError:
        """The error about the template `name`; `conversation` outlines what was rendered."""
        reason = one_line(" ".join(str(self).split()), REASON)
        if self.stage == "read":
            return StudentError(f"the chat template {name!r} is not valid Jinja: {reason}")
        if self.stage == "compiled":
            return StudentError(f"the chat template {name!r} cannot be compiled: {reason}")
        if self.stage == "stopped":
            return StudentError(f"the chat template {name!r} cannot be used: {reason}", _HINT)
        return StudentError(f"the chat template {name!r} cannot render this conversation ({conversation}): {reason}")


def check(source: str) -> None:
    """Compile a template. Raises: TemplateFault."""
    _asked(source, "check")


def variables(source: str) -> frozenset[str]:
    """The variables that a template reads, besides functions and those that it only sets. Raises: TemplateFault."""
    return frozenset(_asked(source, "variables"))


def render(source: str, values: dict[str, Any]) -> str:
    """The text that a template writes for a conversation. Raises: TemplateFault."""
    if source in own_templates():
        return _rendered_here(source, values)
    arguments = _as_json(values)
    # A date in a prompt must not stay for as long as the program runs.
    kept = len(arguments) <= _CACHED and "strftime_now" not in source
    text: str = (_kept if kept else _asked)(source, "render", arguments)
    return text


def render_as_transformers(source: str, options: dict[str, Any]) -> Any:
    """The result of transformers' `render_jinja_template` with these further arguments. Raises: TemplateFault."""
    return _asked(source, "render_as_transformers", _as_json(options))


def _as_json(values: dict[str, Any]) -> str:
    try:
        return json.dumps([values])
    except (TypeError, ValueError, RecursionError) as error:
        raise TemplateFault("rendered", f"the conversation is not JSON: {error}") from error


def _rendered_here(source: str, values: dict[str, Any]) -> str:
    """As `render`, but three times as fast: for our own templates, with which nano students are made and trained."""
    from mentor_edge.chat.environment import Fault

    try:
        return _own(source).render(values)
    except Fault as fault:
        raise TemplateFault(*fault.args) from fault


@cache
def _own(source: str) -> Template:
    from mentor_edge.chat.environment import Template  # loads Jinja

    return Template(source)


class _Child:
    """The process, and the connection to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._stopped: dict[str, str] = {}

    def ask(self, source: str, request: bytes) -> dict[str, Any]:
        """The reply to a request about a template. Raises: TemplateFault when it had to be stopped."""
        with self._lock:
            if source in self._stopped:  # it would take its whole time again
                raise TemplateFault("stopped", self._stopped[source])
            code = None
            for _ in range(2):
                try:
                    reply: dict[str, Any] = json.loads(self._exchange(request))
                    return reply
                except TimeoutError as error:
                    self.close(kill=True)
                    self._stopped[source] = str(error)
                    raise TemplateFault("stopped", str(error)) from None
                except (EOFError, ConnectionError):
                    code = self.close()
                except BaseException:  # also on Ctrl-C: otherwise the next request would read this one's reply
                    self.close(kill=True)
                    raise
                if code not in (-signal.SIGKILL, -signal.SIGTERM):
                    break  # otherwise somebody else ended it
            reason = _reason(code)
            if code is not None and code < 0:
                self._stopped[source] = reason
            raise TemplateFault("stopped", reason)

    def _exchange(self, request: bytes) -> bytes:
        if self._connection is None:
            self._connection = self._started()
        self._connection.send_bytes(request)
        if not self._connection.poll(wait := _SECONDS_IN_ALL + 10 * _seconds()):
            raise TimeoutError(f"the process that renders it gave no answer within {wait:g} s")
        return self._connection.recv_bytes()

    def _started(self) -> Connection:
        seconds = _seconds()
        ours, theirs = multiprocessing.Pipe()
        with theirs:
            # -P keeps the working directory off the module path. A session of its own: Ctrl-C is for the parent, whose
            # end closes the connection.
            command = [sys.executable, "-P", "-m", "mentor_edge.chat.render_worker", str(theirs.fileno()), str(seconds)]
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # numpy's threads would take all addresses
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except OSError as error:
                raise TemplateFault("stopped", f"the process that renders it cannot be started: {error}") from error
        return ours

    def close(self, *, kill: bool = False) -> int | None:
        """End the process. Returns its exit code, None if there is none."""
        process, self._process = self._process, None
        self.disconnect()
        if process is None:
            return None
        if not kill:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=1.0)
        process.kill()
        return process.wait()

    def disconnect(self) -> None:
        """Close this end of the connection; the process then ends."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None


_child = _Child()


def _forget() -> None:
    """In a forked process: the child belongs to the parent."""
    global _child
    _child.disconnect()
    _child = _Child()


os.register_at_fork(after_in_child=_forget)
atexit.register(lambda: _child.close())


def _asked(source: str, operation: str, arguments: str = "[]") -> Any:
    """The result of an operation. Raises: TemplateFault."""
    if len(source) > TEMPLATE_LIMIT:
        raise TemplateFault("stopped", f"it has {len(source):,} characters; the limit is {TEMPLATE_LIMIT:,}")
    if has_surrogates(source):
        raise TemplateFault("read", "it is not Unicode text")
    reply = _child.ask(source, f"[{json.dumps(operation)}, {json.dumps(source)}, {arguments}]".encode())
    if "stage" in reply:
        raise TemplateFault(reply["stage"], reply["reason"])
    return reply["result"]


_kept = lru_cache(maxsize=512)(_asked)


def _seconds() -> float:
    """The processor seconds of a template. Raises: ConfigError."""
    text = os.environ.get(_VARIABLE, "")
    try:
        seconds = float(text) if text else SECONDS
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 3600:
        raise ConfigError([f"the environment variable {_VARIABLE} is {text!r}, not a number of seconds"])
    return seconds


def _reason(code: int | None) -> str:
    if code == -signal.SIGPROF:
        return f"it computes for more than {_seconds():g} s"
    if code is not None and code < 0:
        return f"the process that renders it was ended by signal {-code} ({signal.strsignal(-code)})"
    return f"the process that renders it ended with exit code {code}"
