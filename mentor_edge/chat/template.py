"""`ChatTemplate`: a model's chat template, and the texts of a conversation in pieces.

A growing conversation is never rendered again as a whole. It is the prompt, then the model's turn, then the suffix with
the tool results, then the next turn, and so on; earlier tokens are never touched. Templates that would rewrite earlier
turns (they drop old thinking) therefore work like any other. Training examples are put together from the same pieces.
docs/templates.md says what a model sees.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mentor_edge.chat import renderer
from mentor_edge.chat.left_out import left_out
from mentor_edge.chat.wire_format import WireFormat
from mentor_edge.errors import StudentError
from mentor_edge.messages import Message, ToolCall

_OWN_TEMPLATE = "set template: hermes, or template: neutral for a student without ChatML tokens"
MARKER = re.compile(r"[<\[]\S+[>\]]|<\S[^>]*>")
"""The text of a special token, such as <|im_end|>, </s> or [/INST]."""
_LAST_TOKEN = re.compile(r"(?:<[^<>\s]+>|\[[^\[\]\s]+\])\s*$")
_OPENED_THINKING = re.compile(r"<think>\s*(?P<closed></think>\s*)?$")

Piece = tuple[str, bool]
"""A part of a rendered conversation, and whether the assistant wrote it."""


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template."""

    source: str
    """The Jinja source; it is shipped byte for byte."""
    eos_token: str
    """The text of the end-of-turn token."""
    bos_token: str = ""
    """The text of the start token."""
    more_ends: tuple[str, ...] = field(default=(), compare=False)
    """The texts of further tokens that end a turn, such as Llama's <|eom_id|>. Those that are not markers are ignored:
    a word may occur anywhere."""
    name: str = "default"
    """Its name among the student's templates, for messages."""

    @cached_property
    def sha256(self) -> str:
        """The hash that identifies the source in runs, manifests and reports."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @cached_property
    def wire_format(self) -> WireFormat:
        """The form in which the template takes calls."""
        return WireFormat.of(lambda conversation: self._render(conversation, _schemas(["look_up"]), False))

    def check(self) -> None:
        """Raises: StudentError when the source is not valid Jinja, or takes too much to compile."""
        try:
            renderer.check(self.source)
        except renderer.TemplateFault as fault:
            raise fault.error(self.name) from fault

    def conversation(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """The messages in OpenAI's format, in the form that this template expects."""
        return self.wire_format.conversation(messages)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] = (),
        *,
        add_generation_prompt: bool = False,
    ) -> str:
        """The text that a model sees. `tools` are OpenAI function schemas.

        Raises: StudentError when the template refuses the conversation, takes more time or memory than `limits` allows,
        or fails in any other way.
        """
        try:
            return self._render(self.conversation(messages), tools, add_generation_prompt)
        except renderer.TemplateFault as fault:
            raise fault.error(self.name, _outline(messages)) from fault

    def _render(
        self, conversation: list[dict[str, Any]], tools: Sequence[dict[str, Any]], add_generation_prompt: bool
    ) -> str:
        values = {
            "messages": conversation,
            # Templates test `if tools`; Llama's renders tool boilerplate for an empty list.
            "tools": list(tools) or None,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
        }
        return renderer.render(self.source, values)

    @cached_property
    def turn_end(self) -> str:
        """The text after an assistant's answer, without leading white space. Empty if the template cannot render one,
        or renders no answers."""
        answer = "42 apples, 17 pears"
        try:
            rendered = self.render((Message("user", "x"), Message("assistant", answer)))
        except StudentError:
            return ""
        return rendered.rpartition(answer)[2].lstrip() if answer in rendered else ""

    def tool_suffix(self, results: Sequence[Message]) -> str:
        """The text between the end-of-turn token of a tool-calling turn and the model's next turn.

        It is rendered in a minimal conversation, so it depends neither on how the model spelled its call nor on what
        was said before, and earlier tokens stay as they were generated.

        Raises: StudentError when the template cannot render the results, or drops them.
        """
        prefix = self._before_results(tuple(result.name for result in results))
        rendered = self.render(*_exchange(results), add_generation_prompt=True)
        if not rendered.startswith(prefix):
            raise StudentError(
                f"the chat template {self.name!r} renders earlier text differently for another tool result",
                _OWN_TEMPLATE,
            )
        return rendered[len(prefix) :]

    @cached_property
    def _prefixes(self) -> dict[tuple[str | None, ...], str]:
        return {}

    def _before_results(self, names: tuple[str | None, ...]) -> str:
        """The rendered minimal conversation up to the end-of-turn token of its calls.

        Two renderings that differ only in the first result show where the results begin; two that differ only in the
        call's arguments show where the calls end. The end-of-turn token is between the two places.
        """
        if names not in self._prefixes:
            self._prefixes[names] = self._find_before_results(names)
        return self._prefixes[names]

    def _find_before_results(self, names: tuple[str | None, ...]) -> str:
        def rendered(result: str, argument: str) -> str:
            first, *others = (Message("tool", result, name=name) for name in names)
            same = [Message("tool", "r", name=other.name) for other in others]
            return self.render(*_exchange([first, *same], argument), add_generation_prompt=True)

        text = rendered("1", "1")
        results = _shared(text, rendered("2", "1"))
        if results == len(text):
            raise StudentError(f"the chat template {self.name!r} leaves out tool results", _OWN_TEMPLATE)
        other_call = rendered("1", "2")
        calls = 0 if other_call == text else len(text) - _shared(text[::-1], other_call[::-1])
        between = text[calls:results]
        found = [(between.find(end) if calls else between.rfind(end), end) for end in self._ends]
        found = [(position, end) for position, end in found if position >= 0]
        if not found:
            raise self._without_end("a turn that calls tools")
        position, end = min(found, key=lambda place: (place[0], -len(place[1]))) if calls else max(found)
        return text[: calls + position + len(end)]

    @property
    def _ends(self) -> tuple[str, ...]:
        markers = (end for end in self.more_ends if MARKER.fullmatch(end))
        return tuple(dict.fromkeys(end for end in (self.eos_token, *markers) if end))

    def pieces(
        self, prompt: Sequence[Message], tools: Sequence[dict[str, Any]], messages: Sequence[Message]
    ) -> list[Piece]:
        """A conversation as it grows in a rollout: the prompt, then turns and tool results in alternation.

        Args:
            prompt: the messages up to the model's first turn.
            tools: OpenAI function schemas.
            messages: the model's turns and the results of their calls.

        Raises: StudentError when the template cannot render a piece, or drops a call, an argument, an answer or a
        result.
        """
        texts: list[Piece] = [(self.render(prompt, tools, add_generation_prompt=True), False)]
        results: list[Message] = []
        for message in messages:
            if message.role != "assistant":
                results.append(message)
            elif results:
                texts += [(self.tool_suffix(results), False), (self.next_turn(results, message), True)]
                results = []
            else:
                texts.append((self.first_turn(prompt, tools, message), True))
        return texts

    def first_turn(self, prompt: Sequence[Message], tools: Sequence[dict[str, Any]], turn: Message) -> str:
        """The text that a model would write as its `turn` after the prompt, end-of-turn token included.

        Raises: StudentError when the template cannot render the turn, or drops a call, an argument or an answer.
        """
        return self._turn(prompt, tools, turn)

    def next_turn(self, results: Sequence[Message], turn: Message) -> str:
        """The text that a model would write as its `turn` after tool results, in a minimal conversation as in
        `tool_suffix`.

        Raises: StudentError when the template cannot render the turn, or drops a call, an argument or an answer.
        """
        messages, tools = _exchange(results)
        return self._turn(messages, [*tools, *_schemas([call.name for call in turn.tool_calls])], turn)

    def _turn(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], turn: Message) -> str:
        text = self._up_to_end(self._after_prompt(messages, tools, (*messages, turn)))
        if text is None:  # some templates write the end of a turn, such as <|observation|>, in front of what follows it
            following = [Message("tool", "r", name=call.name) for call in turn.tool_calls] or [Message("user", "x")]
            text = self._up_to_end(self._after_prompt(messages, tools, (*messages, turn, *following)))
        if text is None:
            raise self._without_end("the assistant's turn")
        if missing := left_out(turn, text):
            raise StudentError(f"the chat template {self.name!r} leaves out {missing}", _OWN_TEMPLATE)
        return text

    def _up_to_end(self, text: str) -> str | None:
        """The text up to its first end-of-turn token, None if it has none."""
        places = [(text.find(end), -len(end)) for end in self._ends if end in text]
        position, length = min(places, default=(0, 0))
        return text[: position - length] if places else None

    def _without_end(self, turn: str) -> StudentError:
        ends = ", ".join(self._ends) or "none is known"
        return StudentError(
            f"the chat template {self.name!r} does not end {turn} with an end-of-turn token ({ends})", _OWN_TEMPLATE
        )

    def _after_prompt(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], continued: Sequence[Message]
    ) -> str:
        """What follows the prompt for a turn after `messages` in the rendered conversation `continued`.

        A prompt may open a block of thinking that the template does not repeat in a turn without thinking: such a turn
        then closes the block first. Earlier text may differ in the longer conversation; only the prompt for the turn
        must be there.
        """
        before = self.render(messages, tools, add_generation_prompt=True)
        after = self.render(continued, tools)
        if after.startswith(before):
            return after[len(before) :]
        closed = self.render(messages, tools)
        prompt = before[len(closed) :] if before.startswith(closed) else ""
        opened = _OPENED_THINKING.search(before)
        for start in (before, prompt):
            shorter = start if opened is None else start.removesuffix(opened[0])
            if not shorter:
                continue
            place = after.rfind(shorter) if start is prompt else 0 if after.startswith(shorter) else -1
            if place < 0:
                continue
            turn = after[place + len(shorter) :]
            if opened is None or opened["closed"]:
                return turn.removeprefix(start[len(shorter) :])
            return turn[len("<think>") :].lstrip("\n") if turn.startswith("<think>") else f"\n</think>\n\n{turn}"
        if (begin := self._after_token(before, after, len(messages), tools, continued)) is not None:
            return after[begin:]
        shared = _shared(before, after)
        raise StudentError(
            f"the chat template {self.name!r} writes the assistant's turn after other text than its prompt for a turn:"
            f" {before[shared : shared + 40]!r} becomes {after[shared : shared + 40]!r}",
            _OWN_TEMPLATE,
        )

    def _after_token(
        self, before: str, after: str, index: int, tools: Sequence[dict[str, Any]], continued: Sequence[Message]
    ) -> int | None:
        """Where the turn `continued[index]` begins in the rendered conversation `after`, for templates without a prompt
        of their own for a turn that also change earlier text (Mistral moves the system message). None if it is unknown.

        It begins after the token with which the prompt `before` ends: the last one that is also there when the turn is
        another one.
        """
        token = _LAST_TOKEN.search(before)
        calls = bool(continued[index].tool_calls)
        other = (
            Message("assistant", "42") if calls else Message("assistant", "", (ToolCall("look_up", {"value": "1"}),))
        )
        if token is None:
            return None
        shared = _shared(after, self.render((*continued[:index], other), tools))
        place = after.rfind(token[0], 0, shared) + len(token[0])
        # Another whole token in between: the one that was found belongs to an earlier turn.
        return None if place < len(token[0]) or ">" in after[place:shared] else place


def _schemas(names: Sequence[str | None]) -> list[dict[str, Any]]:
    """The simplest tools of these names: a student always has tools."""
    parameters = {"type": "object", "properties": {"value": {"type": "string", "description": "A value."}}}
    return [
        {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": parameters}}
        for name in dict.fromkeys(name or "tool" for name in names)
    ]


def _exchange(results: Sequence[Message], argument: str = "1") -> tuple[tuple[Message, ...], list[dict[str, Any]]]:
    """A minimal conversation that ends with these results, and its tools."""
    names = [result.name or "tool" for result in results]
    calls = tuple(ToolCall(name, {"value": argument}) for name in names)
    return (Message("user", "x"), Message("assistant", "", calls), *results), _schemas(names)


def _shared(left: str, right: str) -> int:
    """How many characters two texts have in common from the start."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))


def _outline(messages: Sequence[Message]) -> str:
    """Roles and calls, such as "user, assistant calls add and multiply, tool, tool"."""
    shown = [
        message.role
        + (f" calls {' and '.join(call.name for call in message.tool_calls)}" if message.tool_calls else "")
        for message in messages
    ]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:3], f"{len(shown) - 6} more", *shown[-3:]])
