"""Conversations as data: `Message` and `ToolCall` in OpenAI's chat format, and `Trajectory`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool that a model made."""

    name: str
    """The tool's name as the model wrote it; a tool of that name may not exist."""
    arguments: Mapping[str, Any]
    """The parsed JSON object, not validated yet."""

    def to_openai(self) -> dict[str, Any]:
        """The call in OpenAI's format, with the arguments as an object."""
        return {"type": "function", "function": {"name": self.name, "arguments": dict(self.arguments)}}


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: str
    """"system", "user", "assistant" or "tool"."""
    content: str = ""
    """The text; the result of a call if `role` is "tool"."""
    tool_calls: tuple[ToolCall, ...] = ()
    """The calls of an assistant's turn, in order."""
    name: str | None = None
    """The tool's name if `role` is "tool"."""

    def to_openai(self) -> dict[str, Any]:
        """The message in OpenAI's format, as chat templates read it."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = [call.to_openai() for call in self.tool_calls]
        if self.name is not None:
            message["name"] = self.name
        return message

    @classmethod
    def from_openai(cls, message: Mapping[str, Any]) -> Message:
        """Read a message in OpenAI's format.

        Args:
            message: its calls may have their arguments as an object or, as the API sends them, as a JSON string.

        Raises:
            KeyError, TypeError, ValueError: when the message is malformed.
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
    """The model closed its turn with something that looks like a tool call but cannot be read, or with calls whose
    results its chat template cannot render; or the template cannot render the prompt. `Trajectory.reason` has the
    template's message."""
    TRUNCATED = "truncated"
    """A turn reached its token limit before the model closed it."""
    OUT_OF_TURNS = "out_of_turns"
    """The model still called tools when the limit of tool rounds was reached."""
    OUT_OF_TOKENS = "out_of_tokens"
    """The prompt or a tool result did not fit the completion budget or the context."""


class Limit(StrEnum):
    """A limit that cut a conversation off before the model could finish."""

    TURN_TOKENS = "tokens_per_turn"
    """A turn reached `AgentLimits.tokens_per_turn`."""
    TOKENS = "completion_tokens"
    """All turns together reached `AgentLimits.completion_tokens`."""
    ROUNDS = "tool_rounds"
    """The model still called tools after `AgentLimits.tool_rounds`, of which there was at least one."""
    CONTEXT = "context"
    """A turn or a tool result filled the model's context."""
    PROMPT = "prompt"
    """The prompt alone does not fit the model's context."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What a model did with one task.

    The token ids are exactly those that were generated or fed, never tokenized again. They are empty for trajectories
    that no model generated, such as a programmatic teacher's, and for those of an endpoint.
    """

    messages: tuple[Message, ...]
    """The messages after the prompt: the model's turns and the results of its calls."""
    answer: str | None
    """The content of the last `\\boxed{...}` of the final answer; None if there is none."""
    ending: Ending
    """How it ended."""
    prompt_ids: Sequence[int] = ()
    """The tokens of the rendered prompt."""
    completion_ids: Sequence[int] = ()
    """The tokens after the prompt, tool results included."""
    sampled: Sequence[int] = ()
    """One entry per completion token: 1 if the model chose it, 0 if it belongs to a tool result."""
    tool_errors: int = 0
    """Calls whose result is an error."""
    unknown_tools: tuple[str, ...] = field(default=())
    """The names in calls of tools that do not exist."""
    tokens: int = 0
    """Tokens that the model wrote."""
    reason: str | None = None
    """Why it ended, if `ending` alone does not say it: the chat template cannot render the prompt or a tool result."""
    seconds: float = field(default=0.0, compare=False)
    """From the start of its batch to its end."""
    cut_by: Limit | None = None
    """The limit that cut the conversation off; None if the model ended it."""
    own_spelling: bool | None = None
    """Whether every call is in the spelling of the model's own template, and none is malformed; None without calls, or
    if the template is not known."""

    @property
    def text(self) -> str:
        """The text of the model's last turn, empty if it wrote none. `answer` is the part of it in a box."""
        return next((message.content for message in reversed(self.messages) if message.role == "assistant"), "")

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Every call of every turn, in order, executed or not."""
        return tuple(call for message in self.messages for call in message.tool_calls)

    @property
    def tools_used(self) -> frozenset[str]:
        """The set of names in `calls`."""
        return frozenset(call.name for call in self.calls)

    @property
    def terminated(self) -> bool:
        """Whether the model closed its last turn without calling another tool (MENTOR's "EOS at the end")."""
        return self.ending in (Ending.ANSWERED, Ending.MALFORMED)
