"""mentor-edge: distil tool use into a small language model, and refuse to ship a file that lost the skill.

Names are loaded when they are first used: importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mentor_edge.agent import ToolAgent
    from mentor_edge.evaluation.evaluate import evaluate
    from mentor_edge.messages import Message, ToolCall, Trajectory
    from mentor_edge.preflight import inspect_student
    from mentor_edge.tasks.registry import load_suite
    from mentor_edge.tasks.types import Suite, Task
    from mentor_edge.tools.definition import tool, tool_set
    from mentor_edge.tools.types import Tool

# Before the libraries load that would send usage figures, or record them in the home directory for later.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

_HOMES = {
    "Message": "mentor_edge.messages",
    "Suite": "mentor_edge.tasks.types",
    "Task": "mentor_edge.tasks.types",
    "Tool": "mentor_edge.tools.types",
    "ToolAgent": "mentor_edge.agent",
    "ToolCall": "mentor_edge.messages",
    "Trajectory": "mentor_edge.messages",
    "evaluate": "mentor_edge.evaluation.evaluate",
    "inspect_student": "mentor_edge.preflight",
    "load_suite": "mentor_edge.tasks.registry",
    "tool": "mentor_edge.tools.definition",
    "tool_set": "mentor_edge.tools.definition",
}

__all__ = [
    "Message",
    "Suite",
    "Task",
    "Tool",
    "ToolAgent",
    "ToolCall",
    "Trajectory",
    "__version__",
    "evaluate",
    "inspect_student",
    "load_suite",
    "tool",
    "tool_set",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mentor_edge' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
