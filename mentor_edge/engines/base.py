"""The engine protocols: what the agent loop needs from a model.

An `Engine` exchanges tokens and keeps the KV cache between turns. A `ChatEngine` exchanges messages: a model behind
somebody else's template, such as an OpenAI-compatible endpoint. Everything above (agent, evaluation, gate, rollouts)
uses only these protocols.

To add an engine:

1. Choose the protocol. If you can feed token ids and continue from a cache, implement `Engine`, else `ChatEngine`.
2. Write `engines/NAME/engine.py`. An `Engine` needs `template`, `encode`, `decode` and `open`, and a `Conversations`
   whose `extend` returns one `Generation` per row.
3. If the runtime is native code, run it in a child process: write the child with `process.serving.serve`, and derive
   the engine from `process.worker.WorkerEngine`, as `onnx/` does in two short files.
4. Register it in `open.py`, which chooses the engine from the kind of file, directory or URL.
5. Test it against transformers token by token, as tests/engines/test_engine_families.py does for the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from mentor_edge.errors import EngineError, panics_as_errors

if TYPE_CHECKING:  # the child processes need only `Generation`
    from mentor_edge.chat import ChatTemplate
    from mentor_edge.messages import Limit, Message


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens."""

    max_new_tokens: int
    """The limit of one turn."""
    temperature: float = 0.0
    """0 is greedy."""


@dataclass(frozen=True, slots=True)
class Generation:
    """The tokens of one turn."""

    token_ids: list[int]
    """They end with an end-of-turn token exactly when `finished`."""
    finished: bool
    """The model closed its turn; False if it was cut at a limit."""


class Conversations(Protocol):
    """A batch of conversations whose KV caches live until the batch is closed."""

    def extend(self, rows: Sequence[int], token_ids: Sequence[Sequence[int]], sampling: Sampling) -> list[Generation]:
        """Append tokens to some conversations, then generate one turn for each of them.

        The first call passes the whole prompts of all conversations. Later calls pass what follows the model's last
        turn: the end-of-turn token that the model generated is already part of the conversation.

        Args:
            rows: distinct indices below the batch's size.
            token_ids: one list of ids per row, not empty.
            sampling: applies to every row.

        Returns:
            One generation per row, in the order of `rows`.

        Raises:
            EngineError: when a row or an id is out of range, or the runtime fails.
        """
        ...


@runtime_checkable
class StreamingConversations(Protocol):
    """`Conversations` that can hand over each turn as soon as it ends. All engines of this package can."""

    def stream(
        self, rows: Sequence[int], token_ids: Sequence[Sequence[int]], sampling: Sampling
    ) -> Iterator[tuple[int, Generation]]:
        """Do what `extend` does, and yield each row with its turn as soon as the turn ends.

        Take all of them before the next call. Raises: EngineError, as `extend`.
        """
        ...


def generated_turns(
    batch: Conversations, rows: Sequence[int], token_ids: Sequence[Sequence[int]], sampling: Sampling
) -> Iterator[tuple[int, Generation]]:
    """The turns of `extend` with their rows, each as soon as it ends if the batch can hand it over."""
    if isinstance(batch, StreamingConversations):
        yield from batch.stream(rows, token_ids, sampling)
    else:
        yield from zip(rows, batch.extend(rows, token_ids, sampling), strict=True)


class Engine(Protocol):
    """A model that exchanges tokens. tests/helpers/scripted_engine.py is the smallest one."""

    @property
    def template(self) -> ChatTemplate:
        """The model's own chat template."""
        ...

    @property
    def context_length(self) -> int:
        """The most tokens that one conversation may have, prompt included."""
        ...

    @property
    def batch_size(self) -> int:
        """How many conversations one batch may have."""
        ...

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text. Markers such as `<tool_call>` become their single tokens; nothing is added."""
        ...

    def decode(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """The text of each sequence, special tokens included."""
        ...

    def open(self, size: int) -> AbstractContextManager[Conversations]:
        """Start a batch of `size` conversations, at most `batch_size`."""
        ...


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation that waits for the model's next turn."""

    messages: tuple[Message, ...]
    """The whole conversation so far, prompt included."""
    tools: tuple[dict[str, Any], ...]
    """OpenAI function schemas."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One turn of the model, as a message."""

    message: Message
    finished: bool
    """The model closed its turn; False if it was cut at the token limit."""
    malformed: bool
    """The turn contains something that looks like a tool call but cannot be read."""
    tokens: int
    """Tokens that the model wrote."""
    cut_by: Limit | None = None
    """The limit that cut the turn; None if it is finished, or if only the dialogue knows."""
    own_spelling: bool | None = None
    """Whether the calls are in the template's own spelling; None without calls, or if the template is not known."""


@runtime_checkable
class ChatEngine(Protocol):
    """A model that exchanges messages."""

    @property
    def batch_size(self) -> int:
        """How many requests may be in progress at once."""
        ...

    def reply(self, requests: Sequence[ChatRequest], sampling: Sampling) -> list[Reply | None]:
        """Generate the next turn of each conversation.

        Returns:
            One reply per request; None if the conversation no longer fits the model's context.

        Raises:
            EngineError: when the model cannot be reached or fails.
        """
        ...


@contextmanager
def encoding() -> Iterator[None]:
    """Report what a model's tokenizer raises for a text, such as a pattern of its own that backtracks too much.

    Raises: EngineError.
    """
    try:
        with panics_as_errors():
            yield
    except Exception as error:  # the library raises nothing more specific
        hint = "use the tokenizer that the model was made with"
        raise EngineError(f"the model's tokenizer fails: {error}", hint) from error
