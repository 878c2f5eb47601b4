"""A slow MCP server: `never` answers nothing, `late` answers a call after `seconds`, `deaf` stops reading at a call.

It answers a call without `seconds` at once: with how many calls it was asked to cancel, and its process id.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from by_hand import Message, answer, initialized, requests, text, tool

HOW = sys.argv[1]
cancelled: list[int] = []


def call(request: Message) -> None:
    arguments = request["params"].get("arguments", {})
    if HOW == "deaf" and "seconds" in arguments:
        time.sleep(arguments["seconds"])
    if "seconds" in arguments:
        timer = threading.Timer(arguments["seconds"], answer, (request, text("late")))
        timer.daemon = True
        timer.start()
    else:
        answer(request, text(f"{len(cancelled)} cancelled in process {os.getpid()}"))


if __name__ == "__main__":
    for request in requests():
        match request["method"]:
            case _ if HOW == "never":
                pass
            case "initialize":
                initialized(request)
            case "tools/list":
                answer(request, {"tools": [tool("work", seconds={"type": "number"})]})
            case "tools/call":
                call(request)
            case "ping":
                answer(request, {})
            case "notifications/cancelled":
                cancelled.append(request["params"]["requestId"])
