"""Signs of a call in text from which none was read: calls in prose, in broken JSON, in unknown tags.

Only what names an offered tool, or has the form of a call, is a sign. A formula, a link, a definition of a function and
the mention of a tool are not; docs/tool_calls.md has the table.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import lru_cache

from mentor_edge.messages import ToolCall
from mentor_edge.tool_calls import thinking
from mentor_edge.tool_calls.json_calls import ARGUMENT_KEYS, NAME_KEYS
from mentor_edge.tool_calls.offered import OfferedTools
from mentor_edge.tool_calls.python_calls import KEYWORD_FOLLOWS, PythonBudget, extent, read_python
from mentor_edge.tool_calls.reading import UNREADABLE, Calls, UnreadableCallError
from mentor_edge.tool_calls.tagged import LEFT_OVER

_NAME = "|".join((*NAME_KEYS, "api", "api_name", "command", "func", "method", "call", "tool_call", "toolName"))
_ARGUMENTS = "|".join(ARGUMENT_KEYS)
_QUOTES = "\"'\u201c\u201d\u201e\u201f\u2018\u2019"  # straight and curly
_QUOTE = f"[{_QUOTES}]"
_NAMED = re.compile(
    rf"\\?{_QUOTE}(?:{_NAME})\\?{_QUOTE}\s{{0,64}}:\s{{0,64}}\\?{_QUOTE}([^{_QUOTES}\\\n]{{1,256}})\\?{_QUOTE}"
)
_CERTAIN = re.compile(
    rf"{_QUOTE}name{_QUOTE}\s{{0,64}}:\s{{0,64}}{_QUOTE}[^{_QUOTES}\n]{{0,256}}{_QUOTE}\s{{0,64}},"
    rf"\s{{0,64}}{_QUOTE}(?:arguments|parameters){_QUOTE}\s{{0,64}}:"
)
_ANY_TOOL = re.compile(
    r"\n(?:\W{0,4}action\W{0,4}:[ \t]{0,8}[\w.`*-]{1,256}[ \t]{0,8}\n\W{0,8}action[ _]input\W{0,4}:"
    r"|>>>[^\W\d][\w.-]{0,200}\s{0,8}\n\s{0,8}\{"
    r"|[\w.-]{1,200}[ \t]{0,8}\n(?:```\w{0,16}\s{0,8})?tool_call\()",
    re.IGNORECASE,
)
"""Calls of any tool, offered or not, as ReAct, Functionary and ChatGLM3 write them."""
_ANY_TOOL_MARKS = ("action", ">>>", "tool_call(")
"""Without one of these in the text, `_ANY_TOOL` need not be tried at every line."""
_LIST_ON_A_LINE = re.compile(
    r"\n[ \t]{0,8}\[([^\W\d][\w.-]{1,200})\([^\W\d]\w{0,200}\s{0,8}=(?!=)[^\n]{0,2000}\)\][ \t]{0,8}(?=\n|\Z)"
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
_TYPE_NAME = (
    r"(?:str(?:ing)?|text|u?int(?:eger)?(?:32|64)?|float|double|number|num|bool(?:ean)?|list|array|tuple|set|sequence|dict"
    r"|object|map(?:ping)?|any|none|null|undefined|date(?:time)?|time|optional|union|literal|enum|bytes|json|\.{3}|…)"
)
_TYPE = re.compile(f"{_TYPE_NAME}?", re.IGNORECASE)
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
_WORD_LAST = re.compile(r"(?<=\w)(?<!await)(?<!return),?$")
_LINE_DECORATION = "`*->#. \t\"'$"


def has_attempt(text: str, offered: OfferedTools, called: Container[str] = ()) -> bool:
    """Whether the text contains an attempted call outside Python's form.

    Args:
        text: the visible part of a turn, without the calls that were read.
        offered: the offered tools.
        called: the tools whose calls were read. A sentence about these is not an attempt.
    """
    if LEFT_OVER.search(text):
        return True
    without_code = "\n" + _CODE_FENCE.sub("", text)
    if _CERTAIN.search(without_code):
        return True
    lower = text.lower()
    possible = any(mark in lower for mark in _ANY_TOOL_MARKS)
    if possible and _ANY_TOOL.search("\n" + text if "tool_call(" in text else without_code):
        return True
    names = {_normal(name) for name in offered.names}

    def offers(written: str) -> bool:
        return offered.offers(written) or _normal(written) in names

    if ")]" in text and any(not offers(match[1]) for match in _LIST_ON_A_LINE.finditer(without_code)):
        return True
    if names and any(offers(match[1]) for pattern in (_NAMED, _YAML) for match in pattern.finditer(text)):
        return True
    if not any(name in text for name in offered.names):
        return False
    return (
        _marked(tuple(name for name in offered.names if name not in called)).search(text) is not None
        or _with_arguments(tuple(one for one in offered.signatures if one[0] not in called)).search(text) is not None
        or _on_its_own_line(offered.signatures).search(text) is not None
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
        rf"|<[\w:|-]{{0,32}}(?:tool|function|invoke|action|api|call)[^<>\n]{{0,64}}\bname=[\"']{name}[\"']"
        rf"|\bcall:{name}\{{|(?<!\w){name}(?:\[ARGS\]|\{{\s{{0,8}}[\"'}}])"
        rf"|(?:^|\n)\s{{0,8}}[$!/]\s?{name}\s|\({name}\s[\"']"
        rf"|\{{\s{{0,8}}[\"']{name}[\"']\s{{0,3}}:\s{{0,3}}[\"'][^\"'\n]{{0,512}}[\"']\s{{0,8}}\}}"
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
    return re.compile(rf"(?<![\w/])(?:{'|'.join(tools) or '(?!)'})")  # a URL may contain both, behind a slash


@lru_cache(maxsize=64)
def _on_its_own_line(parameters: tuple[tuple[str, tuple[str, ...]], ...]) -> re.Pattern[str]:
    """A line that begins with a name and arguments: `f {"a": 1}`, `f{a: 1}`, `f:` above `a: 1`, `<f><a>`, `f --a`."""
    tools = []
    for name, keys in parameters:
        key = "|".join(map(re.escape, keys)) or r"[^\W\d]\w{0,64}"
        key = f"(?:{key})"
        colon = rf"[\"']?\s{{0,3}}:(?!\s{{0,3}}{_TYPE_NAME}(?:[\s,}}\[|]|\Z))"
        tools.append(
            rf"{re.escape(name)}(?:[`*]{{0,3}}:?\s{{0,8}}(?:```\w{{0,16}}\s{{0,8}})?\{{\s{{0,8}}[\"']?{key}{colon}"
            rf"|[`*]{{0,3}}:[ \t]{{0,8}}\n\s{{1,8}}{key}{colon}|\s{{1,3}}--\w|\s{{1,3}}{key}=[^\s=])"
            rf"|<{re.escape(name)}>\s{{0,8}}<{key}>"
        )
    return re.compile(rf"(?:^|\n)[ \t`*>$!/]{{0,8}}(?:{'|'.join(tools) or '(?!)'})", re.IGNORECASE)


def resembles_call(text: str, names: Iterable[str]) -> bool:
    """Whether an answer names an offered tool next to a bracket or a colon. It may be a call in an unknown spelling.

    Args:
        text: the turn; thinking is left out.
        names: the offered tools.
    """
    visible = text[max((end.end() for end in thinking.CLOSES.finditer(text)), default=0) :]
    return any(re.search(rf"(?<!\w){re.escape(name)}[\"'`]?\s?[(\[{{:=<]", visible) for name in names)


def prose_calls(text: str, offered: OfferedTools, known: Sequence[ToolCall] = ()) -> Iterator[Calls]:
    """The calls of offered tools in Python's form in running text, each on lines of its own.

    Args:
        text: the visible part of a turn.
        offered: the offered tools.
        known: the calls that were read beside the text. It may contain them again.

    Raises: one of `UNREADABLE` for an attempt that cannot be read, or that is part of a sentence.
    """
    if not offered.names:
        return
    names = {_normal(name): name for name in offered.names}
    called = _called(offered.names)
    known_names = {call.name for call in known}
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
            start = _list_start(text, call.start())
            try:
                read = read_python(text, start, offered, budget)
            except UNREADABLE:
                end = extent(text, bracket)
                if name not in known_names or not _in_sentence(text, position, start, end):
                    raise
                position = end
                continue
            if not all(one in known for one in read.calls):
                if _in_sentence(text, position, read.start, read.end):
                    raise UnreadableCallError("a call in the middle of a sentence")
                yield read
            position = read.end


def _in_sentence(text: str, after: int, start: int, end: int) -> bool:
    """Whether other text is on the line of a call: behind it, or before it without a mark such as a colon between."""
    before = text[max(after, start - 64) : start].rpartition("\n")[2].rstrip("`*\"'$# \t")
    behind = text[end : end + 64].partition("\n")[0].strip(_LINE_DECORATION + ";,")
    return bool(behind) or _WORD_LAST.search(before) is not None


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
    if inside in ("s", "es"):  # a plural: "which file(s)"
        return end
    if not inside:  # a mention, unless it is all that the line says
        alone = not (before + after).strip(_LINE_DECORATION + "[];")
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
