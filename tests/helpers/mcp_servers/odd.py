"""An MCP server as people write them: odd descriptions of tools, and results that are not quite MCP.

The first argument is the JSON list of its tools, as `tools/list` returns them; the second what it says about itself. A
call answers with its argument `result`, or with `envelope` as all of the answer but its id.
"""

from __future__ import annotations

import json
import sys

from by_hand import Message, answer, send, serve, write


def call(request: Message) -> None:
    arguments = request["params"].get("arguments", {})
    if "raw" in arguments:  # JSON text that Python's writer would not produce
        write(f'{{"jsonrpc": "2.0", "id": {request["id"]}, "result": {arguments["raw"]}}}\n')
    elif "envelope" in arguments:
        send({"jsonrpc": "2.0", "id": request["id"], **arguments["envelope"]})
    else:
        answer(request, arguments.get("result", {"content": [{"type": "text", "text": "fine"}]}))


if __name__ == "__main__":
    about = {"protocolVersion": "2025-06-18", **json.loads(sys.argv[2])} if len(sys.argv) > 2 else None
    serve(json.loads(sys.argv[1]), call, about)
