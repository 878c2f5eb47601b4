"""Probing a chat template: render conversations with markers, look for the markers, parse what was written.

It needs the template alone: no model, no tokenizer. A probe takes about a dozen renders, some ten milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from mentor_edge.call_spelling import written_turn
from mentor_edge.chat import ChatTemplate
from mentor_edge.chat.left_out import left_out
from mentor_edge.chat.setting import variables, with_arguments
from mentor_edge.errors import StudentError
from mentor_edge.inspection.template_report import MALFORMED, UNREAD, Finding, Outcome, ReadBack, TemplateReport
from mentor_edge.messages import Message, ToolCall
from mentor_edge.tool_calls import parse_turn

SYSTEM, QUESTION, ANSWER, TEXT, RESULT, OTHER_RESULT, THOUGHT = (
    "markersystem", "markerquestion", "markeranswer", "markertext", "markerresult", "markerother", "markerthought",
)  # a table  # fmt: skip
FIRST, SECOND = "marker_first", "marker_second"
"""The names of the two tools."""
PARAMETER, VALUE, OTHER_VALUE = "marker_parameter", "markervalue", "markerthing"
_SWITCH = "enable_thinking"

_TYPES = {"count": "integer", "ratio": "number", "exact": "boolean", "places": "array", "options": "object"}
_TOOLS: tuple[dict[str, Any], ...] = tuple(
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Look up {name}.",
            "parameters": {
                "type": "object",
                "properties": {
                    PARAMETER: {"type": "string", "description": "What to look up."},
                    **{key: {"type": kind, "description": f"The {key}."} for key, kind in _TYPES.items()},
                },
                "required": [PARAMETER],
            },
        },
    }
    for name in (FIRST, SECOND)
)
_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "text": {PARAMETER: VALUE},
    "numbers": {PARAMETER: "3", "count": 12_345_678_901, "ratio": -0.5, "exact": True},
    "nested": {PARAMETER: VALUE, "places": [{"a": [1, "b"]}, []], "options": {"deep": {"key": "value"}}},
    "unicode": {PARAMETER: "Zürich, 東京 🎈"},
    "quotes": {PARAMETER: "say \"yes\"\n\tor \\ 'no' <b>"},
    "no arguments": {},
}
"""Arguments that are written by the template and read back by the parser."""

_LONGEST_TURN = 1 << 16
"""Characters that a template may need for a call; real ones need some hundreds."""
_TOKEN = re.compile(r"\s*(<[^<>\s]+>|\[/?[A-Z_]+\]|\S+)?")
"""What ends a turn: a special token, or any word."""
_CLOSING = re.compile(r"(?:<[|\uff5c][^<>\s]*[|\uff5c]>\s*)+$")
_LAST_TOKEN = re.compile(r"(<[|\uff5c]?[^<>\s]*[|\uff5c]>)\s*$")
_RENDERING = re.compile(r"^the chat template .*? cannot render this conversation \(.*?\): ")
_THINKING_OPENED = re.compile(r"<think(?:ing)?>\s*$")

_USER = Message("user", QUESTION)
_CALL = Message("assistant", "", (ToolCall(FIRST, _ARGUMENTS["text"]),))
_TWO_CALLS = Message("assistant", "", (*_CALL.tool_calls, ToolCall(SECOND, {PARAMETER: OTHER_VALUE})))
_CALL_WITH_TEXT = Message("assistant", TEXT, _CALL.tool_calls)
_RESULT = Message("tool", RESULT, name=FIRST)
_ANSWER = Message("assistant", ANSWER)
_OTHER_RESULT = Message("tool", OTHER_RESULT, name=SECOND)


@lru_cache(maxsize=32)
def probe_template(template: ChatTemplate) -> TemplateReport:
    """What a template does with tools, calls, results, system messages and thinking.

    Args:
        template: The template with its arguments, as it is used.

    Returns:
        The findings. Nothing that a template does raises: a template that refuses a conversation is a finding.

    Raises:
        StudentError: The template is not valid Jinja.
    """
    template.check()
    probe = _Probe(template)
    return TemplateReport(
        sha256=template.sha256,
        question=probe.find_either([_USER], [QUESTION]),
        without_tools=probe.find([_USER], [QUESTION], tools=()),
        system=probe.find_either([Message("system", SYSTEM), _USER], [SYSTEM, QUESTION]),
        tools=probe.find([_USER], [FIRST, SECOND]),
        parameters=probe.find([_USER], [PARAMETER]),
        question_with_tools=probe.find([_USER], [QUESTION]),
        system_with_tools=probe.find([Message("system", SYSTEM), _USER], [SYSTEM, QUESTION, FIRST, SECOND]),
        call=probe.find([_USER, _CALL], [FIRST, VALUE], counted=True),
        all_arguments=probe.all_arguments(),
        two_calls=probe.two_calls(),
        text_with_call=probe.find([_USER, _CALL_WITH_TEXT], [TEXT]),
        call_with_text=probe.find([_USER, _CALL_WITH_TEXT], [FIRST, VALUE], counted=True),
        result=probe.find([_USER, _CALL, _RESULT], [RESULT], prompt=True),
        two_results=probe.find([_USER, _TWO_CALLS, _RESULT, _OTHER_RESULT], [RESULT, OTHER_RESULT], prompt=True),
        answer=probe.find([_USER, _ANSWER], [ANSWER]),
        taught_turn=probe.teaches(lambda: template.pieces([_USER], _TOOLS, [_CALL, _RESULT, _ANSWER])),
        result_suffix=probe.teaches(lambda: template.tool_suffix([_RESULT])),
        rewrites_after_result=probe.rewrites_after_result(),
        rewrites_after_question=probe.rewrites_after_question(),
        thinking_switch=probe.thinking_switch(),
        arguments=probe.arguments(),
        opens_thinking=bool(_THINKING_OPENED.search(probe.text([_USER], prompt=True) or "")),
        dated="strftime_now" in template.source,
        end_of_turn=probe.end_of_turn(),
        end_of_call=probe.end_of_call(),
        read_back=probe.read_back(),
    )


class _Probe:
    """Renders of one template."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template

    def render(
        self, messages: Sequence[Message], *, prompt: bool = False, tools: Sequence[dict[str, Any]] = _TOOLS
    ) -> str:
        return self._template.render(messages, tools, add_generation_prompt=prompt)

    def text(self, messages: Sequence[Message], *, prompt: bool = False) -> str | None:
        """The rendered conversation; None if the template refuses it."""
        try:
            return self.render(messages, prompt=prompt)
        except StudentError:
            return None

    def find(
        self,
        messages: Sequence[Message],
        markers: Iterable[str],
        *,
        prompt: bool = False,
        counted: bool = False,
        tools: Sequence[dict[str, Any]] = _TOOLS,
    ) -> Finding:
        """Whether all markers are in the rendered conversation. With `counted`, each must occur more often than in the
        conversation without its last message: the names of tools are in the prompt already."""
        try:
            text = self.render(messages, prompt=prompt, tools=tools)
            before = self.render(messages[:-1], tools=tools) if counted else ""
        except StudentError as error:
            return Finding(outcome=Outcome.RAISES, detail=_reason(error))
        missing = [marker for marker in markers if text.count(marker) <= before.count(marker)]
        if missing:
            return Finding(outcome=Outcome.DROPPED, detail=", ".join(dict.fromkeys(map(_meaning, missing))))
        return Finding(outcome=Outcome.REACHES)

    def find_either(self, messages: Sequence[Message], markers: Sequence[str]) -> Finding:
        """`find` without tools, or with tools if only those conversations work."""
        finding = self.find(messages, markers, tools=())
        return finding if finding.reaches else self.find(messages, markers)

    def two_calls(self) -> Finding:
        """Whether two calls are written into one turn, rather than into two turns, if one call can be taught."""
        found = self.find([_USER, _TWO_CALLS], [FIRST, VALUE, SECOND, OTHER_VALUE], counted=True)
        one = self.teaches(lambda: self._template.first_turn([_USER], _TOOLS, _CALL))
        two = self.teaches(lambda: self._template.first_turn([_USER], _TOOLS, _TWO_CALLS))
        return two if found.reaches and one.reaches else found

    def all_arguments(self) -> Finding:
        """Whether every argument of a call is written, whatever its type."""
        for arguments in _ARGUMENTS.values():
            turn = Message("assistant", "", (ToolCall(FIRST, arguments),))
            try:
                self.render([_USER, turn])
            except StudentError as error:
                return Finding(outcome=Outcome.RAISES, detail=_reason(error))
            written = self.turn_text(turn)
            if written is not None and (missing := left_out(turn, written)):
                return Finding(outcome=Outcome.DROPPED, detail=missing)
        return Finding(outcome=Outcome.REACHES)

    def rewrites_after_result(self) -> bool:
        """Whether a calling turn, with or without thinking, reads differently once its result follows."""
        return any(
            self._rewrites([_USER, Message("assistant", content, _CALL.tool_calls)], [_RESULT])
            for content in ("", f"<think>\n{THOUGHT}\n</think>\n\n")
        )

    def rewrites_after_question(self) -> bool:
        """Whether a turn with thinking reads differently once the user asks again."""
        answer = Message("assistant", f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}")
        return self._rewrites([_USER, answer], [Message("user", TEXT)])

    def _rewrites(self, opening: Sequence[Message], following: Sequence[Message]) -> bool:
        before, after = self.text(opening), self.text([*opening, *following], prompt=True)
        if before is None or after is None:
            return False
        # Text after the last turn, such as Phi-3's final <|endoftext|>, belongs to the end of the conversation.
        return not after.startswith(_CLOSING.sub("", before).rstrip())

    def teaches(self, make: Callable[[], object]) -> Finding:
        """Whether a text that training and rollouts need can be made."""
        try:
            make()
        except StudentError as error:
            return Finding(outcome=Outcome.RAISES, detail=_reason(error))
        return Finding(outcome=Outcome.REACHES)

    def thinking_switch(self) -> bool:
        """Whether `enable_thinking` changes the prompt, or what the model reads of earlier turns."""
        if _SWITCH not in self.arguments():
            return False
        thought = Message("assistant", f"<think>\n{THOUGHT}\n</think>\n\n", _CALL.tool_calls)
        texts = []
        for value in (True, False):
            template = replace(self._template, source=with_arguments(self._template.source, {_SWITCH: value}))
            probe = _Probe(template)
            texts.append((probe.text([_USER], prompt=True), probe.text([_USER, thought, _RESULT], prompt=True)))
        return texts[0] != texts[1]

    def arguments(self) -> tuple[str, ...]:
        """The variables that the template reads besides those that every template gets."""
        return tuple(sorted(variables(self._template.source)))

    def end_of_turn(self) -> str:
        """What the template writes after an assistant's answer."""
        text = self.text([_USER, Message("assistant", ANSWER)])
        if text is None or ANSWER not in text:
            return ""
        after = _TOKEN.match(text, text.rindex(ANSWER) + len(ANSWER))
        return (after and after[1]) or ""

    def end_of_call(self) -> str:
        """What the template writes after a turn that calls a tool. In gpt-oss, it differs from the end of an answer."""
        end, text = self.end_of_turn(), self.text([_USER, _CALL])
        if text is None or (end and end in text[text.rfind(VALUE) :]):
            return end
        for known in (self._template.eos_token, *self._template.more_ends):
            if known and text.rstrip().endswith(known):
                return known
        last = _LAST_TOKEN.search(text)
        return last[1] if last and VALUE in text else end

    def read_back(self) -> dict[str, ReadBack]:
        """What the parser makes of calls that the template has written."""
        turns = {
            name: Message("assistant", "", (ToolCall(FIRST, arguments),)) for name, arguments in _ARGUMENTS.items()
        }
        turns["two calls"] = _TWO_CALLS
        entries = {}
        for name, turn in turns.items():
            if (written := self.turn_text(turn)) is not None:
                entries[name] = _read_back(written, turn.tool_calls)
        return entries

    def turn_text(self, turn: Message) -> str | None:
        """What a model would have to write for this turn, without its end; None if the template refuses it."""
        try:
            return written_turn(self._template, [_USER], _TOOLS, turn, self.end_of_call())
        except StudentError:
            return None


def _read_back(written: str, calls: Sequence[ToolCall]) -> ReadBack:
    if len(written) > _LONGEST_TURN:  # parsing megabytes for each kind of arguments takes seconds
        return ReadBack(equal=False, text=written[:_LONGEST_TURN], got=UNREAD)
    turn = parse_turn(written, _TOOLS)
    got = turn.message.tool_calls
    if tuple((call.name, dict(call.arguments)) for call in got) == tuple((c.name, dict(c.arguments)) for c in calls):
        return ReadBack(equal=True, text=written, spelling=", ".join(turn.spellings))
    if turn.malformed:
        return ReadBack(equal=False, text=written, got=MALFORMED)
    if not got:
        return ReadBack(equal=False, text=written, got=UNREAD)
    return ReadBack(equal=False, text=written, got="; ".join(f"{call.name}({dict(call.arguments)})" for call in got))


def _reason(error: StudentError) -> str:
    """The template's own message, on one line."""
    return " ".join(_RENDERING.sub("", error.problem).split())


def _meaning(marker: str) -> str:
    return {
        SYSTEM: "the system message",
        QUESTION: "the question",
        FIRST: "a tool's name",
        SECOND: "a tool's name",
        PARAMETER: "a parameter's name",
        VALUE: "an argument",
        OTHER_VALUE: "an argument",
        ANSWER: "the answer",
        TEXT: "the text",
        RESULT: "a result",
        OTHER_RESULT: "a result",
    }[marker]
