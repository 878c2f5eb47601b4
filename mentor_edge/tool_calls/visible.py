"""Finding calls in a turn, from left to right: tags, functions, fences, JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

from mentor_edge.tool_calls import thinking, xml_calls
from mentor_edge.tool_calls.attempts import CODE, boxed, follows_word
from mentor_edge.tool_calls.json_calls import JsonReader, NotJsonError
from mentor_edge.tool_calls.offered import OfferedTools
from mentor_edge.tool_calls.python_calls import (
    KEYWORD_FOLLOWS,
    STARTS_CALL,
    STARTS_LIST,
    PythonBudget,
    extent,
    is_call_list,
    read_python,
)
from mentor_edge.tool_calls.reading import (
    UNREADABLE,
    Calls,
    UnreadableCallError,
    after_separators,
    after_space,
)
from mentor_edge.tool_calls.tagged import OPENING, TOOL_CALL_CLOSE, read_content, read_tagged

_CALL_FENCES = frozenset(
    {"tool_call", "tool_calls", "tool_code", "tool", "function_call", "function_calls", "functions"}
)
"""Languages of a fence that announce calls. In other fences, text is a call only if it has the form of one."""
_FENCE_INFO = re.compile(r"[ \t]{0,8}([\w+.-]{0,32})[ \t]{0,64}\n?")
_STARTS = re.compile(
    rf"(?P<tag>{OPENING})|(?P<function><function[=\s]|<(?:｜dsml｜)?invoke\s)|(?P<fence>`{{3,}}|~{{3,}})"
    r"|(?P<json>\{\s{0,64}\"|\[\s{0,64}\{\s{0,64}\")",
    re.IGNORECASE,
)
_STARTS_OR_ENDS_THINKING = re.compile(
    rf"{_STARTS.pattern}|(?=[<\[◁])(?:(?P<thinking>{thinking.CLOSING})|(?P<opens>{thinking.OPENING}))", re.IGNORECASE
)
_END_OF_TURN = re.compile(
    r"\s*(?:(?:<\|(?:eom_id|eot_id|im_end|end|call|endoftext|end_of_text|end_of_role)\|>|<end_of_turn>|</s>|<eos>)\s*)*\Z",
    re.IGNORECASE,
)
_LINK_OR_FORMULA = re.compile(r"\(|\s{0,8}[=≈<>+*/^·×-]")
_PROBABILITY = re.compile(r"\s{0,8}[A-Za-z]\s{0,8}=\s{0,8}-?[\d.]{1,32}\s{0,8}\)")
"""`P(X=1)`."""
_MAX_DRAFTS = 16
"""Unreadable drafts in thinking after which no more are read: each may cost as much as the whole text."""


class Scanner:
    """Reads the calls in one text."""

    found_in_sentence: bool
    """Whether JSON was found that has the form of a call, or of its arguments, but is part of a sentence."""

    def __init__(self, text: str, offered: OfferedTools) -> None:
        self.text = text
        self.offered = offered
        self.found_in_sentence = False
        self._json = JsonReader(text)
        self._code_end = 0

    @cached_property
    def _named(self) -> list[str]:
        """The offered tools that the text names."""
        return [name for name in self.offered.names if name in self.text]

    @cached_property
    def _answered(self) -> bool:
        return boxed(self.text) is not None

    def calls(self) -> Iterator[Calls]:
        """The calls from left to right. Raises: one of `UNREADABLE` at the first unreadable call."""
        position = 0
        while start := _STARTS.search(self.text, position):
            read = self._read(start)
            if isinstance(read, Calls):
                yield read
            position = read.end if isinstance(read, Calls) else read

    def thoughts(self) -> list[tuple[int, int]]:
        """Where each part of thinking begins and ends. A tag inside a call's arguments is text.

        The first part may lack its opening tag, which is then at the end of the prompt.

        Raises: UnreadableCallError when a call is before a closing tag that may not end any thinking.
        """
        thoughts: list[tuple[int, int]] = []
        position = drafts = tags = after = 0
        opened: int | None = None
        called = False
        if not thinking.CLOSES.search(self.text):
            return thoughts
        while start := _STARTS_OR_ENDS_THINKING.search(self.text, position):
            position = start.end()
            if start["opens"] and opened is not None:
                continue
            if start["opens"] or start["thinking"]:
                tags += 1
                around = self._python_around(start.start()) if tags <= _MAX_DRAFTS else None
                if around is not None:
                    position = around
                elif start["opens"]:
                    opened = start.start()
                else:
                    unsure = thoughts or thinking.MENTIONED.match(self.text, start.start())
                    if opened is None and called and unsure and self.text[position:].strip():
                        raise UnreadableCallError("a call before a closing tag of thinking")
                    thoughts.append((after if opened is None else opened, position))
                    after, opened, called = position, None, False
            elif drafts < _MAX_DRAFTS:
                try:
                    read = self._read(start)
                    position = read.end if isinstance(read, Calls) else read
                    called |= isinstance(read, Calls)
                except UNREADABLE:
                    drafts += 1
        return thoughts

    def _python_around(self, position: int) -> int | None:
        """Where the call in Python's form ends that contains `position` in an argument; None if there is none."""
        if not self._named:
            return None
        for start in STARTS_CALL.finditer(self.text, max(0, position - 512), position):
            if self.offered.offers(start[0][:-1]):
                try:
                    # Outside a string, a closing tag is a syntax error.
                    read = read_python(self.text, start.start(), self.offered, self._json.python)
                except UNREADABLE:
                    continue
                if read.end > position:
                    return read.end
        return None

    def _read(self, start: re.Match[str]) -> Calls | int:
        """The calls that begin here; or where to search on, if none does. Raises: one of `UNREADABLE`."""
        match start.lastgroup:
            case "tag":
                return read_tagged(self.text, start, self._json, self.offered)
            case "function":
                return self._function(start)
            case "fence":
                return self._fence(start)
        return self._bare_json(start)

    def _function(self, start: re.Match[str]) -> Calls | int:
        opening = xml_calls.OPENING.match(self.text, start.start())
        if not opening:
            return start.end()
        read = xml_calls.read_function(self.text, opening, self.offered)
        # Qwen3-Coder often leaves out the opening tag, but not the closing one.
        end = after_space(self.text, read.end)
        if self.text.startswith(TOOL_CALL_CLOSE, end):
            return replace(read, end=end + len(TOOL_CALL_CLOSE), spelling=read.spelling + TOOL_CALL_CLOSE)
        return read

    def _bare_json(self, start: re.Match[str]) -> Calls | int:
        if self._json.exhausted:  # an exception for each of a hundred thousand braces would take a second
            return start.end()
        try:
            read, end = self._json.calls(start.start(), self.offered, tagged=False)
        except NotJsonError:
            return start.end()
        except UNREADABLE:
            if start.start() < self._code_end:
                return start.end()
            raise
        if read is not None and start.start() < self._code_end:
            # Code may build such an object. It is a call only if it names a tool.
            self.found_in_sentence |= any(self.offered.offers(call.name) for call in read.calls)
            return end
        if read is not None and not self._ends_line(end):
            self.found_in_sentence = True
            read = None
        if read is None:
            self._look_for_arguments(start.start())
        return end if read is None else read

    def _look_for_arguments(self, position: int) -> None:
        """An object with the parameters of a tool that the text names elsewhere is an attempted call.

        In a sentence beside a boxed answer it is a mention.
        """
        if self._answered and follows_word(self.text, position):
            return
        value, _ = self._json.value(position)
        if isinstance(value, dict) and value and not self.found_in_sentence:
            self.found_in_sentence = any(self.offered.accepts(name, value) for name in self._named)

    def _ends_line(self, position: int) -> bool:
        if _END_OF_TURN.match(self.text, position):
            return True
        end = self.text.find("\n", position)
        return not self.text[position : end if end >= 0 else None].strip(" \t;,")

    def _fence(self, start: re.Match[str]) -> Calls | int:
        info = _FENCE_INFO.match(self.text, start.end())
        assert info is not None  # it matches the empty text
        language, position = info[1].lower(), after_space(self.text, info.end())
        announced = language in _CALL_FENCES
        read: Calls | None = None
        if announced:
            read = self._announced(position, start[0])
        elif self.text.startswith(("{", "["), position) and not STARTS_LIST.match(self.text, position):
            try:
                read, end = self._json.calls(position, self.offered, tagged=False)
            except NotJsonError:
                return position
            if read is None:
                self._look_for_arguments(position)
                return end
        else:
            read = self._python_lines(position, start[0])
        if read is None:
            if CODE.fullmatch(language):
                self._code_end = self.text.find(start[0], position)
            return position
        end = after_space(self.text, read.end)
        closed = self.text.startswith(start[0], end)
        if not (closed or self._ends_line(read.end)):
            self.found_in_sentence = True
            return read.end
        spelling = f"{start[0]}{info[1]} {read.spelling} {start[0]}"
        return Calls(read.calls, start.start(), end + len(start[0]) if closed else read.end, spelling)

    def _announced(self, position: int, fence: str) -> Calls:
        """Every call up to the end of the fence. Raises: one of `UNREADABLE`."""
        parts: list[Calls] = []
        while not parts or not (position == len(self.text) or self.text.startswith(fence, position)):
            parts.append(read_content(self.text, position, self._json, self.offered))
            position = after_separators(self.text, parts[-1].end)
        return _joined(parts)

    def _python_lines(self, position: int, fence: str) -> Calls | None:
        """The calls of offered tools in Python, if the fence contains nothing else."""
        parts: list[Calls] = []
        while not parts or not (position == len(self.text) or self.text.startswith(fence, position)):
            if not (STARTS_LIST.match(self.text, position) or STARTS_CALL.match(self.text, position)):
                return None
            try:
                read = read_python(self.text, position, self.offered, self._json.python)
            except UNREADABLE:
                return None
            if not all(self.offered.offers(call.name) for call in read.calls):
                return None
            parts.append(read)
            position = after_separators(self.text, read.end)
        return _joined(parts)


def _joined(parts: list[Calls]) -> Calls:
    calls = tuple(call for part in parts for call in part.calls)
    spelling = " ".join(dict.fromkeys(part.spelling for part in parts)) + (" ..." if len(parts) > 1 else "")
    return Calls(calls, parts[0].start, parts[-1].end, spelling)


def whole_list(text: str, offered: OfferedTools) -> list[Calls]:
    """The calls of a turn that consists of lists in Python, `[f(a=1), g(b=2)]`; none for any other text.

    Raises: one of `UNREADABLE` for a turn that begins like such a list, but cannot be read.
    """
    parts: list[Calls] = []
    budget = PythonBudget()
    position = after_space(text, 0)
    while start := STARTS_LIST.match(text, position):
        keywords = KEYWORD_FOLLOWS.match(text, start.end()) is not None
        try:
            end = extent(text, position)
        except UNREADABLE:
            if keywords and "](" not in text[start.end() : start.end() + 1024]:
                raise
            return []
        last = _END_OF_TURN.match(text, after_separators(text, end)) is not None
        if not last and (_LINK_OR_FORMULA.match(text, end) or not keywords):
            return []
        known = _may_be_tools(start[0], offered)
        if not known and not last and _PROBABILITY.match(text, start.end()):
            return []
        if not keywords and not (is_call_list(text[position:end]) and (known or text[start.end()] in "\"'")):
            return []
        parts.append(read_python(text, position, offered, budget))
        position = after_separators(text, end)
        if last:
            return parts
    if parts:
        raise UnreadableCallError("a list of calls, then something else")
    return []


def whole_call(text: str, offered: OfferedTools) -> list[Calls]:
    """The call of a tool that was not offered, if it is the whole turn: `f(a=1)`. None is certain without any tools."""
    start = STARTS_CALL.match(text, after_space(text, 0))
    if not (start and offered.parameters and KEYWORD_FOLLOWS.match(text, start.end())):
        return []
    try:
        read = read_python(text, start.start(), offered, PythonBudget())
    except UNREADABLE:
        return []
    return [read] if _END_OF_TURN.match(text, read.end) else []


def _may_be_tools(start: str, offered: OfferedTools) -> bool:
    """Whether the first name in a list is an offered tool, or nothing is known about the tools."""
    return not offered.parameters or offered.offers(start.strip("[( \t\n"))
