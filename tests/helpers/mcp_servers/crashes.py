"""An MCP server that crashes when its argument says: `start`, `list` or `call` (then for `how` "crash" only)."""

from __future__ import annotations

import os
import signal
import sys

from by_hand import Message, answer, initialized, requests, serve, text, tool

MOMENT = sys.argv[1]


def end() -> None:
    print("the disk is on fire", file=sys.stderr, flush=True)
    os._exit(3)


def call(request: Message) -> None:
    match request["params"].get("arguments", {}).get("how"):
        case "crash":
            end()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "after":
            answer(request, text("the last answer"))
            end()
    answer(request, text("still here"))


if __name__ == "__main__":
    if MOMENT == "start":
        end()
    if MOMENT == "list":
        for request in requests():
            if request["method"] == "tools/list":
                end()
            if request["method"] == "initialize":
                initialized(request)
    serve([tool("work", how={"type": "string"})], call)
