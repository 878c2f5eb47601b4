"""Signs of a call in text from which none was read: calls in prose, in broken JSON, in unknown tags.

Only what names an offered tool, or has the form of a call, is a sign. A formula, a link, a definition of a function and
the mention of a tool are not; docs/tool_calls.md has the table.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator

from mentor_edge.tool_calls.json_calls import ARGUMENT_KEYS, NAME_KEYS
from mentor_edge.tool_calls.offered import OfferedTools
from mentor_edge.tool_calls.python_calls import KEYWORD_FOLLOWS, extent, read_python
from mentor_edge.tool_calls.reading import UNREADABLE, Calls, UnreadableCallError
from mentor_edge.tool_calls.tagged import LEFT_OVER

_NAME = "|".join(NAME_KEYS)
_ARGUMENTS = "|".join(ARGUMENT_KEYS)
_NAMED = re.compile(rf"\\?[\"'](?:{_NAME})\\?[\"']\s{{0,64}}:\s{{0,64}}\\?[\"']([^\"'\\\n]{{1,256}})\\?[\"']")
_CERTAIN = re.compile(
    r"[\"']name[\"']\s{0,64}:\s{0,64}[\"'][^\"'\n]{0,256}[\"']\s{0,64},\s{0,64}[\"'](?:arguments|parameters)[\"']\s{0,64}:"
)
_YAML = re.compile(
    rf"(?:{_NAME}|action|api)[ \t]{{0,8}}:[ \t]{{0,8}}[\"'`]?([\w.-]{{1,256}})[\"'`]?[ \t]{{0,8}},?\s{{1,8}}"
    rf"(?:{_ARGUMENTS}|action input|parameters)[ \t]{{0,8}}:",
    re.IGNORECASE,
)
"""`Action: f` and `Action Input: ...` (ReAct), or the same in YAML."""
_DEFINES = re.compile(
    r"\b(?:def|function|func|fn|class|sub|proc|void|int|float|double|string|bool)\s{1,8}([\w.]{1,256})\s{0,8}\("
)
_ARITHMETIC_AFTER = re.compile(r"\s{0,8}(?:[=≈≠<>≤≥+*/^·×÷−%-]|\\(?:approx|cdot|times|le|ge|ne)\b|(?:mod|and|or)\b)")
_ARITHMETIC_BEFORE = re.compile(r"(?:[=≈<>≤≥+*/^·×÷−(,$-]|\\\()\s{0,8}$")
_NUMERIC = re.compile(r"[\d\s.,+*/^()%eπ√−-]{1,512}")
_CALLED = re.compile(r"(?<=\w)\(")
_WORD = re.compile(r"(?<![\\\w.])[^\W\d][\w.-]*\Z")
_LONGEST_WORD = 256
_PREFIX = re.compile(r"^(?:functions|tools|defaultapi|toolcode)\.")
_LINE_DECORATION = "`*->#. \t\"'$"


def has_attempt(text: str, offered: OfferedTools) -> bool:
    """Whether the text contains an attempted call outside Python's form."""
    return (
        LEFT_OVER.search(text) is not None
        or _CERTAIN.search(text) is not None
        or any(offered.offers(match[1]) for match in _NAMED.finditer(text))
        or any(offered.offers(match[1]) for match in _YAML.finditer(text))
        or any(_as_element(text, name) for name in offered.names)
    )


def _as_element(text: str, name: str) -> bool:
    """`<get_weather>` or `call:get_weather{`. One-word names are left out: they are elements of HTML."""
    if f"call:{name}{{" in text or f'{name}{{"' in text or f"{name}[ARGS]" in text:
        return True
    return "_" in name and any(f"<{name}{end}" in text for end in (">", " ", "/>", "\n"))


def prose_calls(text: str, offered: OfferedTools) -> Iterator[Calls]:
    """The calls of offered tools in Python's form in running text, each on lines of its own.

    Raises: one of `UNREADABLE` for an attempt that cannot be read, or that is part of a sentence.
    """
    names = {form: name for name in offered.names for form in (_normal(name), _normal(name.replace(".", "")))}
    written = _normal(text)
    if not any(f"{name}(" in written for name in names):
        return
    defined = {_normal(match[1]) for match in _DEFINES.finditer(text)}
    position = 0
    while bracket := _CALLED.search(text, position):
        position = bracket.end()
        word = _WORD.search(text, max(0, bracket.start() - _LONGEST_WORD), bracket.start())
        normal = _PREFIX.sub("", _normal(word[0])) if word else ""
        if word is None or normal not in names or normal in defined:
            continue
        end = _no_attempt(text, word.start(), bracket.start(), offered.parameters[names[normal]].keys())
        if end is not None:
            position = end
            continue
        read = read_python(text, _list_start(text, word.start()), offered)
        if text[read.end : read.end + 64].partition("\n")[0].strip(_LINE_DECORATION + ";,"):
            raise UnreadableCallError("a call in the middle of a sentence")
        yield read
        position = read.end


def _normal(name: str) -> str:
    """Models confuse `get_weather`, `get-weather` and `getWeather`."""
    return name.lower().replace("_", "").replace("-", "")


def _list_start(text: str, start: int) -> int:
    before = text[max(0, start - 8) : start].rstrip()
    return text.rindex("[", 0, start) if before.endswith("[") else start


def _no_attempt(text: str, start: int, bracket: int, parameters: Container[str]) -> int | None:
    """Where the brackets end if they make a link, a mention, a signature or a formula; None for an attempted call.

    Raises: UnreadableCallError when they are not closed.
    """
    if KEYWORD_FOLLOWS.match(text, bracket + 1):
        end = _end(text, bracket)
        return end if end is not None and _is_link(text, start, end) else None
    end = extent(text, bracket)
    inside = text[bracket + 1 : end - 1].strip()
    before = text[max(0, start - 64) : start].rpartition("\n")[2]
    after = text[end : end + 64].partition("\n")[0]
    if not inside:  # a mention, unless it is all that the line says
        alone = not (before + after).strip(_LINE_DECORATION + "[];")
        return None if alone else end
    if len(inside) > 512:
        return None
    formula = _NUMERIC.fullmatch(inside) and (_ARITHMETIC_AFTER.match(after) or _ARITHMETIC_BEFORE.search(before))
    if formula or _is_link(text, start, end) or _is_signature(inside, parameters):
        return end
    return None


def _is_signature(inside: str, parameters: Container[str]) -> bool:
    """Whether every argument is the name of a parameter, with or without its type, as in `f(city: str, unit)`."""
    names = [part.partition(":")[0].partition("=")[0].strip(" *") for part in inside.split(",")]
    return all(name in parameters or name in ("...", "…", "") for name in names)


def _end(text: str, bracket: int) -> int | None:
    try:
        return extent(text, bracket)
    except UNREADABLE:
        return None


def _is_link(text: str, start: int, end: int) -> bool:
    rest = text[end : end + 64].partition("\n")[0]
    return "](" in rest and "[" in text[max(0, start - 64) : start].rpartition("\n")[2]
