"""An MCP server that speaks only the 2026 protocol: it refuses `initialize` and does not know `ping`."""

from __future__ import annotations

import os

from by_hand import answer, requests, send, text, tool

CACHE = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}

if __name__ == "__main__":
    for request in requests():
        match request["method"]:
            case "server/discover":
                answer(request, {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, **CACHE})
            case "tools/list":
                answer(request, {"tools": [tool("work", wait={"type": "boolean"})], **CACHE})
            case "tools/call":
                if not request["params"]["arguments"].get("wait"):
                    answer(request, {"resultType": "complete", **text(str(os.getpid()))})
            case method if "id" in request:
                error = {"code": -32601, "message": f"{method} is unknown"}
                send({"jsonrpc": "2.0", "id": request["id"], "error": error})
