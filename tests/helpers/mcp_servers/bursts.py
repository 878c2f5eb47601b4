"""An MCP server that floods the client in the way a call names: for ever, or with a fixed number of messages."""

from __future__ import annotations

import itertools
import json
import sys

from by_hand import Message, answer, send, serve, text, tool, write

LOG = json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x" * 200}})
PING = '{"jsonrpc": "2.0", "id": 1, "method": "ping"}'


def call(request: Message) -> None:
    arguments = request["params"].get("arguments", {})
    match arguments.get("how"):
        case "some messages":
            write((LOG + "\n") * 2000)
        case "messages":
            for _ in itertools.count():
                write((LOG + "\n") * 100)
        case "requests":  # and never reads the answers
            for _ in itertools.count():
                write((PING + "\n") * 100)
        case "a message":
            send(text("x" * 100_000_000))
        case "errors":
            for _ in range(200):
                print("E" * 100_000, file=sys.stderr)
    answer(request, text("done"))


if __name__ == "__main__":
    serve([tool("work", how={"type": "string"})], call)
