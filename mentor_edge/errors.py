"""The error tree.

Every failure that a user can cause or meet is one `MentorEdgeError`: what failed with the value seen,
and a hint that says what to do. The command line prints it in one or two lines and exits with
`exit_code`; anything else that escapes is a defect of ours. A bad rollout is never an error: the
trajectory records how it ended.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MentorEdgeError(Exception):
    """Base of all errors raised on purpose. `problem` says what failed, `hint` what to do about it."""

    exit_code = 1

    def __init__(self, problem: str, hint: str | None = None) -> None:
        super().__init__(problem, hint)  # what pickle hands back to the class: errors cross process borders
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        return self.problem if self.hint is None else f"{self.problem}\n{self.hint}"


class ConfigError(MentorEdgeError):
    """A recipe configuration is wrong. `problems` holds every mistake found, not only the first."""

    def __init__(self, problems: list[str], hint: str | None = None) -> None:
        self.problems = problems
        count = f"{len(problems)} mistakes in the configuration" if len(problems) > 1 else "configuration"
        super().__init__(f"{count}: " + "; ".join(problems), hint)
        self.args = (problems, hint)


class TaskError(MentorEdgeError):
    """A tasks file is missing or malformed."""


class StudentError(MentorEdgeError):
    """A student directory or hub id cannot be loaded or lacks something that tool use needs."""


class ToolDefinitionError(MentorEdgeError):
    """A tool is defined wrongly (failures while a tool runs are data, not exceptions)."""


class ToolServerError(MentorEdgeError):
    """An MCP server cannot be started or reached, or offers tools that nobody can call."""


class EngineError(MentorEdgeError):
    """A runtime could not load a model or died while decoding."""


class RewardError(MentorEdgeError):
    """A user's reward function raised an exception, or did not return a finite number."""


class StalledError(MentorEdgeError):
    """Training stopped: for many steps no group of rollouts differed in reward, so nothing could be learned."""


class OutputError(MentorEdgeError):
    """An output directory is in the way, or a file cannot be written."""


class RunError(MentorEdgeError):
    """A run directory is missing, incomplete or inconsistent."""


class ExportError(MentorEdgeError):
    """Conversion or quantization failed, or the converted file does not agree with its source."""


class ArtifactError(MentorEdgeError):
    """An artifact's manifest or files are missing, damaged or of another version, or it has no such model to ship."""


class GateFailed(MentorEdgeError):
    """The exported file lost accuracy: its paired interval excludes zero and reaches the margin."""

    exit_code = 3


class GateInconclusive(MentorEdgeError):
    """Too few items to tell a loss from noise at this margin."""

    exit_code = 4


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the known one that it is nearest to, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else f" (known: {', '.join(known) or 'none'})"
