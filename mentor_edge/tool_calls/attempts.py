"""Signs of a call in text from which none was read: broken JSON, unknown tags, YAML, commands.

Only what names an offered tool, or has the form of a call, is a sign. A formula, a link, a definition of a function and
the mention of a tool are not; docs/tool_calls.md has the table.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from functools import lru_cache

from mentor_edge.tool_calls import thinking
from mentor_edge.tool_calls.json_calls import ARGUMENT_KEYS, NAME_KEYS
from mentor_edge.tool_calls.offered import OfferedTools
from mentor_edge.tool_calls.tagged import LEFT_OVER

_NAME = "|".join((*NAME_KEYS, "api", "api_name", "command", "func", "method", "call", "tool_call", "toolName"))
_ARGUMENTS = "|".join(ARGUMENT_KEYS)
_QUOTES = "\"'\u201c\u201d\u201e\u201f\u2018\u2019"  # straight and curly
_QUOTE = f"[{_QUOTES}]"
_NAMED = re.compile(
    rf"\\?{_QUOTE}(?:{_NAME})\\?{_QUOTE}\s{{0,64}}:\s{{0,64}}\\?{_QUOTE}([^{_QUOTES}\\\n]{{1,256}})\\?{_QUOTE}"
)
_CERTAIN = re.compile(
    rf"{_QUOTE}(?:name|tool_name|function_name){_QUOTE}\s{{0,64}}:\s{{0,64}}{_QUOTE}[^{_QUOTES}\s]{{0,256}}{_QUOTE}\s{{0,64}},"
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
TYPE_NAME = (
    r"(?:str(?:ing)?|text|u?int(?:eger)?(?:32|64)?|float|double|number|num|bool(?:ean)?|list|array|tuple|set|sequence|dict"
    r"|object|map(?:ping)?|any|none|null|undefined|date(?:time)?|time|optional|union|literal|enum|bytes|json|\.{3}|…)"
)
PARTS = re.compile(r"[^\W\d_A-Z]+|[A-Z][^\W\d_A-Z]*|\d+")
_WORD = re.compile(r"[a-z]+")
"""A name that may also be a command, such as `date`."""
_HTML = frozenset(
    [
        "a", "address", "article", "audio", "body", "button", "canvas", "code", "data", "details", "dialog", "div",
        "em", "figure", "footer", "form", "head", "header", "html", "iframe", "img", "input", "label", "li", "link",
        "main", "map", "mark", "menu", "meta", "meter", "nav", "object", "ol", "option", "output", "p", "picture",
        "pre", "progress", "script", "section", "select", "source", "span", "strong", "style", "sub", "summary", "sup",
        "table", "td", "template", "text", "th", "time", "title", "tr", "track", "ul", "var", "video",
    ]
)  # a table  # fmt: skip
"""Elements of HTML that may also be names of tools: an answer may contain them."""
_WORD_LAST = re.compile(r"(?<=\w)(?<!await)(?<!return),?$")
_BRACE = re.compile(r"[{}]")


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
    names = {normal(name) for name in offered.names}

    def offers(written: str) -> bool:
        return offered.offers(written) or normal(written) in names

    if ")]" in text and any(not offers(match[1]) for match in _LIST_ON_A_LINE.finditer(without_code)):
        return True
    if names and any(offers(match[1]) for pattern in (_NAMED, _YAML) for match in pattern.finditer(text)):
        return True
    if not any(name in text for name in offered.names):
        return False
    answered = boxed(text) is not None
    return (
        _marked(tuple(name for name in offered.names if name not in called)).search(text) is not None
        or any(
            not (answered and follows_word(text, match.start()))
            for match in _with_arguments(tuple(one for one in offered.signatures if one[0] not in called)).finditer(
                text
            )
        )
        or _on_its_own_line(offered.signatures).search(text) is not None
    )


@lru_cache(maxsize=64)
def _marked(names: tuple[str, ...]) -> re.Pattern[str]:
    """A name in the place of a call: `<f>`, `<tool>f</tool>`, `name="f"`, `Action: f`, `call:f{`, `f --a`, `[f] a=`."""
    if not names:
        return re.compile(r"(?!)")
    name = rf"(?:{'|'.join(map(re.escape, names))})"
    element = rf"(?:{'|'.join(re.escape(one) for one in names if one.lower() not in _HTML) or '(?!)'})"
    distinct = rf"(?:{'|'.join(re.escape(one) for one in names if not _WORD.fullmatch(one)) or '(?!)'})"
    return re.compile(
        rf"<{element}[\s/>]"
        rf"|<[\w:-]{{0,32}}(?:tool|function|action|api|name|call)[\w:-]{{0,32}}>\s{{0,8}}{name}\s{{0,8}}<"
        rf"|(?:^|\n)\W{{0,4}}[Aa]ction\W{{0,4}}:\W{{0,4}}{name}(?!\w)"
        rf"|(?:^|\n)\W{{0,4}}(?i:tool|function)[ _]?[Cc]all\W{{0,4}}:\W{{0,4}}{name}(?![\w(])"
        rf"|```(?:te?xt|plaintext)?[ \t]{{0,8}}\n[ \t]{{0,8}}{name}[ \t]{{1,8}}[^\W_][^\n]{{0,512}}\n\s{{0,8}}```"
        rf"|<[\w:|-]{{0,32}}(?:tool|function|invoke|action|api|call)[^<>\n]{{0,64}}\bname=[\"']{name}[\"']"
        rf"|\bcall:{name}\{{|(?<!\w){name}(?:\[ARGS\]|\{{\s{{0,8}}[\"'}}])"
        rf"|(?:^|\n)\s{{0,8}}[$!/]\s?{name}\s|\({name}\s[\"']"
        rf"|\{{\s{{0,8}}[\"']{name}[\"']\s{{0,3}}:\s{{0,3}}[\"'][^\"'\n]{{0,512}}[\"']\s{{0,8}}\}}"
        rf"|(?<!\w){name}(?:[*`]{{1,3}}\s?|\s)\(\s{{0,8}}\w{{1,64}}\s{{0,8}}=(?!=)"
        rf"|(?<!\w){distinct}\s{{1,3}}--\w"
        rf"|(?<![\w<]){name}(?:\s{{1,3}}\w{{1,64}}=[\"']|\]\s{{0,3}}\w{{1,64}}=|\s{{1,3}}:\w{{1,64}}\s[\"'])"
    )


@lru_cache(maxsize=64)
def _with_arguments(parameters: tuple[tuple[str, tuple[str, ...]], ...]) -> re.Pattern[str]:
    """A name with one of the tool's own parameters behind it: `f[a=1]`, `f; a=1`, `f with a = 1`."""
    between = r"[^\w(]{0,4}[^\w\s(][^\w(]{0,4}|\s{1,3}with\s{1,3}(?:\w{1,16}\s{1,3}){0,2}"
    tools = [
        rf"{re.escape(name)}(?:(?:{between})(?:{any_key})\s?=(?!=)|\s{{1,3}}(?:--(?:{any_key})\b|(?:{any_key})=[^\s=]))"
        for name, keys in parameters
        if (any_key := "|".join(map(re.escape, keys)))
    ]
    return re.compile(rf"(?<![\w/<])(?:{'|'.join(tools) or '(?!)'})")  # URLs and HTML may contain both


@lru_cache(maxsize=64)
def _on_its_own_line(parameters: tuple[tuple[str, tuple[str, ...]], ...]) -> re.Pattern[str]:
    """A line that begins with a name and arguments: `f {"a": 1}`, `f{a: 1}`, `f:` above `a: 1`, `<f><a>`, `f --a 1`."""
    tools = []
    for name, keys in parameters:
        key = "|".join(map(re.escape, keys)) or r"[^\W\d]\w{0,64}"
        key = f"(?:{key})"
        colon = rf"[\"']?\s{{0,3}}:(?!\s{{0,3}}{TYPE_NAME}(?:[\s,}}\[|]|\Z))"
        tools.append(
            rf"{re.escape(name)}(?:[`*]{{0,3}}:?\s{{0,8}}(?:```\w{{0,16}}\s{{0,8}})?\{{\s{{0,8}}[\"']?{key}{colon}"
            rf"|[`*]{{0,3}}:[ \t]{{0,8}}\n\s{{1,8}}{key}{colon}|\s{{1,3}}--{key}\b|\s{{1,3}}{key}=[^\s=])"
            rf"|<{re.escape(name)}>\s{{0,8}}<{key}>"
        )
    return re.compile(rf"(?:^|\n)[ \t`*>$!/]{{0,8}}(?:{'|'.join(tools) or '(?!)'})", re.IGNORECASE)


def resembles_call(text: str, names: Iterable[str]) -> bool:
    """Whether an answer names an offered tool next to a bracket or a colon. It may be a call in an unknown spelling.

    A turn with a boxed answer does not resemble one: it ends the conversation.

    Args:
        text: the turn; thinking is left out.
        names: the offered tools.
    """
    visible = text[max((end.end() for end in thinking.CLOSES.finditer(text)), default=0) :]
    if boxed(visible) is not None:
        return False
    return any(re.search(rf"(?<!\w){re.escape(name)}[\"'`]?\s?[(\[{{:=<]", visible) for name in names)


def normal(name: str) -> str:
    return "".join(PARTS.findall(name)).lower() or name.lower()


def follows_word(text: str, position: int, after: int = 0) -> bool:
    """Whether a word is before `position` on its line, without a mark such as a colon between."""
    before = text[max(after, position - 64) : position].rpartition("\n")[2].rstrip("`*\"'$# \t")
    return _WORD_LAST.search(before) is not None


def boxed(text: str) -> tuple[int, int] | None:
    r"""Where the content of the last `\boxed{...}` begins and ends; None if it is missing, empty or not closed."""
    start = text.rfind("\\boxed{") + len("\\boxed{")
    depth = 1
    for brace in _BRACE.finditer(text, start) if start >= len("\\boxed{") else ():
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return (start, brace.start()) if text[start : brace.start()].strip() else None
    return None
