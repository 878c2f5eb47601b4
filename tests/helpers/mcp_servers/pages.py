"""An MCP server that lists its tools on as many pages as its argument says, one tool per page."""

from __future__ import annotations

import sys

from by_hand import answer, initialized, requests, text, tool

PAGES = int(sys.argv[1])

if __name__ == "__main__":
    for request in requests():
        match request["method"]:
            case "initialize":
                initialized(request)
            case "tools/list":
                page = int(request.get("params", {}).get("cursor", 0))
                more = {"nextCursor": str(page + 1)} if page + 1 < PAGES else {}
                answer(request, {"tools": [tool(f"tool{page}")], **more})
            case "tools/call":
                answer(request, text(request["params"]["name"]))
