"""`mentor-edge run`: ask a model one question."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from mentor_edge.cli.options import (
    Context,
    Json,
    MaxRounds,
    MaxTokens,
    MaxTurnTokens,
    Quant,
    TemplateArguments,
    TemplateName,
    Threads,
    Tools,
    changed_limits,
)
from mentor_edge.cli.screen import StageProgress, console, print_json, print_warning
from mentor_edge.cli.tables import print_conversation
from mentor_edge.progress import announced
from mentor_edge.readable import counted, harmless

if TYPE_CHECKING:
    from mentor_edge.agent import ToolAgent
    from mentor_edge.messages import Trajectory


def run(
    target: Annotated[Path, typer.Argument(help="A run, an artifact, a GGUF file, an ONNX or Hugging Face directory.")],
    question: Annotated[str, typer.Argument(help="The question.")],
    tools: Tools = None,
    quant: Quant = None,
    max_turn_tokens: MaxTurnTokens = None,
    max_tokens: MaxTokens = None,
    max_rounds: MaxRounds = None,
    context: Context = None,
    threads: Threads = None,
    template: TemplateName = None,
    template_arguments: TemplateArguments = None,
    as_json: Json = False,
) -> None:
    """Ask a model one question and execute its tool calls. Default tools: the calculator's."""
    from mentor_edge.agent import AgentLimits, ToolAgent
    from mentor_edge.chat.setting import parse_arguments
    from mentor_edge.cli.targets import resolve_target
    from mentor_edge.tools.catalog import load_tools

    arguments = parse_arguments(template_arguments or [])
    path = resolve_target(target, quant)
    limits = changed_limits(AgentLimits(), max_turn_tokens, max_tokens, max_rounds)
    with StageProgress() as progress, load_tools(tools or ["calculator"]) as loaded, ExitStack() as opened:
        with announced(progress, "load the model"):
            agent = opened.enter_context(
                ToolAgent.load(
                    path,
                    loaded.tools,
                    limits,
                    threads=threads,
                    context_length=context,
                    template=template,
                    template_arguments=arguments,
                )
            )
        for warning in agent.warnings:
            print_warning(warning)
        with announced(progress, "answer the question"):
            trajectory = agent.run(question)
        cut = _cut_off(trajectory, agent)
        used_threads = getattr(agent.engine, "threads", None)
    print_conversation(question, trajectory.messages)
    if trajectory.answer is not None:
        console.print(Text.assemble(("answer", "bold"), f" {harmless(trajectory.answer)}"))
    if cut is not None:
        print_warning(cut)
    elif not trajectory.terminated:
        print_warning(f"no answer: {trajectory.ending.replace('_', ' ')}")
    elif trajectory.reason is not None:
        print_warning(f"no answer: {trajectory.reason}")
    elif trajectory.ending == "malformed":
        print_warning("no answer: the last turn contains a tool call that cannot be read")
    if used_threads is not None:
        console.print(Text(counted(used_threads, "thread"), "dim"))
    if as_json:
        print_json(
            {
                "answer": trajectory.answer,
                "text": trajectory.text,
                "ending": trajectory.ending,
                "reason": trajectory.reason,
                "cut_by": trajectory.cut_by,
                "prompt_tokens": len(trajectory.prompt_ids),
                "tokens": trajectory.tokens,
                "threads": used_threads,
                "warnings": list(agent.warnings),
                "messages": [message.to_openai() for message in trajectory.messages],
            }
        )
    if not trajectory.messages:
        raise typer.Exit(1)


def _cut_off(trajectory: Trajectory, agent: ToolAgent) -> str | None:
    """Which limit cut the conversation off, and what to do; None if none did."""
    from mentor_edge.evaluation.cut_off import HINTS
    from mentor_edge.messages import Limit

    context = getattr(agent.engine, "context_length", None)
    of_the_context = "the context" if context is None else f"the context of {context:,}"
    prompt, limits = len(trajectory.prompt_ids), agent.limits
    if trajectory.cut_by is None:
        return None
    hint = HINTS[trajectory.cut_by]
    if trajectory.cut_by is Limit.PROMPT:
        size = f"a prompt of {counted(prompt, 'token')}" if prompt else "the prompt"
        return f"{size} does not fit {of_the_context}; offer fewer tools, or {hint}"
    if trajectory.cut_by is Limit.CONTEXT:
        return f"cut off: the conversation filled {of_the_context}; {hint}"
    value, noun, scope = {
        Limit.TURN_TOKENS: (limits.tokens_per_turn, "token", "in one turn"),
        Limit.TOKENS: (limits.completion_tokens, "token", "in all"),
        Limit.ROUNDS: (limits.tool_rounds, "round", "of tool calls"),
    }[trajectory.cut_by]
    return f"cut off after {counted(value, noun)} {scope}; {hint}"
