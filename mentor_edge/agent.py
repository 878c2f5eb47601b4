"""The multi-turn tool loop over an engine: the same code for rollouts, evaluation, the gate and the device.

What happens to a tool call after the model has written it:

1. parse: `dialogue.generate` decodes the turn, and `tool_calls.parse_turn` reads its calls (or marks it malformed).
2. decide: `_State.take` decides whether the conversation ends here or the calls are executed.
3. validate and execute: `tools.execution.executor.ToolExecutor.run_all` checks each call's name and its arguments
   (against the tool's JSON Schema) and runs the tool in a child process. A failure becomes a result with an error text.
4. append: `dialogue.append_results` renders the results with the model's own template (`chat.tool_suffix`).
5. next turn: back to 1, until the model answers or a limit of `AgentLimits` ends the conversation (`Ending`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from mentor_edge.chat.setting import checked_setting
from mentor_edge.dialogue import Conversation, Dialogues, Refusal, Transcript, open_dialogues
from mentor_edge.engines.base import ChatEngine, Engine, Reply
from mentor_edge.inspection.tool_use import engine_warnings, warn
from mentor_edge.messages import Ending, Limit, Message, Trajectory
from mentor_edge.progress import Progress, no_progress
from mentor_edge.tasks.answers.judge import boxed_answer
from mentor_edge.tasks.types import AgentLimits
from mentor_edge.template_record import Scalar
from mentor_edge.tools.execution.executor import Session, ToolExecutor, ToolRequest, ToolResult
from mentor_edge.tools.types import Tool

__all__ = ["AgentLimits", "ToolAgent", "run_conversations"]


@dataclass(slots=True)
class _State:
    """One conversation in progress. `session` keeps the state of its stateful tools."""

    task: Conversation
    session: Session
    messages: list[Message] = field(default_factory=list)
    rounds: int = 0
    tokens: int = 0
    tool_errors: int = 0
    unknown_tools: list[str] = field(default_factory=list)
    ending: Ending | None = None
    cut_by: Limit | None = None
    reason: str | None = None
    own_spelling: bool | None = None
    ended: float = 0.0

    def take(self, reply: Reply | Limit | Refusal, limits: AgentLimits) -> None:
        """Add the model's turn and decide whether the conversation ends with it."""
        if isinstance(reply, Refusal):
            self.ending, self.reason = Ending.MALFORMED, reply.reason
            return
        if isinstance(reply, Limit):
            self.ending, self.cut_by = Ending.OUT_OF_TOKENS, reply
            return
        self.messages.append(reply.message)
        self.tokens += reply.tokens
        if reply.own_spelling is not None:
            self.own_spelling = reply.own_spelling and self.own_spelling is not False
        if not reply.finished:
            self.ending, self.cut_by = Ending.TRUNCATED, reply.cut_by
        elif reply.malformed:
            self.ending = Ending.MALFORMED
        elif not reply.message.tool_calls:
            self.ending = Ending.ANSWERED
        elif self.rounds >= limits.tool_rounds:
            self.ending = Ending.OUT_OF_TURNS
            # Without any round, the first calls are all that was wanted.
            self.cut_by = Limit.ROUNDS if limits.tool_rounds else None
        else:
            self.rounds += 1

    def requests(self) -> list[ToolRequest]:
        """The calls of the last turn that are still to be executed."""
        if self.ending is not None:
            return []
        return [ToolRequest(call, self.task.tools_by_name, self.session) for call in self.messages[-1].tool_calls]

    def answer_calls(self, results: Sequence[ToolResult]) -> list[Message]:
        """Add the results of the last turn's calls and return them as messages."""
        calls = self.messages[-1].tool_calls
        answers = [Message("tool", r.content, name=call.name) for call, r in zip(calls, results, strict=True)]
        self.messages += answers
        self.tool_errors += sum(result.failed for result in results)
        self.unknown_tools += [call.name for call, r in zip(calls, results, strict=True) if r.unknown_tool]
        return answers

    def trajectory(self, transcript: Transcript, started: float) -> Trajectory:
        assert self.ending is not None
        answer = boxed_answer(self.messages[-1].content) if self.ending is Ending.ANSWERED else None
        return Trajectory(
            tuple(self.messages),
            answer,
            self.ending,
            transcript.prompt_ids,
            transcript.completion_ids,
            transcript.sampled,
            self.tool_errors,
            tuple(self.unknown_tools),
            self.tokens,
            self.reason,
            self.ended - started,
            self.cut_by,
            self.own_spelling,
        )


def run_conversations(
    engine: Engine | ChatEngine,
    tasks: Sequence[Conversation],
    executor: ToolExecutor,
    limits: AgentLimits,
    *,
    temperature: float = 0.0,
    strict_calls: bool = False,
    progress: Progress = no_progress,
    on_end: Callable[[int, Trajectory], None] | None = None,
) -> list[Trajectory]:
    """Run every conversation to its end, `engine.batch_size` at a time. `progress` counts the finished ones.

    Tools really run. A failure in one conversation is recorded in its trajectory and affects no other. `on_end` is
    called with the index of a task and its trajectory as soon as the conversation ends, while others still run. With
    `strict_calls`, calls in another spelling than that of the engine's own template are malformed.

    Raises: StudentError when the template is not valid Jinja; EngineError when the runtime fails.
    """
    ended: dict[int, Trajectory] = {}

    def end(start: int, row: int, trajectory: Trajectory) -> None:
        ended[start + row] = trajectory
        if on_end is not None:
            on_end(start + row, trajectory)
        progress("conversations", len(ended), len(tasks))

    for start in range(0, len(tasks), engine.batch_size):
        wave = tasks[start : start + engine.batch_size]
        _run_wave(engine, wave, executor, limits, temperature, strict_calls, partial(end, start))
    return [ended[index] for index in range(len(tasks))]


def _run_wave(
    engine: Engine | ChatEngine,
    tasks: Sequence[Conversation],
    executor: ToolExecutor,
    limits: AgentLimits,
    temperature: float,
    strict_calls: bool,
    on_end: Callable[[int, Trajectory], None],
) -> None:
    started = time.monotonic()
    with ExitStack() as stack:
        dialogues = stack.enter_context(open_dialogues(engine, tasks, limits, temperature, strict_calls=strict_calls))
        states = [_State(task, stack.enter_context(executor.session())) for task in tasks]
        for row in _take_turns(dialogues, states, executor, limits):
            on_end(row, states[row].trajectory(dialogues.transcripts[row], started))


def _take_turns(
    dialogues: Dialogues, states: Sequence[_State], executor: ToolExecutor, limits: AgentLimits
) -> Iterator[int]:
    """Alternate between the model and the tools until every conversation has ended. Yields those that end.

    The calls of all conversations run concurrently.
    """
    while active := [row for row, state in enumerate(states) if state.ending is None]:
        for row, reply in dialogues.generate(active):
            states[row].take(reply, limits)
            states[row].ended = time.monotonic()
            if states[row].ending is not None:
                yield row
        requests = {row: states[row].requests() for row in active}
        results = iter(executor.run_all([request for row_requests in requests.values() for request in row_requests]))
        for row, row_requests in requests.items():
            if row_requests:
                dialogues.append_results(row, states[row].answer_calls(list(islice(results, len(row_requests)))))


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
    """A model with tools, ready to answer: `ToolAgent.load("model.gguf", tools=[...]).run("...")`.

    Use it as a context manager, or call `close` when you are done: the tools run in child processes, and so do most
    models.

    Args:
        engine: an open model. It stays yours: `close` does not close it.
        tools: the tools the model may call. The model sees them in alphabetical order, as in training.
        limits: rounds of tool calls, tokens per turn and tokens in all; the default is `AgentLimits()`.

    If the model's chat template drops tools, calls or results, `warnings` says so, and Python gets a
    `MentorEdgeWarning`: the model then never sees the tools.
    """

    def __init__(self, engine: Engine | ChatEngine, tools: Sequence[Tool], limits: AgentLimits | None = None) -> None:
        self.engine = engine
        # Training renders tools in alphabetical order, so the model must see the same order on the device.
        self.tools = tuple(sorted(tools, key=lambda tool: tool.name))
        self.limits = limits or AgentLimits()
        self.warnings = engine_warnings(engine) if self.tools else ()
        warn(self.warnings)
        self._executor = ToolExecutor()
        self._opened = ExitStack()  # the engine, if `load` opened it; otherwise it belongs to the caller

    @classmethod
    def load(
        cls,
        path: str | Path,
        tools: Sequence[Tool],
        limits: AgentLimits | None = None,
        *,
        threads: int | None = None,
        context_length: int | None = None,
        template: str | Path | None = None,
        template_arguments: Mapping[str, Scalar] | None = None,
    ) -> ToolAgent:
        """Open a model in its own runtime and offer it the tools.

        Args:
            path: a GGUF file, an ONNX directory, a Hugging Face directory, or the URL of an OpenAI-compatible endpoint
                that serves exactly one model. A file that belongs to an artifact is first checked against its manifest.
            tools: the tools the model may call.
            limits: rounds of tool calls, tokens per turn and tokens in all; the default is `AgentLimits()`.
            threads: processor threads of the runtime; the default suits the model (see `open_engine`).
            context_length: tokens of the conversation; the default is the model's own length, of which llama.cpp and
                onnxruntime-genai use at most 4,096.
            template: a chat template to use instead of the model's own: "hermes", "neutral" or the path of a .jinja
                file.
            template_arguments: variables to set in the chat template, such as {"enable_thinking": False}.

        Returns:
            An agent whose `close` also closes the model.

        Raises:
            EngineError: when the model is missing, damaged or not supported by its runtime.
            StudentError: when a Hugging Face directory cannot be loaded, or the template cannot be used.
            ConfigError: when a template setting is wrong.
            ArtifactError: when a file differs from the manifest of the artifact it belongs to.
        """
        from mentor_edge.engines.open import open_engine

        setting = checked_setting(template, template_arguments or {})
        with ExitStack() as opened:
            engine = open_engine(path, threads=threads, context_length=context_length, template=setting)
            agent = cls(opened.enter_context(engine), tools, limits)
            agent._opened = opened.pop_all()
        return agent

    def run(self, question: str | Sequence[Message]) -> Trajectory:
        """Answer one question, executing the tool calls that the model makes.

        Args:
            question: the user's question, or a whole conversation in order (system message first).

        Returns:
            The trajectory: the messages after the prompt, the final answer and how the conversation ended. A tool that
            fails is part of it, not an exception, and so is a conversation that the chat template cannot render.

        Raises:
            StudentError: when the model's chat template is not valid Jinja.
            EngineError: when the runtime fails.
        """
        prompt = (Message("user", question),) if isinstance(question, str) else tuple(question)
        task = _Question(prompt, self.tools)
        return run_conversations(self.engine, [task], self._executor, self.limits)[0]

    def close(self) -> None:
        """End the processes of the tools, and close the model if `load` opened it. Safe to call twice."""
        self._executor.close()
        self._opened.close()

    def __enter__(self) -> ToolAgent:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
