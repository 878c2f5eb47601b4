"""Conversations as data: `Message` and `ToolCall` in OpenAI's chat format, and `Trajectory`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call a model asked for. `arguments` is the parsed JSON object."""

    name: str
    arguments: Mapping[str, Any]

    def to_openai(self) -> dict[str, Any]:
        return {"type": "function", "function": {"name": self.name, "arguments": dict(self.arguments)}}


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message. `name` is the tool's name when `role` is "tool"."""

    role: str
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None

    def to_openai(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = [call.to_openai() for call in self.tool_calls]
        if self.name is not None:
            message["name"] = self.name
        return message

    @classmethod
    def from_openai(cls, message: Mapping[str, Any]) -> Message:
        """Read OpenAI's format; arguments may be an object or, as the API sends them, a JSON string.

        Raises: KeyError, TypeError or ValueError when the message is malformed.
        """
        calls = []
        for call in message.get("tool_calls") or ():
            function = call["function"]
            arguments = function["arguments"]
            if isinstance(arguments, str):
                arguments = json.loads(arguments)
            calls.append(ToolCall(function["name"], arguments))
        return cls(message["role"], message.get("content") or "", tuple(calls), message.get("name"))


class Ending(StrEnum):
    """How a trajectory ended."""

    ANSWERED = "answered"
    """The model closed its turn and called no tool."""
    MALFORMED = "malformed"
    """The model closed its turn with something that looks like a tool call and is none."""
    TRUNCATED = "truncated"
    """A turn reached its token limit before the model closed it."""
    OUT_OF_TURNS = "out_of_turns"
    """The model still called tools when the turn limit was reached."""
    OUT_OF_TOKENS = "out_of_tokens"
    """A tool result no longer fitted the completion budget or the context."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What a model did with one task: messages after the prompt, the final answer, how it ended.

    `prompt_ids` and `completion_ids` are the token ids exactly as generated (tool results included,
    never re-tokenized); `sampled` is 1 where the model chose the token and 0 on tool results. They are
    empty for trajectories that no model generated, such as a programmatic teacher's, and for those of an endpoint.
    `tokens` counts what the model wrote; `seconds` is the time from the start of its batch to its end.
    """

    messages: tuple[Message, ...]
    answer: str | None
    ending: Ending
    prompt_ids: Sequence[int] = ()
    completion_ids: Sequence[int] = ()
    sampled: Sequence[int] = ()
    tool_errors: int = 0
    unknown_tools: tuple[str, ...] = field(default=())
    tokens: int = 0
    seconds: float = field(default=0.0, compare=False)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Every call of every turn, in order, executed or not."""
        return tuple(call for message in self.messages for call in message.tool_calls)

    @property
    def tools_used(self) -> frozenset[str]:
        return frozenset(call.name for call in self.calls)

    @property
    def terminated(self) -> bool:
        """The model closed its last turn without asking for another tool (MENTOR's "EOS at the end")."""
        return self.ending in (Ending.ANSWERED, Ending.MALFORMED)
