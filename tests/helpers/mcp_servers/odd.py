"""An MCP server as people write them: odd descriptions of tools, and results that are not quite MCP.

The first argument is the JSON list of its tools, as `tools/list` returns them. A call answers with its argument
`result`.
"""

from __future__ import annotations

import json
import sys

from by_hand import Message, answer, serve, write


def call(request: Message) -> None:
    arguments = request["params"].get("arguments", {})
    if "raw" in arguments:  # JSON text that Python's writer would not produce
        write(f'{{"jsonrpc": "2.0", "id": {request["id"]}, "result": {arguments["raw"]}}}\n')
    else:
        answer(request, arguments.get("result", {"content": [{"type": "text", "text": "fine"}]}))


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]), call)
