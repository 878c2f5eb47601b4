"""Calls written in Python: `f(a=1)`, or a list of them.

Nothing is run: the text is parsed to a syntax tree, of which only names and literals are read.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any

from mentor_edge.messages import ToolCall
from mentor_edge.tool_calls.offered import OfferedTools
from mentor_edge.tool_calls.reading import Calls, UnreadableCallError, checked_call

MAX_PYTHON_CHARACTERS = 65_536
"""More than this in one turn is not parsed as Python: its parser needs about a second and hundreds of megabytes per
megabyte."""

STARTS_LIST = re.compile(r"\[\s{0,64}[^\W\d][\w.-]{0,200}\(")
STARTS_CALL = re.compile(r"[^\W\d][\w.]{0,200}\(")
KEYWORD_FOLLOWS = re.compile(r"\s*[^\W\d]\w{0,200}\s*=(?!=)")

_TOKEN = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"""' r"|'''(?:[^'\\]|\\.|'(?!''))*'''"
    r'|"(?:[^"\\]|\\.)*"' r"|'(?:[^'\\]|\\.)*'" r"|[\[\](){}\"']",
    re.DOTALL,
)  # fmt: skip
_JSON_CONSTANTS = {"true": True, "false": False, "null": None}


def extent(text: str, start: int) -> int:
    """The end of the brackets that open first at or after `start`.

    Raises: UnreadableCallError when they are not closed within `MAX_PYTHON_CHARACTERS`.
    """
    depth = 0
    for token in _TOKEN.finditer(text, start, start + MAX_PYTHON_CHARACTERS):
        mark = token[0]
        if len(mark) > 1:
            continue
        if mark in "\"'":
            break
        depth += 1 if mark in "[({" else -1
        if depth <= 0:
            return token.end()
    raise UnreadableCallError("a call is not closed")


def expression(text: str) -> ast.expr | None:
    """The syntax tree of one expression; None if the text is not one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a string like "\d", which the model wrote, not the user
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):  # MemoryError: nested too deeply for the parser
        return None


_LEAST_COST = 32
"""What the shortest call costs, in characters: parsing has a constant cost."""


class PythonBudget:
    """Counts what is parsed as Python in one text, which is slow."""

    def __init__(self) -> None:
        self._characters = MAX_PYTHON_CHARACTERS

    def spend(self, characters: int) -> None:
        """Raises: UnreadableCallError when the text has more Python than `MAX_PYTHON_CHARACTERS`."""
        self._characters -= max(characters, _LEAST_COST)
        if self._characters < 0:
            raise UnreadableCallError("too much Python")


def read_python(text: str, start: int, offered: OfferedTools, budget: PythonBudget) -> Calls:
    """The call or the list of calls that begins at `start`.

    Raises: one of `UNREADABLE` when there is none, or an argument is not a literal with a name.
    """
    end = extent(text, start)
    budget.spend(end - start)
    tree = expression(text[start:end])
    items = tree.elts if isinstance(tree, ast.List) else [tree]
    calls = [_call(item, offered) for item in items]
    if not calls:
        raise UnreadableCallError("no call")
    return Calls(tuple(calls), start, end, "[name(key=...)]" if isinstance(tree, ast.List) else "name(key=...)")


def is_call_list(text: str) -> bool:
    """Whether the text is a list whose first item is a call."""
    tree = expression(text) if len(text) <= MAX_PYTHON_CHARACTERS else None
    return isinstance(tree, ast.List) and bool(tree.elts) and isinstance(tree.elts[0], ast.Call)


def _call(item: ast.expr | None, offered: OfferedTools) -> ToolCall:
    if not isinstance(item, ast.Call) or not (name := _dotted_name(item.func)):
        raise UnreadableCallError("not a call by name")
    if name == "print" and not offered.offers(name) and len(item.args) == 1 and not item.keywords:
        return _call(item.args[0], offered)  # Gemma prints the results of its calls
    if item.args:
        raise UnreadableCallError("positional arguments have no names")
    arguments = {keyword.arg: _literal(keyword.value) for keyword in item.keywords}
    # Tuples, sets, bytes and keys that are not strings (and the None of **x) do not survive JSON.
    if json.loads(json.dumps(arguments)) != arguments:
        raise UnreadableCallError("a literal that JSON cannot express")
    return checked_call(offered.own_name(name), arguments)


def _literal(value: ast.expr) -> Any:
    if any(isinstance(node, ast.Name) for node in ast.walk(value)):
        value = _Constants().visit(value)
    return ast.literal_eval(value)


class _Constants(ast.NodeTransformer):
    """Models also write JSON's constants."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.copy_location(ast.Constant(_JSON_CONSTANTS[node.id]), node) if node.id in _JSON_CONSTANTS else node


def _dotted_name(function: ast.expr) -> str | None:
    parts: list[str] = []
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    return ".".join([function.id, *reversed(parts)]) if isinstance(function, ast.Name) else None
