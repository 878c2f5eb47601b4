"""Whether a chat template can carry tool use: the check that `fit` and `export` make, and the warning of the others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

from mentor_edge.chat import ChatTemplate
from mentor_edge.chat.setting import fitting_template
from mentor_edge.engines.base import ChatEngine, Engine
from mentor_edge.errors import MentorEdgeWarning, StudentError
from mentor_edge.inspection.template import probe_template

HasToken = Callable[[str], bool]
"""Whether a text is one token."""


def require_tool_use(template: ChatTemplate, student: str, has_token: HasToken) -> None:
    """Refuse a template that drops tools, calls or results, or that writes calls which the parser cannot read.

    Args:
        template: The template as it will be used.
        student: The student's name, for the message.
        has_token: Whether a text is one token of the student.

    Raises:
        StudentError: The template cannot carry tool use; the hint names one that can.
    """
    problems = probe_template(template).problems
    if problems:
        raise StudentError(
            f"the chat template of {student!r} cannot be used with tools: {'; '.join(problems)}",
            f"{template_hint(fitting_template(has_token))}; "
            f"`mentor-edge inspect {student}` shows what reaches the model",
        )


def template_hint(name: str) -> str:
    """How to replace a template that cannot carry tool use by the template `name`."""
    return f"use `template: {name}` in the recipe file, --template {name} on the command line, or a file of your own"


def tool_use_warnings(template: ChatTemplate, has_token: HasToken) -> tuple[str, ...]:
    """What to say beside every figure of a model whose template cannot carry tool use. Empty if it can."""
    problems = probe_template(template).problems
    if not problems:
        return ()
    name = fitting_template(has_token)
    return (
        f"the chat template cannot carry tool use: {'; '.join(problems)}. This says nothing about the model's skill: "
        f"use --template {name}",
    )


def engine_warnings(engine: Engine | ChatEngine) -> tuple[str, ...]:
    """`tool_use_warnings` about an open model. An endpoint's template cannot be seen: it renders messages itself.

    Raises: EngineError when the model has no template.
    """
    if isinstance(engine, ChatEngine):
        return ()
    return tool_use_warnings(engine.template, lambda text: len(engine.encode([text])[0]) == 1)


def warn(messages: Sequence[str], stacklevel: int = 3) -> None:
    """Issue each message as a `MentorEdgeWarning`."""
    for message in messages:
        warnings.warn(message, MentorEdgeWarning, stacklevel=stacklevel)
