"""The errors that mentor-edge raises on purpose, and when.

Every failure that a user can cause or meet is a `MentorEdgeError`. `problem` states what failed, with the value seen;
`hint` states what to do. The command line prints both in one or two lines and exits with `exit_code`. Any other
exception that escapes is a bug in mentor-edge.

A bad rollout is never an error: its trajectory records how it ended. A tool that fails is not an error either: the
model reads what went wrong.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class MentorEdgeError(Exception):
    """The base class. Catch it to handle every error that mentor-edge raises on purpose.

    Attributes:
        problem: what failed, with the value seen.
        hint: what to do about it, or None.
        exit_code: of the command line.
    """

    exit_code = 1

    def __init__(self, problem: str, hint: str | None = None) -> None:
        super().__init__(problem, hint)  # pickle passes these to the class again: errors cross process borders
        self.problem = problem
        self.hint = hint or None

    def __str__(self) -> str:
        return self.problem if self.hint is None else f"{self.problem}\n{self.hint}"


class ConfigError(MentorEdgeError):
    """Settings are wrong: a recipe's configuration, or an argument of a public function.

    Attributes:
        problems: every mistake found, not only the first. Correct them all, then run again.
    """

    def __init__(self, problems: list[str], hint: str | None = None) -> None:
        self.problems = problems
        count = f"{len(problems)} mistakes in the configuration" if len(problems) > 1 else "configuration"
        super().__init__(f"{count}: " + "; ".join(problems), hint)
        self.args = (problems, hint)


class TaskError(MentorEdgeError):
    """A file of tasks, references or other rows is missing or malformed. Correct the lines that the message lists."""


class StudentError(MentorEdgeError):
    """A student cannot be loaded, or lacks something that tool use needs, such as a chat template.

    Use another model, or add what the message names.
    """


class ToolDefinitionError(MentorEdgeError):
    """A tool is defined wrongly: correct the function or its schema."""


class ToolServerError(MentorEdgeError):
    """An MCP server cannot be started or reached, or offers tools that cannot be called. Check its command or URL."""


class EngineError(MentorEdgeError):
    """A runtime cannot load a model, refuses a request, or died. `mentor-edge doctor` tests the runtimes."""


class RewardError(MentorEdgeError):
    """A user's reward function raised an exception or returned something other than a finite number: correct it."""


class StalledError(MentorEdgeError):
    """Training stopped because it could not learn: for many steps, all rollouts of each group had the same reward.

    Choose tasks that the student sometimes solves, or a reward that tells its attempts apart.
    """


class OutputError(MentorEdgeError):
    """An output directory exists already, or a file cannot be written. Choose another path or free some space."""


class RunError(MentorEdgeError):
    """A run directory is missing, incomplete or inconsistent. Give the directory that `fit` wrote, or fit again."""


class ExportError(MentorEdgeError):
    """Conversion or quantization failed, or the converted file does not agree with its source. Nothing was shipped."""


class ArtifactError(MentorEdgeError):
    """An artifact's manifest or files are missing, damaged or of another version, or it has no such model.

    Copy the artifact again, or export again.
    """


class GateFailed(MentorEdgeError):
    """The exported file lost accuracy: the interval of the paired difference excludes zero and reaches the margin.

    Export a kind with more bits, or fit again.
    """

    exit_code = 3


class GateInconclusive(MentorEdgeError):
    """The gate had too few items to tell a loss from noise at this margin. Use more items or a larger margin."""

    exit_code = 4


class MentorEdgeWarning(UserWarning):
    """Something runs, but not as it seems to: a template drops the tools, or a part of a schema is not checked.

    Python code receives it through the `warnings` module; the command line prints each message once. Results whose
    figures are affected carry the same text in a field named `warnings`.
    """


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Make a panic of a library in Rust, such as tokenizers, a RuntimeError: what it raises is not an `Exception`."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            raise RuntimeError(str(error)) from error
        raise


_LONGEST_NAME, _MOST_NAMES = 200, 100


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the most similar known name, or all of them."""
    short = [other for other in known if len(other) <= _LONGEST_NAME]  # comparing takes quadratic time
    near = difflib.get_close_matches(name, short, n=1) if len(name) <= _LONGEST_NAME else []
    if near:
        return f" (did you mean {near[0]!r}?)"
    shown = [other if other.isprintable() else ascii(other) for other in short[:_MOST_NAMES]]
    rest = f" and {len(short) - _MOST_NAMES} more" if len(short) > _MOST_NAMES else ""
    return f" (known: {', '.join(shown) or 'none'}{rest})"
