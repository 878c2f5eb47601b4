"""The parser of assistant turns: one parser for every model and every runtime.

It does not need to know which model wrote the text. docs/tool_calls.md lists the spellings that it reads. It runs
nothing: JSON is decoded, and Python is parsed to a syntax tree, of which only names and literals are read.

`turn` is the entry; `visible` finds where calls begin; `tagged`, `json_calls`, `python_calls`, `xml_calls` and
`brace_calls` read them; `prose` reads those in running text; `attempts` finds those that were not read; `offered` has
what is known about the tools.
"""

from mentor_edge.tool_calls.attempts import resembles_call
from mentor_edge.tool_calls.python_calls import MAX_PYTHON_CHARACTERS
from mentor_edge.tool_calls.reading import MAX_NESTING
from mentor_edge.tool_calls.tagged import PYTHON_TAG, TOOL_CALL_CLOSE, TOOL_CALL_OPEN
from mentor_edge.tool_calls.turn import ParsedTurn, parse_turn

THINK_CLOSE = "</think>"

__all__ = [
    "MAX_NESTING",
    "MAX_PYTHON_CHARACTERS",
    "PYTHON_TAG",
    "THINK_CLOSE",
    "TOOL_CALL_CLOSE",
    "TOOL_CALL_OPEN",
    "ParsedTurn",
    "parse_turn",
    "resembles_call",
]
