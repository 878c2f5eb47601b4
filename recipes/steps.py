"""The rows of metrics.jsonl: what a training step did, by kind of method."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pydantic

from mentor_edge.errors import RunError
from mentor_edge.results import first_problem


class Step(pydantic.BaseModel):
    """One update of the adapter, by any method. Rows of another version may have more fields."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")

    step: int
    """Its number, from 1."""
    loss: float
    """The training loss."""
    tokens: int
    """Tokens that the update processed."""


class SupervisedStep(Step):
    """A step that imitates references."""


class FlatGroups(pydantic.BaseModel):
    """Groups of rollouts that all earned the same reward for the same reasons: GRPO learns nothing from them."""

    model_config = pydantic.ConfigDict(frozen=True)

    reward: float
    """What each rollout earned."""
    reason: str
    """Why."""
    tasks: tuple[str, ...]
    """The task of each group."""


class PolicyStep(Step):
    """A step that learns from the student's own rollouts. Shares are of the step's rollouts."""

    reward: float
    """Mean reward."""
    accuracy: float
    """Share with the right answer."""
    zero_variance_groups: int
    """Groups whose rollouts all earned the same."""
    malformed: float
    """Share that ended with a call that cannot be read."""
    truncated: float
    """Share that was cut off by a token limit."""
    prompts_too_long: float = 0.0
    """Share whose prompt left no room in the context."""
    tool_errors: float
    """Mean number of failed calls."""
    calls: float
    """Mean number of calls."""
    entropy: float
    """Mean entropy of the sampled tokens, in nats."""
    completion_tokens: float
    """Mean length after the prompt, tool results included."""
    sampled_tokens: int
    """Tokens that the student generated."""
    flat_groups: tuple[FlatGroups, ...] = ()
    """The groups without a difference in reward."""


_OFTEN = 0.25
"""The share of all rollouts from which on a user should know about a fault."""


def remarks(steps: Sequence[Step]) -> Iterator[str]:
    """Sentences about what kept the student of a training from learning, as far as the steps show it."""
    rollouts = [step for step in steps if isinstance(step, PolicyStep)]
    if not rollouts:
        return

    def share(name: str) -> float:
        return sum(getattr(step, name) for step in rollouts) / len(rollouts)

    if (cut := share("truncated")) >= _OFTEN:
        yield (
            f"{cut:.0%} of the rollouts were cut off by a token limit, and a cut-off rollout earns nothing: raise "
            "rollout.tokens_per_turn and rollout.completion_tokens, unless the student repeats itself"
        )
    if (unread := share("malformed")) >= _OFTEN:
        yield f"{unread:.0%} of the rollouts ended with a call that cannot be read"
    if share("calls") == 0:
        yield "no rollout called a tool: train the student with sft first, then continue with from_run"
    elif share("accuracy") == 0:
        yield "no rollout was right: train the student with sft first, then continue with from_run"


def read_steps(path: Path) -> tuple[Step, ...]:
    """The steps in a metrics.jsonl: `PolicyStep`s if they have rewards, else `SupervisedStep`s.

    Raises: RunError when the file is missing or damaged.
    """
    again = "copy the whole directory of the run again, or fit again"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return tuple((PolicyStep if "reward" in row else SupervisedStep).model_validate(row) for row in rows)
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing", again) from error
    except pydantic.ValidationError as error:
        raise RunError(f"{path} is damaged: {first_problem(error)}", again) from error
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path} is damaged: {str(error).splitlines()[0]}", again) from error
