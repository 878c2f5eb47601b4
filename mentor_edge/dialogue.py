"""One interface to both kinds of engine: token engines (`Engine`) and message engines (`ChatEngine`).

The agent loop sees turns only. `generate` returns the model's next turn in each dialogue, or why there is
none: a limit that leaves no room, or a template that cannot render. `append_results` adds the tool results that the
model reads before its next turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from mentor_edge.call_spelling import in_own_spelling, own_spellings
from mentor_edge.engines.base import (
    ChatEngine,
    ChatRequest,
    Conversations,
    Engine,
    Generation,
    Reply,
    Sampling,
    generated_turns,
)
from mentor_edge.errors import StudentError
from mentor_edge.messages import Limit, Message
from mentor_edge.tasks.types import AgentLimits
from mentor_edge.tool_calls import ParsedTurn, parse_turn
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


@dataclass(frozen=True, slots=True)
class Refusal:
    """The chat template cannot render what the model would read next, so the dialogue ends."""

    reason: str
    """The template's message, with its name and the conversation."""


class Dialogues(Protocol):
    """A batch of dialogues with one model."""

    @property
    def transcripts(self) -> Sequence[Transcript]: ...

    def generate(self, rows: Sequence[int]) -> Iterator[tuple[int, Reply | Limit | Refusal]]:
        """Generate the next turn of each given dialogue, or say why it has none. Yields a dialogue as soon as its turn
        has ended; take all of them before the next call."""
        ...

    def append_results(self, row: int, results: Sequence[Message]) -> None:
        """Append the results of the tool calls in the model's last turn."""
        ...


@contextmanager
def open_dialogues(
    engine: Engine | ChatEngine,
    conversations: Sequence[Conversation],
    limits: AgentLimits,
    temperature: float,
    *,
    strict_calls: bool = False,
) -> Iterator[Dialogues]:
    """Start one dialogue per conversation, at most `engine.batch_size` of them.

    A prompt that the template cannot render ends its own dialogue only.

    With `strict_calls`, a turn whose calls are not in the template's own spelling is malformed. It has no effect on
    engines whose template is not known.

    Raises: StudentError when the template is not valid Jinja; EngineError when the engine cannot open the batch.
    """
    if isinstance(engine, ChatEngine):
        yield MessageDialogues(engine, conversations, limits, temperature)
        return
    template = engine.template
    template.check()
    tools = [conversation.tool_schemas for conversation in conversations]
    rendered: dict[int, str] = {}
    refused: dict[int, Refusal] = {}
    for row, conversation in enumerate(conversations):
        try:
            rendered[row] = template.render(conversation.prompt, conversation.tool_schemas, add_generation_prompt=True)
        except StudentError as error:
            refused[row] = Refusal(error.problem)
    encoded = dict(zip(rendered, engine.encode(list(rendered.values())), strict=True))
    prompts = [encoded.get(row, []) for row in range(len(conversations))]
    fitting = [row for row, ids in encoded.items() if len(ids) < engine.context_length]
    if not fitting:
        yield TokenDialogues(engine, None, prompts, {}, refused, limits, temperature, tools, strict_calls)
        return
    with engine.open(len(fitting)) as batch:
        slots = {row: slot for slot, row in enumerate(fitting)}
        yield TokenDialogues(engine, batch, prompts, slots, refused, limits, temperature, tools, strict_calls)


class TokenDialogues:
    """Dialogues with an `Engine`. Generated tokens are never tokenized again; tool results are appended as tokens.

    `slots` maps a dialogue to its index in the engine's batch. A prompt that does not fit the context has no slot, and
    neither has one in `refused`, which the template cannot render.
    """

    def __init__(
        self,
        engine: Engine,
        batch: Conversations | None,
        prompts: Sequence[list[int]],
        slots: dict[int, int],
        refused: dict[int, Refusal],
        limits: AgentLimits,
        temperature: float,
        tools: Sequence[Sequence[dict[str, Any]]],
        strict_calls: bool = False,
    ) -> None:
        self._engine = engine
        self._batch = batch
        self._tools = tools
        self._own_spellings = own_spellings(engine.template) if any(tools) else frozenset()
        self._strict_calls = strict_calls
        self._slots = slots
        self._refused = dict(refused)
        self._limits = limits
        self._sampling = Sampling(limits.tokens_per_turn, temperature)
        self._pending = [list(ids) for ids in prompts]
        self._results: dict[int, tuple[Message, ...]] = {}
        self._suffixes: dict[tuple[Message, ...], list[int] | Refusal] = {}
        self.transcripts = [Transcript(list(ids)) for ids in prompts]

    def generate(self, rows: Sequence[int]) -> Iterator[tuple[int, Reply | Limit | Refusal]]:
        self._tokenize_results()
        active = {}  # rows by slot
        for row in rows:
            if (reason := self._take_input(row)) is not None:
                yield row, reason
            else:
                active[self._slots[row]] = row
        if not active:
            return
        assert self._batch is not None  # a row with room has a slot
        inputs = [self._pending[row] for row in active.values()]
        for slot, generation in generated_turns(self._batch, list(active), inputs, self._sampling):
            row = active[slot]
            turn = self._within_budget(row, generation)
            cut_by = None if turn.finished else self._limit_reached(row, turn)
            self._record(row, turn.token_ids, sampled=True)
            (text,) = self._engine.decode([turn.token_ids[:-1] if turn.finished else turn.token_ids])
            parsed = parse_turn(text, self._tools[row])
            own = in_own_spelling(parsed, self._own_spellings)
            if self._strict_calls and own is False:
                parsed = ParsedTurn(Message("assistant", text), malformed=True)
            yield (
                row,
                Reply(parsed.message, turn.finished, parsed.malformed, len(turn.token_ids), cut_by, own_spelling=own),
            )

    def append_results(self, row: int, results: Sequence[Message]) -> None:
        self._results[row] = tuple(results)

    def _tokenize_results(self) -> None:
        """Tokenize the results appended since the last turn. Equal results, as in a group's rollouts, only once."""
        new = [results for results in dict.fromkeys(self._results.values()) if results not in self._suffixes]
        rendered: dict[tuple[Message, ...], str] = {}
        for results in new:
            try:
                rendered[results] = self._engine.template.tool_suffix(results)
            except StudentError as error:
                self._suffixes[results] = Refusal(error.problem)
        if rendered:
            self._suffixes.update(zip(rendered, self._engine.encode(list(rendered.values())), strict=True))

    def _take_input(self, row: int) -> Limit | Refusal | None:
        """Make the appended results the row's next input. Returns why that is impossible: a limit, if they or the
        prompt do not fit, or the template's refusal."""
        if row in self._refused:
            return self._refused[row]
        if row not in self._results:
            return None if row in self._slots else Limit.PROMPT
        suffix = self._suffixes[self._results.pop(row)]
        if isinstance(suffix, Refusal):
            return suffix
        transcript = self.transcripts[row]
        used = len(transcript.completion_ids) + len(suffix)
        if used >= self._limits.completion_tokens:
            return Limit.TOKENS
        if len(transcript.prompt_ids) + used >= self._engine.context_length:
            return Limit.CONTEXT
        self._pending[row] = suffix
        self._record(row, suffix, sampled=False)
        return None

    def _within_budget(self, row: int, generation: Generation) -> Generation:
        """The turn, cut to the budget of all turns: the engine knows only one limit per turn, shared by the batch."""
        room = self._limits.completion_tokens - len(self.transcripts[row].completion_ids)
        fits = len(generation.token_ids) <= room
        return generation if fits else Generation(generation.token_ids[:room], finished=False)

    def _limit_reached(self, row: int, turn: Generation) -> Limit:
        """Why a turn that is not in the transcript yet was cut."""
        if len(turn.token_ids) >= self._limits.tokens_per_turn:
            return Limit.TURN_TOKENS
        used = len(self.transcripts[row].completion_ids) + len(turn.token_ids)
        return Limit.TOKENS if used >= self._limits.completion_tokens else Limit.CONTEXT

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

    def generate(self, rows: Sequence[int]) -> Iterator[tuple[int, Reply | Limit | Refusal]]:
        active = [row for row in rows if self._written[row] < self._limits.completion_tokens]
        requests = [ChatRequest(tuple(self._messages[row]), self._tools[row]) for row in active]
        replies = dict(zip(active, self._engine.reply(requests, self._sampling) if requests else [], strict=True))
        for row in rows:
            yield row, self._taken(row, replies[row]) if row in replies else Limit.TOKENS

    def _taken(self, row: int, reply: Reply | None) -> Reply | Limit:
        if reply is None:
            return Limit.CONTEXT if self._written[row] else Limit.PROMPT
        self._messages[row].append(reply.message)
        self._written[row] += reply.tokens
        if reply.finished or reply.cut_by is not None:
            return reply
        # A server says only that the turn was cut; without a count of tokens, the turn's limit is the likely reason.
        full = 0 < reply.tokens < self._limits.tokens_per_turn
        return replace(reply, cut_by=Limit.CONTEXT if full else Limit.TURN_TOKENS)

    def append_results(self, row: int, results: Sequence[Message]) -> None:
        self._messages[row] += results
