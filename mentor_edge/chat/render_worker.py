"""The child process that compiles and renders chat templates: `python -m mentor_edge.chat.render_worker`.

A template is a program, and its author may be anybody. The sandbox keeps it from files and processes, but not from
computing for ever or filling the memory, even while it is compiled: Jinja computes constant expressions then. This
process limits both. The parent is `mentor_edge.chat.renderer`.

A request is the JSON list `[operation, source, arguments]`. A reply is `{"result": ...}`, or `{"stage": ..., "reason":
...}` when the template failed. A template that uses up its time ends the process instead.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, lru_cache
from multiprocessing.connection import Connection
from typing import Any

from mentor_edge.chat.environment import Fault, Template, stage
from mentor_edge.chat.limits import MEMORY, REASON, SECONDS_PER_BYTE, SECONDS_PER_REQUEST


class _LimitedTemplate(Template):
    """A template, and the processor time that it may still take.

    The time is for all its renderings together, because a template may be rendered a hundred times before a user sees
    anything. Each request adds a little: real templates take far less than that.
    """

    def __init__(self, source: str, seconds: float) -> None:
        super().__init__(source)
        self._seconds = seconds

    @contextmanager
    def limited(self, size: int) -> Iterator[None]:
        """Use at most the time that is left; `size` is that of the request. Afterwards, the kernel ends the process."""
        signal.setitimer(signal.ITIMER_PROF, self._seconds + SECONDS_PER_REQUEST + size * SECONDS_PER_BYTE)
        try:
            yield
        finally:
            left, _ = signal.setitimer(signal.ITIMER_PROF, 0)
            self._seconds = min(self._seconds, left)

    def render_as_transformers(self, options: Mapping[str, Any]) -> Any:
        """What transformers' own renderer returns."""
        render = _transformers_renderer()
        with stage("rendered"):
            return render(chat_template=self._source, **options)


@cache
def _transformers_renderer() -> Any:
    from transformers.utils.chat_template_utils import render_jinja_template

    return render_jinja_template


def _limit_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(ValueError, OSError):  # macOS does not know this limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    connection, seconds = Connection(int(sys.argv[1])), float(sys.argv[2])
    _limit_memory()

    @lru_cache(maxsize=8)
    def known(source: str) -> _LimitedTemplate:
        return _LimitedTemplate(source, seconds)

    def reply(request: bytes) -> dict[str, Any]:
        try:
            with stage("rendered"):
                operation, source, arguments = json.loads(request)
            if operation == "render_as_transformers":
                _transformers_renderer()  # two seconds that are not the template's
            with known(source).limited(len(request)):
                return {"result": getattr(known(source), operation)(*arguments)}
        except Fault as fault:
            name, reason = fault.args
            return {"stage": name, "reason": reason[:REASON]}

    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent is gone
        while True:
            connection.send_bytes(json.dumps(reply(connection.recv_bytes())).encode())


if __name__ == "__main__":
    main()
