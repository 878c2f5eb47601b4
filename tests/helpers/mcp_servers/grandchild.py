"""An MCP server that leaves three children behind: a plain one, one in a new session, and a daemon (forked twice).

All of them keep its standard streams open and ignore SIGTERM, SIGHUP and SIGINT. With `stubborn`, so does the server.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from by_hand import Message, answer, serve, text, tool

children: list[int] = []


def linger() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(120)  # longer than any test; if a test fails, they still end
    os._exit(0)


def leave_children() -> None:
    for new_session in (False, True):
        pid = os.fork()
        if pid == 0:
            if new_session:
                os.setsid()
            linger()
        children.append(pid)
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.setsid()
        daemon = os.fork()
        if daemon == 0:
            linger()
        os.write(writer, str(daemon).encode())
        os._exit(0)
    os.waitpid(middle, 0)
    children.append(int(os.read(reader, 32)))


def call(request: Message) -> None:
    if request["params"].get("arguments", {}).get("end"):
        os._exit(4)
    answer(request, text(" ".join(map(str, [os.getpid(), *children]))))


if __name__ == "__main__":
    leave_children()
    serve([tool("work", end={"type": "boolean"})], call)
    if "stubborn" in sys.argv:
        linger()
