"""The program in the fresh interpreter of the `python` tool: reads code, runs it and reports the result.

It is run as `python -I -S -u -c SOURCE LIMITS REPORT`. SOURCE is the text of this file, LIMITS a JSON object of
resource limits, REPORT the number of a file descriptor. The code arrives on standard input. The interpreter sees only
the standard library, so this file may import nothing else. The report is `{"result": value}` (without the key for None)
or `{"error": text}`.
"""

from __future__ import annotations

import ast
import json
import os
import resource
import sys
import traceback
from collections.abc import Mapping
from typing import Any

NAME = "<code>"


def set_limits(limits: Mapping[str, int]) -> None:
    """Limit this process, and all it starts, for good. Keys are names in the `resource` module ("AS" is RLIMIT_AS).

    A limit above the present hard limit is lowered to that. Tool workers use this function as well.
    """
    for name, requested in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = requested if hard == resource.RLIM_INFINITY else min(requested, hard)
        resource.setrlimit(kind, (value, value))


def run(code: bytes) -> dict[str, Any]:
    """Execute a module's code. If its last statement is an expression, the value of that is the result."""
    try:
        tree = ast.parse(code, NAME)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(tree, NAME, "exec"), names)  # noqa: S102 (what this process is for)
        if not isinstance(last, ast.Expr):
            return {}
        value = eval(compile(ast.Expression(last.value), NAME, "eval"), names)  # noqa: S307 (the same)
        return {} if value is None else {"result": as_json(value)}
    except SystemExit as error:
        return {} if error.code in (None, 0) else {"error": describe(error)}
    except BaseException as error:  # the model reads what the code raises
        return {"error": describe(error)}


def as_json(value: Any) -> Any:
    """The value itself if JSON can express it, otherwise its repr."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return repr(value)
    return value


def describe(error: BaseException) -> str:
    """Type, message and line of an error in the code."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == NAME]
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == NAME else lines[-1] if lines else None
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return text if line is None else f"{text} (line {line})"


def main() -> None:
    set_limits(json.loads(sys.argv[1]))
    report = int(sys.argv[2])
    sys.argv[1:] = []
    os.set_inheritable(report, False)
    code = sys.stdin.buffer.read()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    outcome = run(code)
    sys.stdout.flush()
    os.write(report, json.dumps(outcome).encode())
    os._exit(0)  # skip threads and exit handlers of the code


if __name__ == "__main__":
    main()
