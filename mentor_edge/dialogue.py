"""The two ways to speak with a model, behind one face: in tokens (`Engine`) and in messages (`ChatEngine`).

The agent loop sees turns: what the model said, and whether there was room to say it.
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
    """What a dialogue starts from: a prompt and the tools offered with it. Every `Task` is one."""

    @property
    def prompt(self) -> tuple[Message, ...]: ...
    @property
    def tools_by_name(self) -> dict[str, Tool]: ...
    @property
    def tool_schemas(self) -> tuple[dict[str, Any], ...]: ...


@dataclass(slots=True)
class Transcript:
    """The tokens of one dialogue, exactly as they went through the engine; `sampled` is 1 where the model chose.

    All three stay empty where the engine does not show its tokens.
    """

    prompt_ids: list[int] = field(default_factory=list)
    completion_ids: list[int] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)


class Dialogues(Protocol):
    """A batch of dialogues with one model."""

    @property
    def transcripts(self) -> Sequence[Transcript]: ...

    def speak(self, rows: Sequence[int]) -> list[Reply | None]:
        """The model's next turn in each of the given dialogues; None where nothing more fits."""
        ...

    def hear(self, row: int, results: Sequence[Message]) -> None:
        """Queue the tool results that answer the model's last turn."""
        ...


@contextmanager
def open_dialogues(
    engine: Engine | ChatEngine, conversations: Sequence[Conversation], limits: AgentLimits, temperature: float
) -> Iterator[Dialogues]:
    """Start one dialogue per conversation, at most `engine.batch_size`.

    Raises: StudentError when the template refuses a prompt, EngineError.
    """
    if isinstance(engine, ChatEngine):
        yield MessageDialogues(engine, conversations, limits, temperature)
        return
    prompts = engine.encode(
        [engine.template.render(c.prompt, c.tool_schemas, add_generation_prompt=True) for c in conversations]
    )
    seated = [row for row, ids in enumerate(prompts) if len(ids) < engine.context_length]
    if not seated:
        yield TokenDialogues(engine, None, prompts, {}, limits, temperature)
        return
    with engine.open(len(seated)) as batch:
        seats = {row: seat for seat, row in enumerate(seated)}
        yield TokenDialogues(engine, batch, prompts, seats, limits, temperature)


class TokenDialogues:
    """Dialogues with an `Engine`. What was generated is never tokenized again; tool results are appended as tokens.

    `seats` are the places in the engine's batch; a prompt that does not fit the context has none.
    """

    def __init__(
        self,
        engine: Engine,
        batch: Conversations | None,
        prompts: Sequence[list[int]],
        seats: dict[int, int],
        limits: AgentLimits,
        temperature: float,
    ) -> None:
        self._engine = engine
        self._batch = batch
        self._seats = seats
        self._limits = limits
        self._sampling = Sampling(limits.tokens_per_turn, temperature)
        self._pending = [list(ids) for ids in prompts]
        self._heard: dict[int, tuple[Message, ...]] = {}
        self._suffixes: dict[tuple[Message, ...], list[int]] = {}
        self.transcripts = [Transcript(list(ids)) for ids in prompts]

    def speak(self, rows: Sequence[int]) -> list[Reply | None]:
        self._tokenize_results()
        speaking = [row for row in rows if self._take_input(row)]
        if not speaking:
            return [None] * len(rows)
        assert self._batch is not None  # who has room has a seat
        inputs = [self._pending[row] for row in speaking]
        generations = self._batch.extend([self._seats[row] for row in speaking], inputs, self._sampling)
        kept = [self._within_budget(row, generation) for row, generation in zip(speaking, generations, strict=True)]
        texts = self._engine.decode([g.token_ids[:-1] if g.finished else g.token_ids for g in kept])
        replies = {}
        for row, generation, text in zip(speaking, kept, texts, strict=True):
            self._record(row, generation.token_ids, sampled=True)
            turn = parse_turn(text)
            replies[row] = Reply(turn.message, generation.finished, turn.malformed, len(generation.token_ids))
        return [replies.get(row) for row in rows]

    def hear(self, row: int, results: Sequence[Message]) -> None:
        self._heard[row] = tuple(results)

    def _tokenize_results(self) -> None:
        """Tokens of everything heard since the last turn; equal results (of a group's rollouts, say) only once."""
        unseen = [results for results in dict.fromkeys(self._heard.values()) if results not in self._suffixes]
        if unseen:
            rendered = [self._engine.template.tool_suffix(results) for results in unseen]
            self._suffixes.update(zip(unseen, self._engine.encode(rendered), strict=True))

    def _take_input(self, row: int) -> bool:
        """Make what was heard the row's next input; False where it, or the prompt, does not fit."""
        if row not in self._heard:
            return row in self._seats
        suffix = self._suffixes[self._heard.pop(row)]
        transcript = self.transcripts[row]
        used = len(transcript.completion_ids) + len(suffix)
        if used >= self._limits.completion_tokens or len(transcript.prompt_ids) + used >= self._engine.context_length:
            return False
        self._pending[row] = suffix
        self._record(row, suffix, sampled=False)
        return True

    def _within_budget(self, row: int, generation: Generation) -> Generation:
        """The turn, cut where the budget of all turns ends: the rows of a batch share one limit per turn."""
        room = self._limits.completion_tokens - len(self.transcripts[row].completion_ids)
        fits = len(generation.token_ids) <= room
        return generation if fits else Generation(generation.token_ids[:room], finished=False)

    def _record(self, row: int, token_ids: Sequence[int], *, sampled: bool) -> None:
        self.transcripts[row].completion_ids += token_ids
        self.transcripts[row].sampled += [int(sampled)] * len(token_ids)


class MessageDialogues:
    """Dialogues with a `ChatEngine`, which is sent the whole conversation at every turn."""

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

    def speak(self, rows: Sequence[int]) -> list[Reply | None]:
        speaking = [row for row in rows if self._written[row] < self._limits.completion_tokens]
        requests = [ChatRequest(tuple(self._messages[row]), self._tools[row]) for row in speaking]
        replies = dict(zip(speaking, self._engine.reply(requests, self._sampling) if requests else [], strict=True))
        for row, reply in replies.items():
            if reply is not None:
                self._messages[row].append(reply.message)
                self._written[row] += reply.tokens
        return [replies.get(row) for row in rows]

    def hear(self, row: int, results: Sequence[Message]) -> None:
        self._messages[row] += results
