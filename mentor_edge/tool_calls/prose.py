"""Calls in Python's form in running text, and what only resembles one: a formula, a link, a signature, a mention."""

from __future__ import annotations

import builtins
import re
from collections.abc import Container, Iterator, Sequence
from functools import lru_cache

from mentor_edge.messages import ToolCall
from mentor_edge.tool_calls.attempts import PARTS, TYPE_NAME, boxed, follows_word, normal
from mentor_edge.tool_calls.offered import OfferedTools
from mentor_edge.tool_calls.python_calls import KEYWORD_FOLLOWS, PythonBudget, extent, read_python
from mentor_edge.tool_calls.reading import UNREADABLE, Calls, UnreadableCallError

_DEFINES = re.compile(
    r"\b(?:def|function|func|fn|class|sub|proc|void|int|float|double|string|bool)\s{1,8}([\w.]{1,256})\s{0,8}\("
)
_ARITHMETIC_AFTER = re.compile(
    r"(?:\\right)?[|)\]⌋⌉]?\s{0,8}(?:[=≈≠<>≤≥+*/^·×÷−%-]|\\(?:approx|cdot|times|le|ge|ne)\b|(?:mod|and|or)\b)"
)
_ARITHMETIC_BEFORE = re.compile(r"(?:[=≈<>≤≥+*/^·×÷−(,$-]|\\\()\s{0,8}$")
_ASSIGNMENT = re.compile(r"\s*\w{2,64}\s{0,8}=\s{0,8}")
"""Code. In mathematics a variable has one letter."""
_TERM = re.compile(
    r"(?:[\d\s.,+*/^()|%√π−-]|(?<![^\W\d_])[^\W\d_](?![^\W\d_])"
    r"|(?<![^\W\d_])(?:sqrt|pi|sin|cos|tan|log|ln|exp|abs|min|max|floor|ceil|round|mod)(?![^\W_])){1,512}"
)
"""Numbers, and variables of one letter."""
_BRACKETED = re.compile(r"\[[^\[\]]*\]|<[^<>]*>")
_TYPE = re.compile(f"{TYPE_NAME}?", re.IGNORECASE)
_MAX_MENTIONS = 4096
_LINE_DECORATION = "`*->#. \t\"'$"
_FENCE = re.compile(r"```(?P<language>[\w+#-]{0,32}).*?(?:```|\Z)", re.DOTALL)
_OWN_FUNCTIONS = {
    **dict.fromkeys(("python", "py", "python3"), re.compile("|".join(map(re.escape, dir(builtins))))),
    **dict.fromkeys(("sql", "mysql", "postgresql", "sqlite", "excel"), re.compile(r"[a-z]+", re.IGNORECASE)),
}
"""By language of a fence: the names of functions that belong to the language, not to a tool."""


def prose_calls(text: str, offered: OfferedTools, known: Sequence[ToolCall] = ()) -> Iterator[Calls]:
    """The calls of offered tools in Python's form in running text, each on lines of its own.

    Args:
        text: the visible part of a turn.
        offered: the offered tools.
        known: the calls that were read beside the text. It may contain them again.

    Raises: one of `UNREADABLE` for an attempt that cannot be read, or that is part of a sentence. In a turn with
    a boxed answer, that is a mention.
    """
    if not offered.names:
        return
    names = {normal(name): name for name in offered.names}
    called = _called(offered.names)
    known_names = {call.name for call in known}
    budget, mentions = PythonBudget(), 0
    defined: set[str] | None = None
    answer = boxed(text)
    fences = _FENCE.finditer(text)
    fence = next(fences, None)
    position = 0
    while call := called.search(text, position):
        if (mentions := mentions + 1) > _MAX_MENTIONS:
            raise UnreadableCallError("a tool is named too often")
        bracket = call.end() - 1
        if defined is None:
            defined = {normal(match[1]) for match in _DEFINES.finditer(text)}
        name = names.get(normal(call[1]))
        while fence and fence.end() <= call.start():
            fence = next(fences, None)
        fenced = fence is not None and fence.start() < call.start()
        language = fence["language"].lower() if fence and fenced else ""
        if name is None or normal(name) in defined:
            position = call.end()
        elif (end := _no_attempt(text, call.start(), bracket, offered.parameters[name].keys(), language)) is not None:
            position = end
        else:
            start = _list_start(text, call.start())
            mentioned = answer is not None and not (fenced or answer[0] <= start < answer[1])
            try:
                read = read_python(text, start, offered, budget)
            except UNREADABLE:
                end = extent(text, bracket)
                if not (mentioned or name in known_names) or not _in_sentence(text, position, start, end):
                    raise
                position = end
                continue
            if not all(one in known for one in read.calls):
                if not _in_sentence(text, position, read.start, read.end):
                    yield read
                elif not mentioned:
                    raise UnreadableCallError("a call in the middle of a sentence")
            position = read.end


def _in_sentence(text: str, after: int, start: int, end: int) -> bool:
    """Whether other text is on the line of a call: behind it, or before it without a mark such as a colon between."""
    behind = text[end : end + 64].partition("\n")[0].strip(_LINE_DECORATION + ";,")
    return bool(behind) or follows_word(text, start, after)


@lru_cache(maxsize=64)
def _called(names: tuple[str, ...]) -> re.Pattern[str]:
    """One of the names before a bracket. Models confuse `get_weather`, `get-weather` and `getWeather`."""
    spelled = (r"\\?[._-]?".join(map(re.escape, PARTS.findall(name))) or re.escape(name) for name in names)
    return re.compile(
        rf"(?<![\\\w.])(?:(?:functions|tools|default_api|tool_code)\.)?({'|'.join(spelled)})\(", re.IGNORECASE
    )


def _list_start(text: str, start: int) -> int:
    before = text[max(0, start - 8) : start].rstrip()
    return text.rindex("[", 0, start) if before.endswith("[") else start


def _no_attempt(text: str, start: int, bracket: int, parameters: Container[str], language: str) -> int | None:
    """Where the brackets end if they make a link, a mention, a signature, a formula or code; None for an attempt.

    Raises: UnreadableCallError when they are not closed.
    """
    if KEYWORD_FOLLOWS.match(text, bracket + 1):
        end = _end(text, bracket)
        return end if end is not None and _is_link(text, start, end) else None
    end = extent(text, bracket)
    inside = text[bracket + 1 : end - 1].strip()
    before = text[max(0, start - 64) : start].rpartition("\n")[2]
    after = text[end : end + 64].partition("\n")[0]
    alone = not (before + after).strip(_LINE_DECORATION + "[];")
    own = _OWN_FUNCTIONS.get(language)
    if own and own.fullmatch(text, start, bracket) and not alone:
        return end
    if before.endswith("=") and text[start:bracket].isupper():  # in a spreadsheet
        return end
    if _ASSIGNMENT.fullmatch(before) and not after.strip():
        return None
    if inside in ("s", "es"):  # a plural: "which file(s)"
        return end
    if not inside:  # a mention, unless it is all that the line says
        alone = alone or (before.endswith("[") and re.match(r"\](?!\()", after) is not None)
        return None if alone else end
    if len(inside) > 512:
        return None
    if before.endswith("[") and (end_of_list := _end_of_formulas(text, text.rindex("[", 0, start))):
        return end_of_list
    formula = _TERM.fullmatch(inside) and (_ARITHMETIC_AFTER.match(after) or _ARITHMETIC_BEFORE.search(before))
    if formula or _is_link(text, start, end) or _is_signature(inside, parameters):
        return end
    return None


def _end_of_formulas(text: str, start: int) -> int | None:
    """Where a list of formulas ends, `[f(2), f(3)] = [4, 9]`; None for any other list."""
    end = text.find("]", start, start + 512) + 1
    terms = re.sub(r"[^\W\d]\w{0,64}(?=\()", "", text[start + 1 : end - 1])
    return end if end and _TERM.fullmatch(terms) and _ARITHMETIC_AFTER.match(text, end) else None


def _is_signature(inside: str, parameters: Container[str]) -> bool:
    """Whether every argument is the name of a parameter, with or without its type, as in `f(city: str, unit)`."""
    for _ in range(3):  # list[dict[str, int]]
        inside = _BRACKETED.sub("", inside)
    for part in inside.split(","):
        name, _, kind = part.partition("=")[0].partition(":")
        name = name.strip(" *?\n")
        if not (name in parameters or name in ("...", "…", "")):
            return False
        if not all(_TYPE.fullmatch(one.strip(" ?\n")) for one in kind.split("|")):
            return False
    return True


def _end(text: str, bracket: int) -> int | None:
    try:
        return extent(text, bracket)
    except UNREADABLE:
        return None


def _is_link(text: str, start: int, end: int) -> bool:
    rest = text[end : end + 64].partition("\n")[0]
    return "](" in rest and "[" in text[max(0, start - 64) : start].rpartition("\n")[2]
