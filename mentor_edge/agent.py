"""The multi-turn tool loop over an engine: the same code for rollouts, evaluation, the gate and the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mentor_edge.chat import parse_turn
from mentor_edge.engines.base import Engine, Generation, Sampling
from mentor_edge.messages import Ending, Message, Trajectory
from mentor_edge.tasks.answers import boxed_answer
from mentor_edge.tools.executor import ToolExecutor
from mentor_edge.tools.types import Tool


class Conversation(Protocol):
    """What the loop needs of a task: its prompt and its tools. Every `Task` is one."""

    @property
    def prompt(self) -> tuple[Message, ...]: ...
    @property
    def tools_by_name(self) -> dict[str, Tool]: ...
    @property
    def tool_schemas(self) -> tuple[dict[str, Any], ...]: ...


@dataclass(frozen=True, slots=True)
class AgentLimits:
    """Limits of one conversation: tool-calling rounds, tokens the model may write per turn, and tokens of all turns
    together (tool results included)."""

    tool_rounds: int = 6
    tokens_per_turn: int = 256
    completion_tokens: int = 1024


@dataclass(slots=True)
class _State:
    """One conversation in progress. `pending` are the ids to append before the model's next turn."""

    task: Conversation
    prompt_ids: list[int]
    pending: list[int]
    messages: list[Message] = field(default_factory=list)
    completion_ids: list[int] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)
    rounds: int = 0
    tool_errors: int = 0
    unknown_tools: list[str] = field(default_factory=list)
    ending: Ending | None = None

    def add_generation(self, generation: Generation) -> None:
        self.completion_ids += generation.token_ids
        self.sampled += [1] * len(generation.token_ids)

    def add_tool_text(self, token_ids: list[int]) -> None:
        self.completion_ids += token_ids
        self.sampled += [0] * len(token_ids)
        self.pending = token_ids

    def trajectory(self) -> Trajectory:
        assert self.ending is not None
        answer = boxed_answer(self.messages[-1].content) if self.ending is Ending.ANSWERED else None
        return Trajectory(
            tuple(self.messages), answer, self.ending, self.prompt_ids, self.completion_ids, self.sampled,
            self.tool_errors, tuple(self.unknown_tools),
        )  # fmt: skip


def run_conversations(
    engine: Engine,
    tasks: Sequence[Conversation],
    executor: ToolExecutor,
    limits: AgentLimits,
    *,
    temperature: float = 0.0,
    on_progress: Callable[[int], None] | None = None,
) -> list[Trajectory]:
    """Run every task to its end, `engine.batch_size` at a time. `on_progress` gets the number of finished tasks.

    Tools are executed for real; what goes wrong in one conversation ends up in its trajectory and in no other.
    """
    trajectories: list[Trajectory] = []
    for start in range(0, len(tasks), engine.batch_size):
        wave = tasks[start : start + engine.batch_size]
        trajectories += _run_wave(engine, wave, executor, limits, temperature)
        if on_progress is not None:
            on_progress(len(trajectories))
    return trajectories


def _run_wave(
    engine: Engine, tasks: Sequence[Conversation], executor: ToolExecutor, limits: AgentLimits, temperature: float
) -> list[Trajectory]:
    prompts = engine.encode(
        [engine.template.render(task.prompt, task.tool_schemas, add_generation_prompt=True) for task in tasks]
    )
    states = [_State(task, ids, ids) for task, ids in zip(tasks, prompts, strict=True)]
    for state in states:
        if len(state.prompt_ids) + 1 > engine.context_length:
            state.ending = Ending.OUT_OF_TOKENS
    if fitting := [state for state in states if state.ending is None]:
        _take_turns(engine, fitting, executor, limits, temperature)
    return [state.trajectory() for state in states]


def _take_turns(
    engine: Engine, states: Sequence[_State], executor: ToolExecutor, limits: AgentLimits, temperature: float
) -> None:
    """Let the model and the tools take turns, until every conversation has ended."""
    suffixes: dict[tuple[tuple[str | None, str], ...], list[int]] = {}
    with engine.open(len(states)) as conversations:
        while active := [row for row, state in enumerate(states) if state.ending is None]:
            sampling = Sampling(limits.tokens_per_turn, temperature)
            pending = [states[row].pending for row in active]
            generations = [
                _within(limits.completion_tokens - len(states[row].completion_ids), generation)
                for row, generation in zip(active, conversations.extend(active, pending, sampling), strict=True)
            ]
            texts = engine.decode([g.token_ids[:-1] if g.finished else g.token_ids for g in generations])
            for row, generation, text in zip(active, generations, texts, strict=True):
                _take_turn(states[row], generation, text, executor, limits)
            _queue_tool_results(engine, [states[row] for row in active], limits, suffixes)


def _within(room: int, generation: Generation) -> Generation:
    """The turn, cut where the budget of the whole completion ends: all rows of a batch share one limit per turn."""
    fits = len(generation.token_ids) <= room
    return generation if fits else Generation(generation.token_ids[:room], finished=False)


def _take_turn(state: _State, generation: Generation, text: str, executor: ToolExecutor, limits: AgentLimits) -> None:
    state.add_generation(generation)
    turn = parse_turn(text)
    state.messages.append(turn.message)
    if not generation.finished:
        state.ending = Ending.TRUNCATED
    elif turn.malformed:
        state.ending = Ending.MALFORMED
    elif not turn.message.tool_calls:
        state.ending = Ending.ANSWERED
    elif state.rounds >= limits.tool_rounds:
        state.ending = Ending.OUT_OF_TURNS
    else:
        state.rounds += 1
        for call in turn.message.tool_calls:
            result = executor.run(call, state.task.tools_by_name)
            state.messages.append(Message("tool", result.content, name=call.name))
            state.tool_errors += result.failed
            if result.unknown_tool:
                state.unknown_tools.append(call.name)


def _queue_tool_results(
    engine: Engine,
    states: Sequence[_State],
    limits: AgentLimits,
    suffixes: dict[tuple[tuple[str | None, str], ...], list[int]],
) -> None:
    """Queue the tool results of the last turn as the next input, or end conversations that have no room for them."""
    waiting = [state for state in states if state.ending is None]
    keys = []
    for state in waiting:
        last_call = max(i for i, message in enumerate(state.messages) if message.role == "assistant")
        keys.append(tuple((message.name, message.content) for message in state.messages[last_call + 1 :]))
    unseen = [key for key in dict.fromkeys(keys) if key not in suffixes]
    rendered = [
        engine.template.tool_suffix([Message("tool", content, name=name) for name, content in key]) for key in unseen
    ]
    suffixes.update(zip(unseen, engine.encode(rendered) if rendered else [], strict=True))
    for state, key in zip(waiting, keys, strict=True):
        used = len(state.completion_ids) + len(suffixes[key])
        if used >= limits.completion_tokens or len(state.prompt_ids) + used >= engine.context_length:
            state.ending = Ending.OUT_OF_TOKENS
        else:
            state.add_tool_text(list(suffixes[key]))


@dataclass(frozen=True)
class _Question:
    prompt: tuple[Message, ...]
    tools: tuple[Tool, ...]

    @property
    def tools_by_name(self) -> dict[str, Tool]:
        return {tool.name: tool for tool in self.tools}

    @property
    def tool_schemas(self) -> tuple[dict[str, Any], ...]:
        return tuple(tool.to_openai() for tool in self.tools)


class ToolAgent:
    """A model with tools, ready to answer: `ToolAgent.load("model.gguf", tools=[...]).run("...")`."""

    def __init__(self, engine: Engine, tools: Sequence[Tool], limits: AgentLimits | None = None) -> None:
        self.engine = engine
        # Training renders tools in alphabetical order; a model must meet the same order on the device.
        self.tools = tuple(sorted(tools, key=lambda tool: tool.name))
        self.limits = limits or AgentLimits()
        self._executor = ToolExecutor()

    @classmethod
    def load(cls, path: str | Path, tools: Sequence[Tool], limits: AgentLimits | None = None) -> ToolAgent:
        """Open an exported file in its own runtime.

        Raises: EngineError when the file cannot be loaded.
        """
        from mentor_edge.engines.llama_cpp import LlamaCppEngine

        return cls(LlamaCppEngine(path), tools, limits)

    def run(self, question: str | Sequence[Message]) -> Trajectory:
        """Answer one question, executing tools as the model asks for them."""
        prompt = (Message("user", question),) if isinstance(question, str) else tuple(question)
        task = _Question(prompt, self.tools)
        return run_conversations(self.engine, [task], self._executor, self.limits)[0]

    def close(self) -> None:
        self._executor.close()
        close = getattr(self.engine, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> ToolAgent:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
