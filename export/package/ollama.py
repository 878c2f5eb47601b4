"""An Ollama Modelfile for chat templates that Ollama's template language can express, with tools.

Ollama does not read the Jinja template of a GGUF file: it wants one in Go's language, and a model whose template has no
tools "does not support tools" there. The Go template is put together from the pieces that the model's own template
writes around system message, tools, turns, calls and results. They are found by rendering marked conversations; put
together again, they must give the text of the model's template for a set of conversations, or there is no Modelfile.
That fits ChatML with Hermes-style calls (Qwen 2.5, Qwen 3), whatever the instructions in it say.

Relied on upstream (ollama: template/template.go, tools/template.go, parser/parser.go): templates get `.System`,
`.Tools` and `.Messages` (`.Role`, `.Content`, `.ToolCalls` with `.Function.Name` and `.Function.Arguments`) and a
function `json`; a last message of the assistant is left open, to be continued; the tag that opens a call is the first
text in the first `if .ToolCalls`; quotes in a Modelfile know no escapes, and what cannot be printed is dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mentor_edge.chat import ChatTemplate
from mentor_edge.errors import ExportError, StudentError
from mentor_edge.messages import Message, ToolCall

NOT_COVERED = """\
The template renders the text of the model's own one, but for the JSON of tools and arguments: Ollama writes it without
spaces, with escapes for < > &, with fields in an order of its own, and without schema keywords that it does not know.
Thoughts that the model wrote stay in earlier turns. Calls are read by Ollama's own parser. The gate measured neither:
its verdict does not cover Ollama."""

Conversation = tuple[tuple[Message, ...], tuple[dict[str, Any], ...]]

# Written so that lines can be read; a line's end becomes a comment, which renders to nothing.
_GO_TEMPLATE = """\
{{ if and .System .Tools }}@both_open@{{ .System }}@both_between@@listed@@both_close@
{{ else if .System }}@system_open@{{ .System }}@system_close@
{{ else if .Tools }}@tools_open@@listed@@tools_close@
{{ else }}@plain@
{{ end }}{{ $previous := "" }}{{ range $n, $message := .Messages }}{{ $next := "" }}
{{ with slice $.Messages $n }}{{ if gt (len .) 1 }}{{ $next = (index . 1).Role }}{{ end }}{{ end }}
{{ if eq .Role "user" }}@user_open@{{ .Content }}@user_close@
{{ else if eq .Role "assistant" }}@assistant_open@{{ .Content }}
{{ if .Content }}{{ with .ToolCalls }}@before_calls@{{ end }}{{ end }}
{{ if .ToolCalls }}{{ range $call, $_ := .ToolCalls }}
@call_open@{{ .Function.Name }}@call_between@{{ json .Function.Arguments }}@call_close@
{{ if gt (len (slice $message.ToolCalls $call)) 1 }}@between_calls@{{ end }}{{ end }}{{ end }}
{{ if $next }}@assistant_close@{{ end }}
{{ else if eq .Role "tool" }}{{ if eq $previous "tool" }}@between_results@{{ else }}@results_open@{{ end }}
{{ .Content }}{{ if ne $next "tool" }}@results_close@{{ end }}
{{ end }}{{ $previous = .Role }}{{ end }}{{ if ne $previous "assistant" }}@assistant_open@{{ end }}"""
_LINE_END = "{{/*\n*/}}"


def modelfile(template: ChatTemplate, file: str, context_length: int | None = None) -> str:
    """The text of a Modelfile for `file`, a GGUF file beside it. `context_length` is in tokens.

    Raises: ExportError with the reason when Ollama's language cannot say what the template says.
    """
    chat = ChatFormat.of(template)
    lines = [
        *(f"# {line}" for line in NOT_COVERED.splitlines()),
        f"FROM ./{file}",
        f'TEMPLATE """{chat.go_template()}"""',
        f"PARAMETER stop {_quoted(template.eos_token)}",
        # Greedy decoding, as at the gate; Ollama's own default penalizes repeated tokens.
        "PARAMETER temperature 0",
        "PARAMETER repeat_penalty 1",
    ]
    if context_length is not None:
        lines.append(f"PARAMETER num_ctx {context_length}")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class ChatFormat:
    """A chat template taken apart: the text that stands around and between the parts of a conversation.

    A conversation opens with `plain`, or with a system message, tools or both. Tools are JSON, whole or their function
    alone. `before_calls` stands between content and calls, `call_between` between a call's name and its arguments.
    """

    plain: str
    system_open: str
    system_close: str
    tools_open: str
    tools_close: str
    both_open: str
    both_between: str
    both_close: str
    between_tools: str
    whole_tools: bool
    user_open: str
    user_close: str
    assistant_open: str
    assistant_close: str
    before_calls: str
    call_open: str
    call_between: str
    call_close: str
    between_calls: str
    results_open: str
    between_results: str
    results_close: str

    @classmethod
    def of(cls, template: ChatTemplate) -> ChatFormat:
        """Take a template apart.

        Raises: ExportError with the reason when that is not all there is to it.
        """
        try:
            turns = _turns(template)
            found = cls(**_openings(template, turns), **turns, **_calls(template, turns))
            found._check(template.eos_token)
            for messages, tools in probe_conversations():
                if found.render(messages, tools) != _render(template, messages, tools, generation=True):
                    roles = ", ".join(message.role for message in messages)
                    raise _UnlikeError(f"it renders the turns {roles} in a way of its own")
        except (_UnlikeError, StudentError) as error:
            reason = str(error).splitlines()[0]
            raise ExportError(f"Ollama is not supported for this chat template: {reason}") from error
        return found

    def _check(self, eos_token: str) -> None:
        pieces = [piece for piece in vars(self).values() if isinstance(piece, str)]
        if not all(c.isprintable() or c in "\n\t" for c in "".join(pieces)) or any('"""' in it for it in pieces):
            raise _UnlikeError("a Modelfile cannot hold its text")
        if not eos_token or not self.assistant_close.startswith(eos_token):
            raise _UnlikeError(f"its turns do not end with {eos_token!r}")
        tag = re.fullmatch(r'<[^<>{]+>\s*\{"name": "', self.call_open)
        if not (tag and self.call_between == '", "arguments": ' and self.call_close.startswith("}")):
            raise _UnlikeError("its calls are no JSON objects in tags")

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
        """The prompt that Ollama will make, with JSON as the model's own template writes it."""
        listed = self.between_tools.join(_tool_json(tool, self.whole_tools) for tool in tools)
        has_system = messages[0].role == "system"
        if has_system and tools:
            text = f"{self.both_open}{messages[0].content}{self.both_between}{listed}{self.both_close}"
        elif has_system:
            text = f"{self.system_open}{messages[0].content}{self.system_close}"
        else:
            text = f"{self.tools_open}{listed}{self.tools_close}" if tools else self.plain
        body = messages[1:] if has_system else messages
        roles = ["", *(message.role for message in body), ""]
        for message, previous, following in zip(body, roles, roles[2:], strict=False):
            if message.role == "user":
                text += f"{self.user_open}{message.content}{self.user_close}"
            elif message.role == "assistant":
                text += f"{self.assistant_open}{self._said(message)}{self.assistant_close}"
            else:
                text += self.between_results if previous == "tool" else self.results_open
                text += message.content + (self.results_close if following != "tool" else "")
        return text + self.assistant_open

    def _said(self, message: Message) -> str:
        calls = [
            f"{self.call_open}{call.name}{self.call_between}{_json(call.arguments)}{self.call_close}"
            for call in message.tool_calls
        ]
        separator = self.before_calls if message.content and calls else ""
        return message.content + separator + self.between_calls.join(calls)

    def go_template(self) -> str:
        """The same in Go's template language."""
        tool = '{"type": "function", "function": {{ json .Function }}}' if self.whole_tools else "{{ json .Function }}"
        pieces = {name: _go(piece) for name, piece in vars(self).items() if isinstance(piece, str)}
        separator = "{{ if $n }}" + pieces["between_tools"] + "{{ end }}"
        pieces["listed"] = "{{ range $n, $_ := .Tools }}" + separator + tool + "{{ end }}"
        lines = _GO_TEMPLATE.split("\n")
        return _LINE_END.join(re.sub(r"@(\w+)@", lambda name: pieces[name[1]], line) for line in lines)


def probe_conversations() -> list[Conversation]:
    """Conversations, with the tools offered, on which a Go template must agree with the model's own."""
    odd = Message("user", ' Zürich, 你好 <b>&amp;</b> "quotes" \\ {{ .X }}\n\n  two lines ')
    talking = Message("assistant", "Let me look.", (_FIRST_CALL,))
    two_calls = (ToolCall("second_tool", {"x": -1, "y": []}), ToolCall("first_tool", {}))
    results = (Message("tool", '{"a": [1, "<b>"]}', name="second_tool"), Message("tool", "", name="first_tool"))
    told = (Message("assistant", "", two_calls), *results)
    bodies = [
        (_USER,),
        (odd, _ANSWER, _AGAIN, Message("assistant", "two\nlines"), odd),
        (_USER, _CALLING, _RESULT),
        (_USER, *told, _ANSWER, _AGAIN),
        (odd, talking, _RESULT, *told),
        (_USER, talking, _RESULT, _ANSWER, odd, *told, _CALLING, _RESULT),
    ]
    return [
        ((*system, *body), tools)
        for tools in ((), _TOOLS[:1], _TOOLS)
        for system in ((), (_SYSTEM,), (Message("system", "two\nlines"),))
        for body in bodies
        if tools or not any(message.tool_calls for message in body)
    ]


class _UnlikeError(Exception):
    """A template is of another kind; the message says in what."""


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _tool_json(tool: Mapping[str, Any], whole: bool) -> str:
    return _json(tool if whole else tool["function"])


def _tool(name: str, properties: dict[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "required": list(properties), "properties": properties}
    return {"type": "function", "function": {"name": name, "description": f"Does {name}.", "parameters": parameters}}


_TOOLS = (
    _tool("first_tool", {"text": {"type": "string", "description": 'a <b> & "c"'}}),
    _tool("second_tool", {"x": {"type": "number"}, "y": {"type": "array", "items": {"type": "integer"}}}),
)
# The marks that texts are split at.
_SYSTEM, _USER, _ANSWER = (
    Message("system", "the-system"),
    Message("user", "the-user"),
    Message("assistant", "the-answer"),
)
_RESULT, _MORE_RESULT = (
    Message("tool", "the-result", name="first_tool"),
    Message("tool", "one-more", name="second_tool"),
)
_AGAIN = Message("user", "asked-again")
_FIRST_CALL, _SECOND_CALL = (
    ToolCall("first_tool", {"text": "an-argument"}),
    ToolCall("second_tool", {"x": 1.5, "y": [2, 3]}),
)
_CALLING = Message("assistant", "", (_FIRST_CALL,))
_FIRST_MARKS = (_FIRST_CALL.name, _json(_FIRST_CALL.arguments))
_SECOND_MARKS = (_SECOND_CALL.name, _json(_SECOND_CALL.arguments))


def _openings(template: ChatTemplate, turns: Mapping[str, str]) -> dict[str, Any]:
    """How conversations begin, up to the first turn."""

    def pieces(messages: Sequence[Message], *marks: str, tools: Sequence[dict[str, Any]] = ()) -> list[str]:
        *before, last, _ = _split(_render(template, messages, tools), *marks, _USER.content)
        return [*before, _without_end(last, turns["user_open"])]

    (plain,) = pieces([_USER])
    system = pieces([_SYSTEM, _USER], _SYSTEM.content)
    whole = _json(_TOOLS[0]) in _render(template, [_USER], _TOOLS)
    shown = [_tool_json(tool, whole) for tool in _TOOLS]
    tools_open, between_tools, tools_close = pieces([_USER], *shown, tools=_TOOLS)
    both = pieces([_SYSTEM, _USER], _SYSTEM.content, *shown, tools=_TOOLS)
    return {
        "plain": plain,
        "system_open": system[0],
        "system_close": system[1],
        "tools_open": tools_open,
        "between_tools": between_tools,
        "tools_close": tools_close,
        "whole_tools": whole,
        "both_open": both[0],
        "both_between": both[1],
        "both_close": both[3],
    }


def _turns(template: ChatTemplate) -> dict[str, Any]:
    """What stands around the user's and the assistant's turns."""
    (_, user_close) = _split(_render(template, [_USER]), _USER.content)
    assistant_open = _without_start(_render(template, [_USER], generation=True), _render(template, [_USER]))
    *_, assistant_close = _split(_render(template, [_USER, _ANSWER]), _USER.content, _ANSWER.content)
    conversation = _render(template, [_USER, _ANSWER, _AGAIN])
    _, to_answer, to_user, _ = _split(conversation, _USER.content, _ANSWER.content, _AGAIN.content)
    if to_answer != user_close + assistant_open:
        raise _UnlikeError("earlier turns of the model do not begin as its next one does")
    return {
        "user_open": _without_start(to_user, assistant_close),
        "user_close": user_close,
        "assistant_open": assistant_open,
        "assistant_close": assistant_close,
    }


def _calls(template: ChatTemplate, turns: Mapping[str, str]) -> dict[str, Any]:
    """What stands around and between calls and their results."""
    to_turn = turns["user_close"] + turns["assistant_open"]
    *_, to_end = _split(_render(template, [_USER, _CALLING]), _USER.content, *_FIRST_MARKS)
    call_close = _without_end(to_end, turns["assistant_close"])

    def pieces(said: Message, marks: Sequence[str], *results: Message) -> list[str]:
        text = _render(template, [_USER, said, *results])
        return _split(text, _USER.content, *marks, *(result.content for result in results))

    _, to_call, call_between, to_result, results_close = pieces(_CALLING, _FIRST_MARKS, _RESULT)
    call_open = _without_start(to_call, to_turn)
    said = Message("assistant", _ANSWER.content, (_FIRST_CALL,))
    _, _, content_to_call, *_ = pieces(said, (_ANSWER.content, *_FIRST_MARKS), _RESULT)
    twice = Message("assistant", "", (_FIRST_CALL, _SECOND_CALL))
    together = pieces(twice, (*_FIRST_MARKS, *_SECOND_MARKS), _RESULT, _MORE_RESULT)
    return {
        "call_open": call_open,
        "call_between": call_between,
        "call_close": call_close,
        "before_calls": _without_end(content_to_call, call_open),
        "between_calls": _without_end(_without_start(together[3], call_close), call_open),
        "results_open": _without_start(to_result, to_end),
        "between_results": together[6],
        "results_close": results_close,
    }


def _render(
    template: ChatTemplate,
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] = (),
    *,
    generation: bool = False,
) -> str:
    return template.render(messages, tools, add_generation_prompt=generation)


def _split(text: str, *marks: str) -> list[str]:
    """The pieces of `text` before, between and after `marks`, each of which is in it once."""
    pieces = []
    for mark in marks:
        if text.count(mark) != 1:
            kind = "the JSON of tools and arguments" if mark.startswith("{") else "names and contents"
            raise _UnlikeError(f"it does not write {kind} once and as they are")
        before, _, text = text.partition(mark)
        pieces.append(before)
    return [*pieces, text]


def _without_start(text: str, start: str) -> str:
    if not text.startswith(start):
        raise _UnlikeError("what it writes around a turn depends on other turns")
    return text[len(start) :]


def _without_end(text: str, end: str) -> str:
    if not text.endswith(end):
        raise _UnlikeError("what it writes around a turn depends on other turns")
    return text[: len(text) - len(end)]


def _go(text: str) -> str:
    """Text as it stands in a Go template."""
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    """A value in a Modelfile, which has no escapes."""
    return f'"""{text}"""' if '"' in text else f'"{text}"'
