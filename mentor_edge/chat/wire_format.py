"""Conversations in the form that a chat template expects.

Most templates take the arguments of a call as an object. Some, such as DeepSeek-V3's, join them to other text and need
JSON text. Some, such as Mistral's, refuse calls without ids. `WireFormat.of` tries a template once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from mentor_edge.messages import Message, ToolCall

_ARGUMENTS = {"question": "why", "detailed": True}
_CALL = (Message("user", "x"), Message("assistant", "", (ToolCall("look_up", _ARGUMENTS),)))
_PROBES = ((*_CALL, Message("tool", "y", name="look_up")), _CALL)


@dataclass(frozen=True, slots=True)
class WireFormat:
    """How calls are passed to a template."""

    text_arguments: bool = False
    """Arguments are JSON text; otherwise they are objects."""
    ids: bool = False
    """Calls have ids, and results name the id of their call."""

    @classmethod
    def of(cls, render: Callable[[list[dict[str, Any]]], str]) -> Self:
        """The first format with which `render` writes the arguments of a call as JSON; objects if none does."""
        for probe in _PROBES:
            for ids in (False, True):
                for text in (False, True):
                    wire = cls(text, ids)
                    try:
                        rendered = render(wire.conversation(probe))
                    except Exception:  # noqa: S112 (a template may raise anything)
                        continue
                    if "detailed" in rendered and not wire._misspelt(rendered):
                        return wire
        return cls()

    def _misspelt(self, rendered: str) -> bool:
        """Whether the arguments appear in Python's notation, or as JSON inside a JSON string."""
        wrong = json.dumps(json.dumps(_ARGUMENTS)) if self.text_arguments else str(_ARGUMENTS)
        return wrong in rendered

    def conversation(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """The messages as a template reads them."""
        conversation, waiting, count = [], [], 0
        for message in messages:
            values = message.to_openai()
            for call in values.get("tool_calls", ()):
                if self.text_arguments:
                    call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
                if self.ids:
                    call["id"] = f"call{count:05}"  # nine letters and digits, as Mistral's templates require
                    waiting.append(call["id"])
                    count += 1
            if self.ids and message.role == "tool" and waiting:
                values["tool_call_id"] = waiting.pop(0)
            conversation.append(values)
        return conversation
