"""The program inside the fresh interpreter of the `python` tool: reads code, runs it, reports.

Run as `python -I -S -u -c SOURCE LIMITS REPORT`: SOURCE is this file, LIMITS a JSON object of resource limits, REPORT
the number of a file descriptor. The code comes on standard input. It sees the standard library and nothing of ours, so
this file imports nothing else. The report is `{"result": value}` (absent for None) or `{"error": text}`.
"""

from __future__ import annotations

import ast
import json
import os
import resource
import sys
import traceback
from typing import Any

NAME = "<code>"


def limit(limits: dict[str, int]) -> None:
    """Set limits by their names in the `resource` module, as far as this process may."""
    for name, wanted in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (value, value))


def run(code: bytes) -> dict[str, Any]:
    """Execute a module's code; when its last statement is an expression, its value is the result."""
    try:
        tree = ast.parse(code, NAME)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(tree, NAME, "exec"), names)
        value = eval(compile(ast.Expression(last.value), NAME, "eval"), names) if isinstance(last, ast.Expr) else None
        return {} if value is None else {"result": plain(value)}
    except SystemExit as error:
        return {} if error.code in (None, 0) else {"error": described(error)}
    except BaseException as error:  # whatever the code raises is for the model to read
        return {"error": described(error)}


def plain(value: Any) -> Any:
    """The value itself where JSON can say it, its repr where not."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return repr(value)
    return value


def described(error: BaseException) -> str:
    """Type, message and line of an error in the code."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == NAME]
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == NAME else lines[-1] if lines else None
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return text if line is None else f"{text} (line {line})"


def main() -> None:
    limit(json.loads(sys.argv[1]))
    report = int(sys.argv[2])
    sys.argv[1:] = []
    os.set_inheritable(report, False)
    code = sys.stdin.buffer.read()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    found = run(code)
    sys.stdout.flush()
    os.write(report, json.dumps(found).encode())
    os._exit(0)  # threads and exit handlers of the code have no say any more


if __name__ == "__main__":
    main()
