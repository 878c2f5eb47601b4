"""Options that several commands share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from mentor_edge.engines.process.machine import default_threads

if TYPE_CHECKING:
    from mentor_edge.tasks.types import AgentLimits

Tools = Annotated[
    list[str] | None,
    typer.Option(
        "--tools",
        metavar="SPEC",
        help="Tools with an implementation; repeatable: calculator, names of its tools (add,subtract), python, "
        "mcp:COMMAND or mcp:URL, search:CORPUS.jsonl, import:MODULE:NAME, import:FILE.py:NAME, or a mapping as in "
        "a recipe ('{mcp: COMMAND, only: [TOOL]}').",
    ),
]
Quant = Annotated[str | None, typer.Option(help="Which exported file of the target to use. Default: the first.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; repeatable.")
]
TemplateName = Annotated[
    str | None,
    typer.Option(
        "--template",
        metavar="NAME",
        help="Chat template to use instead of the model's own: hermes, neutral, or the path of a .jinja file.",
    ),
]
TemplateArguments = Annotated[
    list[str] | None,
    typer.Option(
        "--template-argument",
        metavar="NAME=VALUE",
        help="A variable to set in the chat template, such as enable_thinking=false; repeatable.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]

MaxTurnTokens = Annotated[
    int | None, typer.Option(min=1, help="Maximum number of tokens in one turn. Default: the suite's, or 512.")
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        min=1, help="Maximum number of tokens in all turns, tool results included. Default: the suite's, or 2048."
    ),
]
MaxRounds = Annotated[
    int | None, typer.Option(min=1, help="Maximum number of turns that call tools. Default: the suite's, or 6.")
]
Context = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Context length in tokens. Default: the model's own, at most 4096 for GGUF and ONNX.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=512,  # llama.cpp's GGML_MAX_N_THREADS; it crashes above
        help="Processor threads. Default: 1 for models below 64 MB, else OMP_NUM_THREADS or "
        f"the physical cores of this machine (here {default_threads()}).",
    ),
]


def changed_limits(
    limits: AgentLimits, max_turn_tokens: int | None, max_tokens: int | None, max_rounds: int | None
) -> AgentLimits:
    """The limits with those that the user gave. A longer turn makes room for itself in the whole conversation."""
    per_turn = max_turn_tokens or limits.tokens_per_turn
    return replace(
        limits,
        # A suite without rounds, such as bfcl, ends with the first turn in any case.
        tool_rounds=(max_rounds or limits.tool_rounds) if limits.tool_rounds else 0,
        tokens_per_turn=per_turn,
        completion_tokens=max_tokens or max(limits.completion_tokens, per_turn),
    )


def parts(text: str | None) -> list[str] | None:
    """The parts of an option whose values are separated by commas."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]
