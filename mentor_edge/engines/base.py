"""What every engine offers to the agent loop.

An `Engine` takes tokens and gives tokens, with the KV cache kept between turns. A `ChatEngine` takes messages and gives
messages: a model behind somebody else's template (an OpenAI-compatible endpoint).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from mentor_edge.chat import ChatTemplate
from mentor_edge.messages import Message


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens. `temperature` 0 is greedy; `max_new_tokens` limits one turn."""

    max_new_tokens: int
    temperature: float = 0.0


@dataclass(frozen=True, slots=True)
class Generation:
    """The tokens of one turn. `token_ids` ends with the end-of-turn token exactly when `finished`."""

    token_ids: list[int]
    finished: bool


class Conversations(Protocol):
    """A batch of conversations whose KV caches live until the batch is closed."""

    def extend(self, rows: Sequence[int], token_ids: Sequence[Sequence[int]], sampling: Sampling) -> list[Generation]:
        """Append `token_ids[i]` to conversation `rows[i]`, then generate one turn for each of them.

        On the first call the ids are the whole prompts of all conversations; later they are what follows the model's
        last turn in some of them. `rows` are distinct indices below the batch's size.
        """
        ...


class Engine(Protocol):
    """A model behind a runtime.

    `batch_size` is how many conversations the runtime decodes at once; `context_length` the most tokens one may hold.
    """

    @property
    def template(self) -> ChatTemplate: ...
    @property
    def context_length(self) -> int: ...
    @property
    def batch_size(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text; markers such as `<tool_call>` become their single tokens, nothing is added."""
        ...

    def decode(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """The text of each sequence, special tokens included."""
        ...

    def open(self, size: int) -> AbstractContextManager[Conversations]:
        """Start a batch of `size` conversations (at most `batch_size`)."""
        ...


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation that waits for the model's next turn. `tools` are OpenAI function schemas."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """One turn of a `ChatEngine`. `finished` is False when it was cut at the token limit; `malformed` when it holds
    something that looks like a tool call and is none; `tokens` are those the model wrote."""

    message: Message
    finished: bool
    malformed: bool
    tokens: int


@runtime_checkable
class ChatEngine(Protocol):
    """A model that is asked in messages. `batch_size` is how many requests may be under way at once."""

    @property
    def batch_size(self) -> int: ...

    def reply(self, requests: Sequence[ChatRequest], sampling: Sampling) -> list[Reply | None]:
        """The next turn of each conversation; None where it no longer fits the model's context."""
        ...
