"""Ask an exported file a question and let it call tools: what runs on the device.

    python examples/agent_on_a_file.py                                  # after `make quickstart`
    python examples/agent_on_a_file.py model.gguf "What is 17 times 23?"

The file may be GGUF (llama.cpp) or an ONNX directory (ONNX Runtime); a Hugging Face directory works too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mentor_edge import ToolAgent
from mentor_edge.errors import MentorEdgeError
from mentor_edge.tools.calculator import CALCULATOR

QUESTION = "lea has 15.9 coins. lea rounds to 0 decimals. lea raises it to the power 2. what is the result?"
OFFERED = ("add", "multiply", "power", "round_number")


def main(arguments: argparse.Namespace) -> None:
    tools = [tool for tool in CALCULATOR if tool.name in OFFERED]
    with ToolAgent.load(arguments.file, tools) as agent:
        trajectory = agent.run(arguments.question)

    for message in trajectory.messages:
        calls = [f"{call.name}({dict(call.arguments)})" for call in message.tool_calls]
        print(f"{message.role}: {' '.join([message.content, *calls]).strip()}")
    print(f"answer: {trajectory.answer} ({trajectory.ending})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=Path("runs/quickstart/artifact/model-q8_0.gguf"))
    parser.add_argument("question", nargs="?", default=QUESTION)
    try:
        main(parser.parse_args())
    except MentorEdgeError as error:
        sys.exit(str(error))
