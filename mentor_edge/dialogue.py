"""One interface to both kinds of engine: token engines (`Engine`) and message engines (`ChatEngine`).

The agent loop sees turns only. `generate` returns the model's next turn in each dialogue, or None if the dialogue is
out of room; `append_results` adds the tool results that the model reads before its next turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from mentor_edge.engines.base import ChatEngine, ChatRequest, Conversations, Engine, Generation, Reply, Sampling
from mentor_edge.messages import Message
from mentor_edge.tasks.types import AgentLimits
from mentor_edge.tool_calls import parse_turn
from mentor_edge.tools.types import Tool


class Conversation(Protocol):
    """What a dialogue starts from: a prompt and the tools offered with it. Every `Task` satisfies this protocol."""

    @property
    def prompt(self) -> tuple[Message, ...]: ...
    @property
    def tools_by_name(self) -> dict[str, Tool]: ...
    @property
    def tool_schemas(self) -> tuple[dict[str, Any], ...]: ...


@dataclass(slots=True)
class Transcript:
    """The tokens of one dialogue, exactly as they passed through the engine.

    All three lists stay empty if the engine does not expose its tokens.
    """

    prompt_ids: list[int] = field(default_factory=list)
    """The rendered prompt."""
    completion_ids: list[int] = field(default_factory=list)
    """Everything after the prompt: the model's turns and the tool results between them."""
    sampled: list[int] = field(default_factory=list)
    """One entry per completion token: 1 if the model sampled it, 0 if it belongs to a tool result."""


class Dialogues(Protocol):
    """A batch of dialogues with one model."""

    @property
    def transcripts(self) -> Sequence[Transcript]: ...

    def generate(self, rows: Sequence[int]) -> list[Reply | None]:
        """Generate the next turn of each given dialogue; None for a dialogue that is out of room."""
        ...

    def append_results(self, row: int, results: Sequence[Message]) -> None:
        """Append the results of the tool calls in the model's last turn."""
        ...


@contextmanager
def open_dialogues(
    engine: Engine | ChatEngine, conversations: Sequence[Conversation], limits: AgentLimits, temperature: float
) -> Iterator[Dialogues]:
    """Start one dialogue per conversation, at most `engine.batch_size` of them.

    Raises: StudentError when the template refuses a prompt; EngineError when the engine cannot open the batch.
    """
    if isinstance(engine, ChatEngine):
        yield MessageDialogues(engine, conversations, limits, temperature)
        return
    prompts = engine.encode(
        [engine.template.render(c.prompt, c.tool_schemas, add_generation_prompt=True) for c in conversations]
    )
    fitting = [row for row, ids in enumerate(prompts) if len(ids) < engine.context_length]
    if not fitting:
        yield TokenDialogues(engine, None, prompts, {}, limits, temperature)
        return
    with engine.open(len(fitting)) as batch:
        slots = {row: slot for slot, row in enumerate(fitting)}
        yield TokenDialogues(engine, batch, prompts, slots, limits, temperature)


class TokenDialogues:
    """Dialogues with an `Engine`. Generated tokens are never tokenized again; tool results are appended as tokens.

    `slots` maps a dialogue to its index in the engine's batch. A prompt that does not fit the context has no slot.
    """

    def __init__(
        self,
        engine: Engine,
        batch: Conversations | None,
        prompts: Sequence[list[int]],
        slots: dict[int, int],
        limits: AgentLimits,
        temperature: float,
    ) -> None:
        self._engine = engine
        self._batch = batch
        self._slots = slots
        self._limits = limits
        self._sampling = Sampling(limits.tokens_per_turn, temperature)
        self._pending = [list(ids) for ids in prompts]
        self._results: dict[int, tuple[Message, ...]] = {}
        self._suffixes: dict[tuple[Message, ...], list[int]] = {}
        self.transcripts = [Transcript(list(ids)) for ids in prompts]

    def generate(self, rows: Sequence[int]) -> list[Reply | None]:
        self._tokenize_results()
        active = [row for row in rows if self._take_input(row)]
        if not active:
            return [None] * len(rows)
        assert self._batch is not None  # a row with room has a slot
        inputs = [self._pending[row] for row in active]
        generations = self._batch.extend([self._slots[row] for row in active], inputs, self._sampling)
        turns = [self._within_budget(row, generation) for row, generation in zip(active, generations, strict=True)]
        texts = self._engine.decode([turn.token_ids[:-1] if turn.finished else turn.token_ids for turn in turns])
        replies = {}
        for row, turn, text in zip(active, turns, texts, strict=True):
            self._record(row, turn.token_ids, sampled=True)
            parsed = parse_turn(text)
            replies[row] = Reply(parsed.message, turn.finished, parsed.malformed, len(turn.token_ids))
        return [replies.get(row) for row in rows]

    def append_results(self, row: int, results: Sequence[Message]) -> None:
        self._results[row] = tuple(results)

    def _tokenize_results(self) -> None:
        """Tokenize the results appended since the last turn. Equal results, as in a group's rollouts, only once."""
        new = [results for results in dict.fromkeys(self._results.values()) if results not in self._suffixes]
        if new:
            rendered = [self._engine.template.tool_suffix(results) for results in new]
            self._suffixes.update(zip(new, self._engine.encode(rendered), strict=True))

    def _take_input(self, row: int) -> bool:
        """Make the appended results the row's next input; False if they, or the prompt, do not fit."""
        if row not in self._results:
            return row in self._slots
        suffix = self._suffixes[self._results.pop(row)]
        transcript = self.transcripts[row]
        used = len(transcript.completion_ids) + len(suffix)
        if used >= self._limits.completion_tokens or len(transcript.prompt_ids) + used >= self._engine.context_length:
            return False
        self._pending[row] = suffix
        self._record(row, suffix, sampled=False)
        return True

    def _within_budget(self, row: int, generation: Generation) -> Generation:
        """The turn, cut to the budget of all turns: the engine knows only one limit per turn, shared by the batch."""
        room = self._limits.completion_tokens - len(self.transcripts[row].completion_ids)
        fits = len(generation.token_ids) <= room
        return generation if fits else Generation(generation.token_ids[:room], finished=False)

    def _record(self, row: int, token_ids: Sequence[int], *, sampled: bool) -> None:
        self.transcripts[row].completion_ids += token_ids
        self.transcripts[row].sampled += [int(sampled)] * len(token_ids)


class MessageDialogues:
    """Dialogues with a `ChatEngine`, which receives the whole conversation at every turn."""

    def __init__(
        self, engine: ChatEngine, conversations: Sequence[Conversation], limits: AgentLimits, temperature: float
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._sampling = Sampling(limits.tokens_per_turn, temperature)
        self._messages = [list(conversation.prompt) for conversation in conversations]
        self._tools = [conversation.tool_schemas for conversation in conversations]
        self._written = [0] * len(conversations)
        self.transcripts = [Transcript() for _ in conversations]

    def generate(self, rows: Sequence[int]) -> list[Reply | None]:
        active = [row for row in rows if self._written[row] < self._limits.completion_tokens]
        requests = [ChatRequest(tuple(self._messages[row]), self._tools[row]) for row in active]
        replies = dict(zip(active, self._engine.reply(requests, self._sampling) if requests else [], strict=True))
        for row, reply in replies.items():
            if reply is not None:
                self._messages[row].append(reply.message)
                self._written[row] += reply.tokens
        return [replies.get(row) for row in rows]

    def append_results(self, row: int, results: Sequence[Message]) -> None:
        self._messages[row] += results
