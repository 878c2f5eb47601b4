"""Signs of a call in text from which none was read: calls in prose, in broken JSON, in unknown tags.

Only what names an offered tool, or has the form of a call, is a sign. A formula, a link, a definition of a function and
the mention of a tool are not; docs/tool_calls.md has the table.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from functools import lru_cache

from mentor_edge.tool_calls import thinking
from mentor_edge.tool_calls.json_calls import ARGUMENT_KEYS, NAME_KEYS
from mentor_edge.tool_calls.offered import OfferedTools
from mentor_edge.tool_calls.python_calls import KEYWORD_FOLLOWS, PythonBudget, extent, read_python
from mentor_edge.tool_calls.reading import UNREADABLE, Calls, UnreadableCallError
from mentor_edge.tool_calls.tagged import LEFT_OVER

_NAME = "|".join((*NAME_KEYS, "api", "api_name", "command", "func", "method", "call", "tool_call", "toolName"))
_ARGUMENTS = "|".join(ARGUMENT_KEYS)
_NAMED = re.compile(rf"\\?[\"'](?:{_NAME})\\?[\"']\s{{0,64}}:\s{{0,64}}\\?[\"']([^\"'\\\n]{{1,256}})\\?[\"']")
_CERTAIN = re.compile(
    r"[\"']name[\"']\s{0,64}:\s{0,64}[\"'][^\"'\n]{0,256}[\"']\s{0,64},\s{0,64}[\"'](?:arguments|parameters)[\"']\s{0,64}:"
)
CODE = re.compile(r"(?!json|jsonc|json5|jsonl|text|txt|plaintext|xml|yaml|yml|markdown|md)[a-z][a-z0-9+#-]{0,16}")
"""The language of a fence that contains code. Code may build an object that has the form of a call."""
_CODE_FENCE = re.compile(rf"```(?:{CODE.pattern})\s.*?```", re.DOTALL | re.IGNORECASE)
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
_ASSIGNMENT = re.compile(r"\s*\w{2,64}\s{0,8}=\s{0,8}")
"""Code. In mathematics a variable has one letter."""
_NUMERIC = re.compile(r"[\d\s.,+*/^()%eπ√−-]{1,512}")
_PARTS = re.compile(r"[^\W\d_A-Z]+|[A-Z][^\W\d_A-Z]*|\d+")
_HTML = frozenset(
    [
        "a", "address", "audio", "body", "button", "code", "data", "details", "div", "em", "form", "img", "input",
        "label", "li", "link", "map", "menu", "meter", "object", "ol", "option", "output", "p", "pre", "progress",
        "script", "section", "select", "source", "span", "strong", "style", "sub", "sup", "table", "td", "template",
        "text", "th", "time", "title", "tr", "ul", "var", "video",
    ]
)  # a table  # fmt: skip
"""Elements of HTML that may also be names of tools: an answer may contain them."""
_MAX_MENTIONS = 4096
_LINE_DECORATION = "`*->#. \t\"'$"


def has_json_attempt(text: str, offered: OfferedTools) -> bool:
    """Whether the text contains a tag of calls, or JSON that begins like a call."""
    return (
        LEFT_OVER.search(text) is not None
        or _CERTAIN.search(_CODE_FENCE.sub("", text)) is not None
        or any(offered.offers(match[1]) for match in _NAMED.finditer(text))
    )


def has_attempt(text: str, offered: OfferedTools) -> bool:
    """Whether the text contains an attempted call outside Python's form."""
    if has_json_attempt(text, offered):
        return True
    if not any(name in text for name in offered.names):
        return False
    return (
        any(offered.offers(match[1]) for match in _YAML.finditer(text))
        or _marked(offered.names).search(text) is not None
        or _with_arguments(offered.signatures).search(text) is not None
    )


@lru_cache(maxsize=64)
def _marked(names: tuple[str, ...]) -> re.Pattern[str]:
    """A name in the place of a call: `<f>`, `<tool>f</tool>`, `name="f"`, `Action: f`, `call:f{`, `f --a`, `[f] a=`."""
    if not names:
        return re.compile(r"(?!)")
    name = rf"(?:{'|'.join(map(re.escape, names))})"
    element = rf"(?:{'|'.join(re.escape(one) for one in names if one.lower() not in _HTML) or '(?!)'})"
    return re.compile(
        rf"<{element}[\s/>]"
        rf"|<[\w:-]{{0,32}}(?:tool|function|action|api|name|call)[\w:-]{{0,32}}>\s{{0,8}}{name}\s{{0,8}}<"
        rf"|(?:^|\n)\W{{0,4}}[Aa]ction\W{{0,4}}:\W{{0,4}}{name}(?!\w)"
        rf"|\bname=[\"']{name}[\"']"
        rf"|\bcall:{name}\{{|(?<!\w){name}(?:\[ARGS\]|\{{\s{{0,8}}[\"'}}])"
        rf"|(?:^|\n)\s{{0,8}}[$!/]\s?{name}\s|\({name}\s[\"']|\{{\s{{0,8}}[\"']{name}[\"']\s{{0,3}}:\s{{0,3}}[\"']"
        rf"|(?<!\w){name}(?:[*`]{{1,3}}\s?|\s)\(\s{{0,8}}\w{{1,64}}\s{{0,8}}=(?!=)"
        rf"|(?<!\w){name}(?:\s{{1,3}}--\w|\s{{1,3}}\w{{1,64}}=[\"']|\]\s{{0,3}}\w{{1,64}}=|\s{{1,3}}:\w{{1,64}}\s[\"'])"
    )


@lru_cache(maxsize=64)
def _with_arguments(parameters: tuple[tuple[str, tuple[str, ...]], ...]) -> re.Pattern[str]:
    """A name with one of the tool's own parameters behind it: `f[a=1]`, `f; a=1`, `f with a = 1`."""
    between = r"[^\w(]{0,4}[^\w\s(][^\w(]{0,4}|\s{1,3}with\s{1,3}(?:\w{1,16}\s{1,3}){0,2}"
    tools = [
        rf"{re.escape(name)}(?:(?:{between})(?:{any_key})\s?=(?!=)|\s{{1,3}}(?:{any_key})=[^\s=])"
        for name, keys in parameters
        if (any_key := "|".join(map(re.escape, keys)))
    ]
    return re.compile(rf"(?<!\w)(?:{'|'.join(tools) or '(?!)'})")


def resembles_call(text: str, names: Iterable[str]) -> bool:
    """Whether an answer names an offered tool next to a bracket or a colon. It may be a call in an unknown spelling.

    Args:
        text: the turn; thinking is left out.
        names: the offered tools.
    """
    visible = text[max((end.end() for end in thinking.CLOSES.finditer(text)), default=0) :]
    return any(re.search(rf"(?<!\w){re.escape(name)}[\"'`]?\s?[(\[{{:=<]", visible) for name in names)


def prose_calls(text: str, offered: OfferedTools) -> Iterator[Calls]:
    """The calls of offered tools in Python's form in running text, each on lines of its own.

    Raises: one of `UNREADABLE` for an attempt that cannot be read, or that is part of a sentence.
    """
    if not offered.names:
        return
    names = {_normal(name): name for name in offered.names}
    called = _called(offered.names)
    budget, mentions = PythonBudget(), 0
    defined: set[str] | None = None
    position = 0
    while call := called.search(text, position):
        if (mentions := mentions + 1) > _MAX_MENTIONS:
            raise UnreadableCallError("a tool is named too often")
        bracket = call.end() - 1
        if defined is None:
            defined = {_normal(match[1]) for match in _DEFINES.finditer(text)}
        name = names.get(_normal(call[1]))
        if name is None or _normal(name) in defined:
            position = call.end()
        elif (end := _no_attempt(text, call.start(), bracket, offered.parameters[name].keys())) is not None:
            position = end
        else:
            read = read_python(text, _list_start(text, call.start()), offered, budget)
            if text[read.end : read.end + 64].partition("\n")[0].strip(_LINE_DECORATION + ";,"):
                raise UnreadableCallError("a call in the middle of a sentence")
            yield read
            position = read.end


@lru_cache(maxsize=64)
def _called(names: tuple[str, ...]) -> re.Pattern[str]:
    """One of the names before a bracket. Models confuse `get_weather`, `get-weather` and `getWeather`."""
    spelled = (r"\\?[._-]?".join(map(re.escape, _PARTS.findall(name))) or re.escape(name) for name in names)
    return re.compile(
        rf"(?<![\\\w.])(?:(?:functions|tools|default_api|tool_code)\.)?({'|'.join(spelled)})\(", re.IGNORECASE
    )


def _normal(name: str) -> str:
    return "".join(_PARTS.findall(name)).lower() or name.lower()


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
    if _ASSIGNMENT.fullmatch(before) and not after.strip():
        return None
    if not inside:  # a mention, unless it is all that the line says
        alone = not (before + after).strip(_LINE_DECORATION + "[];")
        alone = alone or (before.endswith("[") and re.match(r"\](?!\()", after) is not None)
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
