"""`mentor-edge run`: ask a model one question."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mentor_edge.cli.options import Json, Quant, Tools, parts
from mentor_edge.cli.screen import console, print_json, print_warning
from mentor_edge.cli.tables import print_conversation


def run(
    target: Annotated[Path, typer.Argument(help="A run, an artifact, a GGUF file, an ONNX or Hugging Face directory.")],
    question: Annotated[str, typer.Argument(help="The question.")],
    tools: Tools = None,
    quant: Quant = None,
    as_json: Json = False,
) -> None:
    """Ask a model one question and execute its tool calls. Default tools: the calculator's."""
    from mentor_edge.agent import ToolAgent
    from mentor_edge.cli.targets import resolve_target
    from mentor_edge.tools.catalog import load_tools

    path = resolve_target(target, quant)
    # Names of calculator tools may share one option, separated by commas. Commands and paths may contain commas.
    specs = [part for spec in tools or ["calculator"] for part in ([spec] if ":" in spec else parts(spec) or [])]
    with load_tools(specs) as loaded, ToolAgent.load(path, loaded.tools) as agent:
        for warning in agent.warnings:
            print_warning(warning)
        trajectory = agent.run(question)
    print_conversation(question, trajectory.messages)
    console.print(f"[bold]answer[/bold] {trajectory.answer} ({trajectory.ending})")
    if as_json:
        messages = [message.to_openai() for message in trajectory.messages]
        answer = {"answer": trajectory.answer, "ending": trajectory.ending, "messages": messages}
        print_json(answer | {"warnings": list(agent.warnings)})
