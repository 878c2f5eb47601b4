"""An MCP server with malformed messages: `start` from the first one, `calls` as each call names."""

from __future__ import annotations

import json
import sys

from by_hand import Message, answer, requests, send, serve, text, tool, write


def call(request: Message) -> None:
    good = {"jsonrpc": "2.0", "id": request["id"], "result": text("well said")}
    match request["params"].get("arguments", {}).get("how"):
        case "garbage around":
            write("Loading model... 100%\n\x00\x01{{{\n\n")
            send(good)
            write("[1, 2\n")
        case "invalid utf-8":
            sys.stdout.buffer.write(b"\xff\xfe\n" + json.dumps(good).encode() + b"\n")
            sys.stdout.flush()
        case "only garbage":
            write("It is 42.\n")
        case "wrong id":
            send(good | {"id": 10**6})
        case "wrong version":
            send(good | {"jsonrpc": "1.0"})
        case "half a line":
            write(json.dumps(good)[:30])
        case "wrong shape":
            answer(request, {"content": 7})
        case "a list":
            answer(request, [1, 2])
        case "null":
            answer(request, None)
        case "error":
            send({"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32000, "message": "out of cheese"}})
        case "wrong error":
            send({"jsonrpc": "2.0", "id": request["id"], "error": "out of cheese"})
        case "twice":
            send(good)
            send(good)
        case "asks back":
            send({"jsonrpc": "2.0", "id": "q", "method": "sampling/createMessage", "params": {}})
            send(good)
        case _:
            send(good)


if __name__ == "__main__":
    match sys.argv[1]:
        case "start":
            for _ in requests():
                write("command not understood\n")
        case "shape":
            for request in requests():
                answer(request, {"hello": "world"})
        case _:
            serve([tool("work", how={"type": "string"})], call)
